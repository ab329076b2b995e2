"""Attention as batched products: what torch's own attention computes, whatever the tiles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from corpora import GOLDENS
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.card import open_card
from pipeline.encoder.model import attention, batched_attention
from pipeline.encoder.model.attention import GroupedAttention, PositionBias, group_equal_lengths
from pipeline.encoder.model.batched_attention import attend_in_products, of_each_head


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("logits", [1, 1000, 10_000_000])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (6, 2), (3, 1)])
@pytest.mark.parametrize("masks", [0, 1, None])
def test_products_compute_what_torchs_attention_does(
    logits: int, heads: int, kv_heads: int, masks: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_attention, "MAX_LOGITS", logits)
    # As an encoder has them: heads lie beside each other in memory.
    q, k, v = (
        _random(4, length, count, 16).transpose(1, 2)
        for length, count in ((9, heads), (13, kv_heads), (13, kv_heads))
    )
    mask = None if masks is None else _random(1, masks or heads, 9, 13)
    expected = functional.scaled_dot_product_attention(
        q, k, v, mask, scale=0.3, enable_gqa=heads != kv_heads
    )
    k, v = (of_each_head(x, heads) for x in (k, v))
    torch.testing.assert_close(attend_in_products(q, k, v, mask, 0.3), expected)


@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("window", [None, 60])
def test_keys_and_values_of_a_long_text_are_laid_out_once_for_all_tiles(
    kv_heads: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[int] = set()

    def watched(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        for x in (k, v):
            assert x.flatten(0, 1).data_ptr() == x.data_ptr()  # no copy
            read.add(x.untyped_storage().data_ptr())
        return attend_in_products(q, k, v, *rest)

    monkeypatch.setattr(attention, "attend_in_products", watched)
    monkeypatch.setattr(attention, "MAX_LOGITS", 200)
    config = replace(open_card(str(GOLDENS / "bert_mean")).config, heads=6, kv_heads=kv_heads)
    q, k, v = (_random(600, n, 16).bfloat16() for n in (6, kv_heads, kv_heads))
    GroupedAttention(config, group_equal_lengths([0, 300, 600]), None)(q, k, v, window)
    assert len(read) == 2


@pytest.mark.parametrize("entries", [200, 512 * 1024])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 5, 60])
@pytest.mark.parametrize("biased", [False, True])
def test_its_tiles_see_the_same_tokens(
    entries: int, causal: bool, window: int | None, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MAX_LOGITS", entries)
    monkeypatch.setattr(attention, "_LEAST_ROWS", 7)
    encoder = open_card(str(GOLDENS / "bert_mean")).config
    assert isinstance(encoder, EncoderConfig)
    config = replace(encoder, causal=causal, alibi=biased)
    bias = PositionBias(config, None, torch.device("cpu")) if biased else None
    groups = group_equal_lengths([0, 1, 2, 40, 78, 100, 400])
    heads = [_random(400, config.heads, config.head_dim) * 2 for _ in range(3)]

    def attend() -> Tensor:
        return GroupedAttention(config, groups, bias)(heads[0], heads[1], heads[2], window)

    expected = attend()
    # In float32, so that a token too many or too few is seen.
    monkeypatch.setattr(attention, "_pays_in_products", lambda x: True)
    torch.testing.assert_close(attend(), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_on_a_cpu_is_computed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    config = open_card(str(GOLDENS / "bert_mean")).config
    groups = group_equal_lengths([0, 40])
    called = []
    monkeypatch.setattr(
        attention, "attend_in_products", lambda q, *rest: called.append(q.dtype) or q
    )
    for dtype in (torch.float32, torch.bfloat16):
        x = _random(40, config.heads, config.head_dim).to(dtype)
        GroupedAttention(config, groups, None)(x, x, x, None)
    assert called == [torch.bfloat16]

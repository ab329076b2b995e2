"""nomic-embed-text-v2-moe against a plain per-token reading of the published code, in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import torch
from fixtures_encoder import open_engine, recognised
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.errors import CheckpointError

Compute = Callable[..., list[Any]]
Make = Callable[[int, int], list[list[int]]]


@pytest.fixture
def nomic(tmp_path: Path, cache: Path) -> Callable[..., Checkpoint]:
    """The layout with a config that is changed."""

    def write(**changes: Any) -> Checkpoint:
        folder = layouts.nomic_moe(tmp_path / f"nomic-{len(list(tmp_path.iterdir()))}", **changes)
        return resolve(str(folder), cache_dir=cache)

    return write


def plain(folder: Path, ids: list[int]) -> Tensor:
    """The vector of one text, token by token and expert by expert: unit length, [E] float64."""
    config = json.loads((folder / "config.json").read_text())
    weights = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, scale.shape, scale, shift, config["layer_norm_epsilon"])

    def feed(x: Tensor, name: str) -> Tensor:
        if f"{name}.router.layer.weight" not in weights:
            return linear(functional.gelu(linear(x, f"{name}.fc1")), f"{name}.fc2")
        w1, w2 = (
            weights[f"{name}.experts.mlp.{w}"].view(config["num_experts"], config["n_inner"], -1)
            for w in ("w1", "w2")
        )
        scores = torch.softmax(weights[f"{name}.router.layer.weight"] @ x, dim=0)
        out = weights[f"{name}.experts.bias"].clone()
        for expert in scores.argsort(descending=True)[: config["moe_top_k"]]:
            out += scores[expert] * (functional.gelu(w1[expert] @ x) @ w2[expert])
        return out

    hidden = weights["embeddings.word_embeddings.weight"][ids]
    hidden = norm(hidden + weights["embeddings.token_type_embeddings.weight"][0], "emb_ln")
    heads, length = config["n_head"], len(ids)
    for i in range(config["n_layer"]):
        layer = f"encoder.layers.{i}"
        packed = linear(hidden, f"{layer}.attn.Wqkv").view(length, 3, heads, -1)
        query, key = (_turn(packed[:, j], config["rotary_emb_base"]) for j in (0, 1))
        logits = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
        mixed = torch.einsum("hqk,khd->qhd", logits.softmax(-1), packed[:, 2])
        mixed = linear(mixed.reshape(length, -1), f"{layer}.attn.out_proj")
        hidden = norm(hidden + mixed, f"{layer}.norm1")
        fed = torch.stack([feed(token, f"{layer}.mlp") for token in hidden])
        hidden = norm(hidden + fed, f"{layer}.norm2")
    return functional.normalize(hidden.mean(0), dim=0)


def _turn(x: Tensor, base: float) -> Tensor:
    """Rotary positions of [L, H, D]."""
    size = x.shape[-1]
    frequency = base ** (-torch.arange(0, size, 2).double() / size)
    angle = (torch.arange(x.shape[0])[:, None] * frequency)[:, None]
    first, second = x.chunk(2, dim=-1)
    turned = first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()
    return torch.cat(turned, dim=-1)


@pytest.mark.parametrize(
    "changes", [{}, {"moe_every_n_layers": 3, "n_layer": 5, "moe_top_k": 3, "num_experts": 5}]
)
def test_the_values_are_those_of_the_published_code(
    changes: dict[str, Any], nomic: Callable[..., Checkpoint], compute: Compute, sentences: Make
) -> None:
    checkpoint = nomic(**changes)
    texts = [*sentences(12, 60), [7]]
    expected = [plain(checkpoint.path, text).numpy() for text in texts]
    got = compute(open_engine(checkpoint), texts)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_experts_read_one_token_alone(
    nomic: Callable[..., Checkpoint], compute: Compute, sentences: Make
) -> None:
    engine, texts = open_engine(nomic()), sentences(51, 90)
    alone = compute(engine, texts, token_budget=1)
    for order in (slice(None), slice(None, None, -1)):
        together = compute(engine, texts[order], token_budget=100_000)[order]
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.99), ("float16", 0.9995)])
def test_sixteen_bits_come_close_to_float32(
    precision: str,
    least: float,
    nomic: Callable[..., Checkpoint],
    compute: Compute,
    sentences: Make,
) -> None:
    checkpoint, texts = nomic(), sentences(20, 40)
    exact = np.stack(compute(open_engine(checkpoint), texts))
    short = np.stack(compute(open_engine(checkpoint, precision=precision), texts))
    assert (exact * short).sum(1).min() > least


def test_integers_multiply_in_the_experts_too(
    nomic: Callable[..., Checkpoint], compute: Compute, sentences: Make
) -> None:
    checkpoint, texts = nomic(), sentences(20, 40)
    exact = np.stack(compute(open_engine(checkpoint), texts))
    short = np.stack(compute(open_engine(checkpoint, precision="int8"), texts))
    cosines = (exact * short).sum(1)
    assert cosines.min() > 0.9
    assert not np.array_equal(exact, short)


def test_no_layer_norm_comes_before_fewer_dimensions(
    nomic: Callable[..., Checkpoint], compute: Compute, sentences: Make
) -> None:
    # Unlike version 1.5, whose model card asks for it.
    checkpoint, texts = nomic(), sentences(3, 20)
    full = np.stack(compute(open_engine(checkpoint, normalize=False), texts))[:, :8]
    cut = np.stack(compute(open_engine(checkpoint, dimensions=8), texts))
    unit = full / np.linalg.norm(full, axis=1, keepdims=True)
    np.testing.assert_allclose(cut, unit, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights = True"),
        ({"expert_choice_router": True}, "expert_choice_router = True"),
        ({"num_shared_experts": 1}, "num_shared_experts = 1"),
        ({"moe_top_k": 9}, "moe_top_k is 9, more than the 8 experts"),
        ({"activation_function": "swiglu", "qkv_proj_bias": False, "mlp_fc1_bias": False,
          "mlp_fc2_bias": False}, "its experts have a gate"),
    ],
)  # fmt: skip
def test_a_setting_that_no_published_model_has_is_refused_by_name(
    changes: dict[str, Any], named: str, nomic: Callable[..., Checkpoint]
) -> None:
    with pytest.raises(CheckpointError, match=named):
        recognised(nomic(**changes))


def test_experts_of_another_number_or_shape_are_refused(nomic: Callable[..., Checkpoint]) -> None:
    checkpoint = nomic()
    file = checkpoint.path / "model.safetensors"
    tensors = load_file(file)
    name = "encoder.layers.1.mlp.experts.mlp.w1"
    tensors[name] = tensors[name][:-64].contiguous()
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"w1 \[448, 32\] where \[512, 32\] is expected"):
        recognised(checkpoint)

"""CUDA graphs on a GPU: the rows of the plain way, whatever ran before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.cuda_graphs import CudaGraphs
from pipeline.encoder.model import varlen_kernels
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.packing import Batch, gather

NAMES = sorted(p.name for p in GOLDENS.iterdir() if p.is_dir())

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

Golden = Callable[[str], Checkpoint]
Make = Callable[[int, int], list[list[int]]]


def _batches(sentences: Make, count: int) -> list[Batch]:
    """Batches of several shapes, most of them more than once."""
    made = []
    for i in range(count):
        texts = sentences(8 + i % 3, (30, 60, 120)[i % 3])
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64)
        flat = np.array([(token + i) % 395 + 5 for text in texts for token in text], np.int32)
        made.append(gather(flat, offsets, np.arange(len(texts))))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_graphs_give_the_rows_of_plain_launches(name: str, golden: Golden, sentences: Make) -> None:
    checkpoint = golden(name)
    plain = open_engine(checkpoint, device="cuda")
    plain.graphs = None
    engine = open_engine(checkpoint, device="cuda")
    batches = _batches(sentences, 24)
    expected = [rows for _, rows in plain.run(batches)]
    # All at once: copies to the host overlap the replays that follow.
    replayed = [rows for _, rows in engine.run(batches)]
    if engine.graphs is not None:
        assert engine.graphs.captured
    for rows, launched in zip(replayed, expected, strict=True):
        # Rounding of 16 bits, in units of logits that go beyond 20.
        atol = 4e-3 * max(1, abs(launched).max())
        np.testing.assert_allclose(rows, launched, rtol=4e-3, atol=atol)


def test_a_graph_gives_the_same_bits_again(golden: Golden, sentences: Make) -> None:
    engine = open_engine(golden("bert_mean"), device="cuda")
    batches = _batches(sentences, 6)
    list(engine.run(batches))
    list(engine.run(batches))
    first, second = ([rows for _, rows in engine.run(batches)] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_out_of_memory_in_a_graph_halves_the_batch_and_goes_on(
    golden: Golden, sentences: Make
) -> None:
    engine = open_engine(golden("bert_mean"), device="cuda")
    batches = _batches(sentences, 3) * 3
    expected = [rows for _, rows in engine.run(batches)]
    small = open_engine(golden("bert_mean"), device="cuda")
    assert small.graphs is not None
    room = 400  # tokens

    def short_of_memory(packed: PackedBatch) -> torch.Tensor:
        if packed.ids.shape[0] > room:
            raise torch.OutOfMemoryError("no memory left")
        return small.outputs(packed)

    small.graphs = CudaGraphs(
        short_of_memory, torch.device("cuda"), per_token=False, limit=small.config.max_length
    )
    halved = [rows for _, rows in small.run(batches)]
    for rows, whole in zip(halved, expected, strict=True):
        np.testing.assert_allclose(rows, whole, rtol=0, atol=4e-3)
    assert small.halving.token_limit is not None


@pytest.mark.parametrize("name", ["bert_mean", "gte_qwen2", "qwen3_causal_last"])
def test_every_kernel_that_is_offered_is_right_or_refused(name: str, golden: Golden) -> None:
    config = open_engine(golden(name)).config
    device = torch.device("cuda")
    dtype = getattr(torch, config.half)
    chosen = varlen_kernels.choose_kernel(config, device, dtype)
    inputs = varlen_kernels.trial_batch(config, device, dtype)
    assert varlen_kernels.is_correct(chosen(*inputs), varlen_kernels.reference(*inputs))

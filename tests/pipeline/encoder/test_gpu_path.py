"""The 16-bit path of a GPU on a CPU: the same code, with the stand-ins of `fixtures_gpu`.

`tests/gpu` runs the real ones.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import open_engine
from fixtures_gpu import HalfLinear, recorded
from torch import Tensor
from torch.nn import functional

from pipeline.encoder import cuda_graphs
from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.device import graph_capture
from pipeline.encoder.device.out_of_memory import is_out_of_memory
from pipeline.encoder.model import attention
from pipeline.encoder.model.attention import shares_heads
from pipeline.encoder.model.packed_batch import HostBatch, PackedBatch, pack_batch
from pipeline.packing import Batch, gather

NAMES = sorted(p.name for p in GOLDENS.iterdir() if p.is_dir())
BIASED = ("mpnet_mean", "mpnet_cls_dot", "jina_en", "jina_es", "jina_code")
# Least cosine of a golden's random weights in 16 bits: bfloat16 has three digits, and some goldens
# have outputs far beyond 1.
LEAST = {"float16": 0.9995, "bfloat16": 0.99}
LEAST_OF_LARGE = {"float16": 0.9995, "bfloat16": 0.97}
LARGE = ("ner_bert", "ner_roberta", "gte_new_ntk")

Golden = Callable[[str], Checkpoint]


def _batches(count: int, types: bool) -> list[Batch]:
    """Batches of several shapes, most of them more than once."""
    rng = np.random.default_rng(7)
    made = []
    for i in range(count):
        lengths = rng.integers(3, (30, 60, 120, 180)[i % 4] + 1, 8 + i % 3)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = rng.integers(5, 400, offsets[-1]).astype(np.int32)
        kinds = rng.integers(0, 2, offsets[-1]).astype(np.int8) if types else None
        made.append(gather(ids, offsets, np.arange(len(lengths)), kinds))
    return made


def _matrix(results: list[Any]) -> Any:
    return np.concatenate([rows.reshape(rows.shape[0], -1) for _, rows in results])


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("gpu")
def test_every_layout_goes_the_way_of_a_gpu(name: str, precision: str, golden: Golden) -> None:
    checkpoint = golden(name)
    exact = open_engine(checkpoint)
    if precision == "float16" and exact.config.float16_overflows:
        pytest.skip("overflows in float16, and is refused")
    engine = open_engine(checkpoint, precision=precision)
    work = _batches(12, types=name in ("bert_mean", "ner_bert"))
    expected, found = _matrix(list(exact.run(work))), _matrix(list(engine.run(work)))
    assert np.isfinite(found).all()
    if name in BIASED:
        assert engine.graphs is None  # no variable-length kernel takes a bias
    else:
        assert engine.graphs is not None
        assert engine.graphs.captured
    if found.shape[1] > 1:
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        least = (LEAST_OF_LARGE if name in LARGE else LEAST)[precision]
        assert ((found * expected).sum(axis=1) / norms).min() >= least
    else:
        assert np.abs(found - expected).max() <= (0.03 if precision == "float16" else 0.2)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("write", "captured"), [(layouts.nomic_moe, False), (layouts.mistral, True)]
)
@pytest.mark.usefixtures("gpu")
def test_experts_wait_for_the_device_so_no_graph_holds_them(
    write: Callable[[Path], Path], captured: bool, precision: str, tmp_path: Path, cache: Path
) -> None:
    checkpoint = resolve(str(write(tmp_path / "model")), cache_dir=cache)
    engine, work = open_engine(checkpoint, precision=precision), _batches(12, types=False)
    found = _matrix(list(engine.run(work)))
    expected = _matrix(list(open_engine(checkpoint).run(work)))
    assert ((found * expected).sum(axis=1)).min() >= LEAST[precision]
    assert (engine.graphs is not None and bool(engine.graphs.captured)) == captured


@pytest.mark.usefixtures("gpu")
def test_a_row_has_the_bits_that_it_had_before_its_shape_was_captured(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HalfLinear, "replaying", property(lambda self: False))
    engine = open_engine(golden("arctic_gte"), precision="float16")
    work = _batches(4, types=False)
    first, second, third = (_matrix(list(engine.run(work))) for _ in range(3))
    assert len(engine.graphs.captured) == 4
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(second, third)


@pytest.mark.usefixtures("gpu")
def test_what_cannot_be_captured_is_launched_plainly_and_not_tried_again(
    golden: Golden, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def refuse(*_: Any) -> Any:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = open_engine(golden("bert_mean"), precision="float16")
    work = _batches(8, types=False)
    expected = _matrix(list(engine.run(work)))
    monkeypatch.setattr(cuda_graphs, "capture", refuse)
    engine = open_engine(golden("bert_mean"), precision="float16")
    with caplog.at_level(logging.WARNING):
        found = _matrix(list(engine.run(work)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    assert len(tried) == 1
    assert "no CUDA graphs" in caplog.text


@pytest.mark.usefixtures("gpu")
def test_a_capture_that_runs_out_of_memory_halves_the_batch(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def short(work: Callable[[], Tensor], stream: Any, pool: Any) -> Any:
        tried.append(1)
        if len(tried) > 1:
            return recorded(work, stream, pool)
        # What torch says when the end of a capture fails after the allocation that did.
        try:
            raise torch.OutOfMemoryError("no memory left")
        except torch.OutOfMemoryError:
            raise RuntimeError("the capture was invalidated")  # noqa: B904

    engine = open_engine(golden("bert_mean"), precision="float16")
    work = _batches(1, types=False) * 3
    expected = _matrix(list(engine.run(work)))
    monkeypatch.setattr(cuda_graphs, "capture", short)
    small = open_engine(golden("bert_mean"), precision="float16")
    found = _matrix(list(small.run(work)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    assert small.halving.token_limit == work[0].tokens // 2


def test_no_key_heads_are_shared_where_a_gpu_would_make_all_logits(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    capability = {"of the device": (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability["of the device"])

    def on_a_gpu(dtype: torch.dtype, mask: Tensor | None = None, width: int = 64) -> bool:
        query: Any = SimpleNamespace(device=torch.device("cuda"), dtype=dtype, shape=(width,))
        return shares_heads(query, mask)

    assert shares_heads(torch.zeros(1), None)  # a CPU makes no logits of a whole text
    assert on_a_gpu(torch.bfloat16)
    assert not on_a_gpu(torch.bfloat16, torch.zeros(1))
    assert not on_a_gpu(torch.bfloat16, width=512)
    assert not on_a_gpu(torch.float32)
    capability["of the device"] = (7, 5)
    assert not on_a_gpu(torch.float16)

    engine = open_engine(golden("qwen3_causal_last"))
    assert engine.config.kv_heads < engine.config.heads
    work, asked = _batches(4, types=False), list[tuple[int, int, bool]]()
    attend = functional.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, *rest: Any, enable_gqa: bool, **options: Any) -> Tensor:
        asked.append((query.shape[1], key.shape[1], enable_gqa))
        return attend(query, key, *rest, enable_gqa=enable_gqa, **options)

    expected = _matrix(list(engine.run(work)))
    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(attention, "shares_heads", lambda q, mask: on_a_gpu(q.dtype, mask))
    found = _matrix(list(engine.run(work)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert {*asked} == {(4, 4, False)}


def test_memory_is_seen_behind_the_error_that_it_caused() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


class Cuda:
    """What `capture` asks of torch.cuda, with a note of each call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, end_fails: bool = False) -> None:
        self.calls: list[Any] = []
        self.current = "cuda:0"
        self._end_fails = end_fails
        for name in ("Stream", "stream", "current_stream", "empty_cache", "CUDAGraph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(
                torch._C, name, lambda *a, name=name: self.calls.append((name, *a)), raising=False
            )

    def Stream(self, device: Any) -> Any:  # noqa: N802
        return SimpleNamespace(
            device=torch.device(device), wait_stream=lambda other: None, synchronize=lambda: None
        )

    def current_stream(self, device: Any) -> Any:
        return self.Stream(device)

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, str(stream.device)
        yield
        self.current = before

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")

    def CUDAGraph(self) -> Any:  # noqa: N802
        def begin(**options: Any) -> None:
            self.calls.append(("begin", self.current))

        def end() -> None:
            self.calls.append("end")
            if self._end_fails:
                raise RuntimeError("capture invalidated")

        return SimpleNamespace(
            capture_begin=begin, capture_end=end, reset=lambda: self.calls.append("reset")
        )


def test_a_capture_is_made_on_its_own_device_whichever_is_current(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch)
    seen: list[str] = []
    device = torch.device("cuda", 1)

    def work() -> Tensor:
        seen.append(cuda.current)
        return torch.zeros(1)

    graph_capture.capture(work, cuda.Stream(device), None)
    assert seen == ["cuda:1"] * 3  # two warm-ups and the recording
    assert ("begin", "cuda:1") in cuda.calls
    assert cuda.current == "cuda:0"


@pytest.mark.parametrize("end_fails", [False, True])
def test_a_failed_capture_leaves_the_stream_and_the_allocator_as_they_were(
    end_fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(monkeypatch, end_fails=end_fails)
    runs: list[int] = []

    def work() -> Tensor:
        runs.append(1)
        if len(runs) == 3:
            raise torch.OutOfMemoryError("no memory left")
        return torch.zeros(1)

    with pytest.raises(torch.OutOfMemoryError):
        graph_capture.capture(work, cuda.Stream(torch.device("cuda", 1)), (0, 7))
    after = cuda.calls[cuda.calls.index(("begin", "cuda:1")) + 1 :]
    if end_fails:
        names = ("_cuda_endAllocateToPool", "_cuda_releasePool")
        assert after == ["end", *((name, 1, (0, 7)) for name in names)]
    else:
        assert after == ["end", "reset"]


def test_graphs_of_a_second_gpu_are_captured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    second, cpu = torch.device("cuda", 1), torch.device("cpu")
    streams: list[Any] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: streams.append(device) or "stream")
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    targets: list[Any] = []

    def on_the_cpu(batch: HostBatch, device: torch.device) -> PackedBatch:
        targets.append(device)
        return pack_batch(batch, cpu)

    monkeypatch.setattr(cuda_graphs, "pack_batch", on_the_cpu)
    captures: list[Any] = []

    def note(work: Any, stream: Any, pool: Any) -> tuple[Any, Tensor]:
        captures.append((stream, pool))
        return SimpleNamespace(replay=lambda: None), torch.zeros(64)

    monkeypatch.setattr(cuda_graphs, "capture", note)
    graphs = cuda_graphs.CudaGraphs(lambda _: torch.zeros(64), second, per_token=False, limit=None)
    short, long = _batches(2, types=False)
    for batch in (short, long, short, long):  # a shape is captured on its second batch
        graphs.run(batch)
    assert len(graphs.captured) == 2
    computed = 2 * sum(shape.tokens for shape in graphs.captured)
    assert graphs.padding_tokens == computed - 2 * (short.tokens + long.tokens) > 0
    assert streams == [second]  # one stream for all: each has a workspace of its own
    assert captures == [("stream", "pool")] * 2
    assert set(targets) == {second}

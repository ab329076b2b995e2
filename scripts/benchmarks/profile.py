"""Where the time of a forward pass goes, by kind of operator: what to make faster next.

One batch of equal lengths, as the engine computes it, under torch's profiler: self time of
operators on a CPU (one thread: the engine gives a batch to each core), of kernels on a GPU
(launched one by one: a graph hides what is in it). `other` on a CPU is whatever no operator did:
Python, and the compiled passes of int8.

Two shares of the machine's matrix rate, in the engine's own precision: of the whole forward pass
(timed without the profiler, attention counted), and of its products alone. All products of the
model are counted, even those that a last layer leaves out.

On a GPU each model has two rows, without fused kernels and with those that the trial chose when it
was loaded; what the trial measured of each is below the table.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import EXAMPLES, Work, header, matrix_rate, read_texts, table, timed
from benchmarks.models import MODELS
from benchmarks.shapes import SHAPES, checkpoint_of
from pipeline.encoder.card import open_card
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.heads import SentenceHead
from pipeline.encoder.model.kernels import PLAIN
from pipeline.encoder.model.load import HeadOptions
from pipeline.packing import Batch, gather
from pipeline.planning.make_spec import sample_spec
from pipeline.tasks import task_of

# Kind → what its operators (CPU) and kernels (CUDA) are called; the first that fits.
_KINDS = {
    "attention": r"attention|flash|fmha|softmax|bmm|baddbmm",
    "products": r"linear_pointwise|addmm|aten::mm|_int_mm|gemm|cutlass|nvjet|xmma|cublas",
    "norms": r"fused_norm|layer_norm|rms_norm|LayerNorm|RMSNorm|RowwiseMoments",
    "activations": r"fused_gate|gelu|silu|GeluCUDA|silu_kernel",
    "pooling and gathering": r"fused_pool|index|embedding|segment_reduce|gather|scatter|"
    r"repeat_interleave",
    "sums and products by element": r"fused_rotate|add|mul|sub|div|elementwise",
    "copies": r"copy|Memcpy|cat|clone|contiguous",
}
_RUNS = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench profile`."""
    cuda = torch.cuda.is_available()
    parser.add_argument("--shapes", default=",".join(MODELS))
    parser.add_argument("--model", help="a real checkpoint in place of the shapes")
    parser.add_argument("--length", type=int, default=96, help="tokens of every text")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--precision", default="auto" if cuda else "float32,bfloat16,int8",
                        help="comma-separated")  # fmt: skip


def run(options: argparse.Namespace, command: str) -> str:
    """Profile each shape in each precision and return the table."""
    torch.set_num_threads(1)
    rows, trials = [], []
    for shape in [options.model] if options.model else options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            source = read_texts(EXAMPLES, 3000)
            path = checkpoint_of(shape, Path(folder), source, options.device)
            for precision in options.precision.split(","):
                engine = _engine(path, options.device, precision)
                name = shape if shape in SHAPES else path.name
                choice = engine.choices.get("fused-kernels")
                if choice is not None:
                    trials.append(f"{name}, {engine.precision}: {choice.value}; {choice.reason}")
                    with _in_torch(engine):
                        rows.append([f"{name}, none fused", *_profile(engine, options)])
                rows.append([name, *_profile(engine, options)])
    columns = [
        "model", "precision", "tokens/s", "of matrix rate", "products, of matrix rate",
        *_KINDS, "other",
    ]  # fmt: skip
    return "\n\n".join([header(command, options.device), table(columns, rows), *trials])


def _engine(path: Path, device: str, precision: str) -> Engine:
    """What a job of the model's own task would load."""
    card = open_card(str(path))
    spec = sample_spec(card, task_of(card).name, precision=precision, max_length=None)
    return Engine(card, HeadOptions(vectors=spec.vectors), device=device, precision=precision)


@contextmanager
def _in_torch(engine: Engine) -> Iterator[None]:
    """Without the kernels that the trial chose."""
    forward, head = engine.forward, engine.head
    chosen, forward.kernels = forward.kernels, PLAIN
    if isinstance(head, SentenceHead):
        head.pooled = PLAIN.pooled
    yield
    forward.kernels = chosen
    if isinstance(head, SentenceHead):
        head.pooled = chosen.pooled


def _profile(engine: Engine, options: argparse.Namespace) -> list[object]:
    engine.graphs = None
    batch = _batch(engine, options.length)

    def forward() -> None:
        list(engine.run([batch]))

    forward()  # warms up
    kinds = [ProfilerActivity.CPU]
    if options.device.startswith("cuda"):
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as found:
        profiled = sum(timed(forward, options.device) for _ in range(_RUNS))
    times = _by_kind(found.key_averages(), options.device)
    if options.device == "cpu":
        times["other"] = profiled - sum(times[kind] for kind in _KINDS)
    total = sum(times.values())
    rate = matrix_rate(options.device, engine.precision)
    seconds = min(timed(forward, options.device) for _ in range(_RUNS))
    rate = max(rate, matrix_rate(options.device, engine.precision))  # in the same minute
    work = Work.of(np.diff(batch.cu_seqlens), engine.config)
    in_products = Work.of(np.ones(batch.tokens), engine.config).flop
    reached = [work.flop / seconds, in_products * _RUNS / times["products"]]
    shares = [f"{100 * times[kind] / total:.1f} %" for kind in (*_KINDS, "other")]
    return [
        engine.precision, work.tokens / seconds, *(f"{100 * r / rate:.0f} %" for r in reached),
        *shares,
    ]  # fmt: skip


def _batch(engine: Engine, length: int) -> Batch:
    count = max(1, engine.token_budget // length)
    ids = np.random.default_rng(0).integers(5, 20_000, count * length).astype(np.int32)
    offsets = np.arange(count + 1, dtype=np.int64) * length
    return gather(ids, offsets, np.arange(count))


def _by_kind(events: Any, device: str) -> dict[str, float]:
    """Seconds by kind."""
    times: dict[str, float] = defaultdict(float)
    for event in events:
        on_gpu = device.startswith("cuda")
        if on_gpu and event.device_type.name != "CUDA":
            continue
        seconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        names = (kind for kind, words in _KINDS.items() if re.search(words, event.key))
        times[next(names, "other")] += seconds
    return times

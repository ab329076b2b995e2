"""Texts to vectors: model shape × lengths × engine, all in one run, taking turns.

Every engine tokenizes the same texts with the same tokenizer and loads the same directory; the
least cosine of its vectors with those of the first engine (sentence-transformers at its defaults,
unless --peers leaves it out) says whether they did the same work. "tokenized" rows leave out
tokenizing: the forward pass alone.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import (
    EXAMPLES,
    Work,
    header,
    matrix_parameters,
    matrix_rate,
    peak_memory_mib,
    ratio,
    read_texts,
    repeated,
    reset_peak_memory,
    table,
    timed,
)  # fmt: skip
from benchmarks.peers import Ours, SentenceTransformers, peers
from benchmarks.shapes import ENCODERS, SHAPES, checkpoint_of, texts_of_length
from pipeline.encoder.architecture.encoder_config import EncoderConfig

_COLUMNS = ["model", "lengths", "engine", "rows/s", "tokens/s", "TFLOP/s", "of matrix rate",
            "padding", "peak MiB", "x peer", "min cosine"]  # fmt: skip

# Of one call on a GPU; sentence-transformers at its defaults computes in float32, a tenth as fast.
_CASE_FLOP = 1e14
_LEAST_TOKENS, _MOST_TOKENS = 65_536, 2_000_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench encode`."""
    cuda = torch.cuda.is_available()
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--shapes", default=",".join(ENCODERS) if cuda else "MiniLM-L6")
    parser.add_argument("--model", help="a real checkpoint in place of the shapes")
    parser.add_argument("--lengths", default="texts,32,128,512" + (",8192" if cuda else ""))
    parser.add_argument("--tokens", type=int, default=None if cuda else 60_000,
                        help="of each case; default on a GPU: by the model's size")  # fmt: skip
    parser.add_argument("--token-budget", type=int, help="of a batch, ours; default: by device")
    parser.add_argument("--max-length", type=int, default=512, help="cut --texts here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--precision", default="auto", help="ours, comma-separated")
    parser.add_argument("--peers", default="all", help="all, none, or words in their names")


@dataclass
class _Contender:
    """An engine with its times, memory and vectors of one case."""

    call: Callable[[list[str]], np.ndarray]
    dtype: str
    padding: str = "0 %"
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    cosine: float = 1.0


def run(options: argparse.Namespace, command: str) -> str:
    """Measure every case and return the table."""
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as name:
        for shape in [options.model] if options.model else options.shapes.split(","):
            for case in _shape(shape, Path(name), options):
                print(table(_COLUMNS, case), file=sys.stderr, flush=True)  # a cut run has these
                rows += case
    notes = (
        "medians of interleaved repeats; tokens/s counts real tokens; matrix rate: measured in "
        "turn with the runs, in the engine's precision; x peer: against the first engine of its "
        "case; peak MiB: above what the loaded models hold"
    )
    return f"{header(command, options.device)}\n\n{table(_COLUMNS, rows)}\n\n{notes}"


def _shape(shape: str, folder: Path, options: argparse.Namespace) -> Iterator[list[list[object]]]:
    """The rows of each case of a model."""
    source = read_texts(options.texts, 50_000)
    path = checkpoint_of(shape, folder, source, options.device)
    for lengths in options.lengths.split(","):
        limit = options.max_length if lengths == "texts" else int(lengths)
        if shape not in SHAPES or limit <= SHAPES[shape][3]:
            yield _case(shape, path, lengths, limit, source, options)
            gc.collect()
    if shape in SHAPES:
        shutil.rmtree(path)  # 15 GB of a large one


def _case(
    shape: str, path: Path, lengths: str, limit: int, source: list[str], options: argparse.Namespace
) -> list[list[object]]:
    ours = {
        p: Ours(path, options.device, p, limit, options.token_budget)
        for p in options.precision.split(",")
    }
    first = next(iter(ours.values()))
    texts = _texts(first, lengths, source, options.tokens or _tokens(first.engine.config))
    sizes = first.lengths(texts)
    work = Work.of(sizes, first.engine.config)
    contenders: dict[str, _Contender] = {}
    for name, make in peers(path, options.device, limit, first.engine.config.half, texts):
        if options.peers != "all" and not any(w in name for w in options.peers.split(",")):
            continue
        peer = make()
        dtype = str(peer.model.dtype).removeprefix("torch.") if "O" not in name else "float32"
        peer.count_padding()
        contenders[name] = _Contender(peer, dtype)
    for engine in ours.values():
        name = f"bei-jobs {engine.engine.precision}"
        contenders[name] = _Contender(engine, engine.engine.precision)
        contenders[f"{name}, tokenized"] = _Contender(
            engine.tokenized(texts), engine.engine.precision
        )
    rates = _measure(contenders, texts, options)
    base = next(iter(contenders.values())).seconds
    return [
        _row([shape.rpartition("/")[2], lengths, name], c, work, rates[c.dtype], base)
        for name, c in contenders.items()
    ]


def _tokens(config: EncoderConfig) -> int:
    """Tokens that a fast GPU computes in some tenths of a second, a few batches at least."""
    by_cost = int(_CASE_FLOP / (2 * matrix_parameters(config)))
    return max(_LEAST_TOKENS, min(_MOST_TOKENS, by_cost))


def _texts(ours: Ours, lengths: str, source: list[str], tokens: int) -> list[str]:
    """About so many tokens of text."""
    if lengths != "texts":
        return texts_of_length(ours.tokenizer, int(lengths), max(1, tokens // int(lengths)))
    mean = float(ours.lengths(source[::50]).mean())
    wanted = max(1, int(tokens / mean))
    step = max(1, len(source) // wanted)
    return repeated(source[::step], wanted)


def _measure(
    contenders: dict[str, _Contender], texts: list[str], options: argparse.Namespace
) -> dict[str, float]:
    """Run everything in turns; returns the matrix rate, FLOP/s, of each precision."""
    expected: np.ndarray | None = None
    for contender in contenders.values():
        vectors = contender.call(texts)  # warms up, too
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        expected = unit if expected is None else expected
        contender.cosine = float((unit * expected).sum(1).min())
        if isinstance(contender.call, SentenceTransformers):
            contender.padding = contender.call.padding
    rates: dict[str, list[float]] = {c.dtype: [] for c in contenders.values()}
    for turn in range(options.repeats):
        order = list(contenders.values())
        for contender in order if turn % 2 == 0 else reversed(order):
            reset_peak_memory(options.device)
            held = peak_memory_mib(options.device)
            contender.seconds.append(timed(lambda c=contender: c.call(texts), options.device))
            contender.peak = max(contender.peak, peak_memory_mib(options.device) - held)
        for dtype, found in rates.items():
            found.append(matrix_rate(options.device, _matrix_dtype(dtype)))
    return {dtype: statistics.median(found) for dtype, found in rates.items()}


def _matrix_dtype(precision: str) -> torch.dtype:
    # int8 is held against float32's rate, so that its share can pass 100 %.
    return torch.float32 if precision == "int8" else getattr(torch, precision)


def _row(
    words: list[object], contender: _Contender, work: Work, rate: float, base: list[float]
) -> list[object]:
    median = statistics.median(contender.seconds)
    speed = work.flop / median
    return [
        *words, work.rows / median, work.tokens / median, speed / 1e12,
        f"{100 * speed / rate:.0f} %", contender.padding, contender.peak,
        ratio(base, contender.seconds), f"{contender.cosine:.5f}",
    ]  # fmt: skip

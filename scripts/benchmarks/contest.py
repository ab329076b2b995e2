"""Engines on the same texts, in turn: what `scripts/bench encode` and `models` measure."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.common import (
    Work,
    matrix_rate,
    peak_memory_mib,
    ratio,
    reset_peak_memory,
    table,
    timed,
)
from benchmarks.ours import Ours
from benchmarks.peers import Case, Peer, Runner, library, library_name, open_peers
from pipeline.errors import BeiJobsError

_COLUMNS = ["engine", "rows/s", "tokens/s", "TFLOP/s", "of matrix rate", "padding", "peak MiB",
            "x library", "x strongest default", "agreement"]  # fmt: skip
_NOTES = (
    "Medians of interleaved repeats; tokens/s counts real tokens. Matrix rate: measured in turn "
    "with the runs, in the engine's precision. x library: against the first peer; x strongest "
    "default: against the fastest of those that somebody gets without an option. Agreement with "
    "float32, the library's: the least cosine of a vector, or the largest difference of a score; "
    "peak MiB: above what the loaded models hold."
)
# Until the threads of the engine before have stopped waiting for work: OpenMP's spin.
_REST_S = 0.25


@dataclass
class Contender:
    """An engine of a case, with its times and its peak of memory."""

    name: str
    precision: str
    padding: Callable[[], float | None]
    call: Callable[[Sequence[Any]], object]
    kind: Literal["ours", "tokenized", "peer"] = "peer"
    default: bool = False
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    agreement: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Outcome:
    """The rows of a case in the table, and what is said about it below."""

    rows: list[list[object]]
    notes: list[str]


def hold(
    case: Case,
    ours: Sequence[Ours],
    work: Work,
    *,
    words: str,
    repeats: int,
    checked: int,
    tokenized: bool = False,
) -> Outcome:
    """Let ours and the peers compute a case in turn.

    Args:
        case: what is computed.
        ours: engines of ours; the first is what a user gets by default.
        work: what it costs.
        words: of `open_peers`.
        repeats: turns.
        checked: how many rows are compared with float32, spread evenly.
        tokenized: whether the forward pass alone is timed, too.
    """
    threads = torch.get_num_threads()
    opened, left_out = open_peers(case, words)
    torch.set_num_threads(threads)  # other libraries share OpenMP with torch, and set it
    engines: list[tuple[Contender, Ours | Runner]] = [(_ours(engine), engine) for engine in ours]
    engines[1:1] = [(_peer(peer, runner), runner) for peer, runner in opened.items()]
    sample = list(case.inputs[:: max(1, len(case.inputs) // checked)][:checked])
    expected, by = _expected(case, opened, ours, sample)
    for contender, engine in engines:
        contender.agreement = _agreement(engine.values(sample), expected, case.task)
    contenders = [contender for contender, _ in engines]
    if tokenized:
        contenders += [_tokenized(engine, case.inputs) for engine in ours]
    rates = _take_turns(contenders, case, repeats)
    notes = [*_ratios(contenders), *(f"left out: {name}" for name in left_out)]
    notes += [f"float32 is that of {by}"] if by != library_name(case.task) else []
    return Outcome(_rows(contenders, work, rates), notes)


def report(first: Sequence[str], cases: Iterable[tuple[Sequence[str], str, Outcome]]) -> str:
    """One table of all cases, and a line for each note with the cases that it is about.

    Each case is printed to stderr when it is there, so that a run that is cut has those before.

    Args:
        first: the columns that say which case it is.
        cases: what stands there, what notes call it, and what it gave.
    """
    columns = [*first, *_COLUMNS]
    rows: list[list[object]] = []
    named: dict[str, list[str]] = {}
    for words, name, outcome in cases:
        new = [[*words, *row] for row in outcome.rows]
        print(table(columns, new), file=sys.stderr, flush=True)
        rows += new
        for note in outcome.notes:
            named.setdefault(note, []).append(name)
    notes = [f"- {note} ({'; '.join(names)})" for note, names in named.items()]
    return "\n".join([table(columns, rows), "", _NOTES, "", *notes])


def open_ours(
    open_one: Callable[[str], Ours], precisions: Sequence[str]
) -> tuple[list[Ours], list[str]]:
    """Ours in some precisions, each once (`auto` is one of the others), and which are refused."""
    found: dict[str, Ours] = {}
    refused = []
    for precision in precisions:
        if precision in found:
            continue
        try:
            engine = open_one(precision)
        except BeiJobsError as error:  # float16 where it overflows, int8 on some chips
            refused.append(f"left out: bei-jobs {precision} ({error})")
            continue
        found.setdefault(engine.precision, engine)
    return list(found.values()), refused


def _ours(engine: Ours) -> Contender:
    name = f"bei-jobs {engine.precision}"
    if engine.automatic:
        name = f"bei-jobs, defaults ({engine.precision})"
    return Contender(
        name, engine.precision, lambda: engine.padding, engine, "ours", engine.automatic
    )


def _tokenized(engine: Ours, inputs: Sequence[Any]) -> Contender:
    name = f"bei-jobs {engine.precision}, tokenized"
    call = engine.tokenized(inputs)
    return Contender(name, engine.precision, lambda: engine.padding, call, "tokenized")


def _peer(peer: Peer, runner: Runner) -> Contender:
    name = peer.name
    if not peer.default and (chosen := getattr(runner, "batch_size", None)) is not None:
        name = f"{name.removesuffix(', best batch')}, best batch ({chosen})"
    padding = lambda: runner.padding  # noqa: E731 - counted until the end
    return Contender(name, runner.precision, padding, runner, default=peer.default)


def _expected(
    case: Case, opened: dict[Peer, Runner], ours: Sequence[Ours], sample: list[Any]
) -> tuple[np.ndarray, str]:
    """The sample's values in float32, and whose they are: the library's, where it is compared."""
    if not opened:
        exact = [engine for engine in ours if engine.precision == "float32"]
        engine = exact[0] if exact else Ours(
            case.folder, case.device, "float32", case.limit, task=case.task
        )  # fmt: skip
        return engine.values(sample), "bei-jobs float32"
    peer, runner = next(iter(opened.items()))
    if not peer.library or runner.precision != "float32":
        runner = library(case, dtype="float32")
    return runner.values(sample), library_name(case.task)


def _agreement(values: np.ndarray, expected: np.ndarray, task: str) -> str:
    if values.shape != expected.shape:
        return f"other shape: {values.shape}"
    if task != "embed":
        return f"± {np.abs(values - expected).max():.5f}"
    a, b = values.astype(np.float64), expected.astype(np.float64)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return f"{cosines.min():.5f}"


def _take_turns(contenders: list[Contender], case: Case, repeats: int) -> dict[str, float]:
    """Run everything in turns; returns the matrix rate, FLOP/s, of each precision."""
    threads = torch.get_num_threads()
    for contender in contenders:
        torch.set_num_threads(threads)
        contender.call(case.inputs[: len(case.inputs) // 4 + 1])  # warms up
    rates: dict[str, list[float]] = {c.precision: [] for c in contenders}
    for turn in range(repeats):
        for contender in contenders if turn % 2 == 0 else reversed(contenders):
            time.sleep(_REST_S)
            torch.set_num_threads(threads)  # the one before may have changed it
            reset_peak_memory(case.device)
            held = peak_memory_mib(case.device)
            seconds = timed(lambda c=contender: c.call(case.inputs), case.device)
            contender.seconds.append(seconds)
            contender.peak = max(contender.peak, peak_memory_mib(case.device) - held)
        torch.set_num_threads(threads)
        for precision, found in rates.items():
            found.append(matrix_rate(case.device, precision))
    return {precision: statistics.median(found) for precision, found in rates.items()}


def _strongest(contenders: Sequence[Contender]) -> Contender | None:
    return min(contenders, key=lambda c: c.median, default=None)


def _rows(contenders: list[Contender], work: Work, rates: dict[str, float]) -> list[list[object]]:
    peers = [c for c in contenders if c.kind == "peer"]
    bases = [peers[0] if peers else None, _strongest([c for c in peers if c.default])]
    rows: list[list[object]] = []
    for contender in contenders:
        speed = work.flop / contender.median
        padding = contender.padding()
        rows.append([
            contender.name, work.rows / contender.median, work.tokens / contender.median,
            speed / 1e12, f"{100 * speed / rates[contender.precision]:.0f} %",
            "-" if padding is None else f"{100 * padding:.0f} %", contender.peak,
            *(ratio(base.seconds, contender.seconds) if base else "-" for base in bases),
            contender.agreement,
        ])  # fmt: skip
    return rows


def _ratios(contenders: list[Contender]) -> list[str]:
    """Default against default, and best against best."""
    notes: dict[str, str] = {}
    for what, among in (
        ("best against best", contenders),
        ("default against default", [c for c in contenders if c.default]),
    ):
        mine = _strongest([c for c in among if c.kind == "ours"])
        theirs = _strongest([c for c in among if c.kind == "peer"])
        if mine and theirs:
            times = ratio(theirs.seconds, mine.seconds)
            notes[f"{mine.name} is {times:.2f} x {theirs.name}"] = what
    return [f"{what}: {ratios}" for ratios, what in notes.items()]

"""The host alone: how many texts a second a job takes where its device takes no time.

Everything of a job but the device's work is done (`benchmarks.host_process`): Parquet is read,
texts are tokenized, packed and launched, vectors are taken back, parts written and committed. CPU
time is counted by stage and thread, so that other work on the machine disturbs it little; of
several runs the least of each stage counts.

What more cores would do is extrapolated, not measured: the bounds are printed, and the least of
them is the expectation. A stage is taken to hold Python's lock for its whole CPU time unless it is
known to compute outside of it, so the bound of the lock is a low one. BEI_JOBS_TOKENIZERS_DIR and
BEI_JOBS_TOKENIZER_PROCESSES hold as in a job.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import EXAMPLES, ROOT, header, read_texts, table
from benchmarks.host_process import PARENT, PROCESSES, THREADS, TOKENIZERS, UNLOCKED
from benchmarks.shapes import Shape, checkpoint_of, write_weights
from pipeline.encoder.card import open_card
from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL
from pipeline.encoder.tokenizer import load_tokenizer

_MAX_DIMENSIONS = 1024
_SAMPLED = 20  # of so many texts one is tokenized, to know where to cut them
_TOKENIZING_THREADS = 2  # of a GPU's process


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench host`."""
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--rows", type=int, default=100_000, help="the texts are varied for more")
    parser.add_argument("--tokens", type=int, default=68, help="of a text on average")
    parser.add_argument("--tokenizer", default=DEFAULT_MODEL, help="a checkpoint")
    parser.add_argument(
        "--vectors",
        default="384:float32,384:float16,768:float32,1024:float32",
        help="dimensions:dtype, comma-separated; the first on each of --cores",
    )
    parser.add_argument("--cores", default="1,2", help="comma-separated")
    parser.add_argument("--of", type=int, default=16, help="cores to extrapolate to")
    parser.add_argument("--repeats", type=int, default=3)


@dataclass(frozen=True)
class _Case:
    dimensions: int
    dtype: str
    cores: int

    @property
    def options(self) -> str:
        return json.dumps(
            {"dimensions": self.dimensions, "output_dtype": self.dtype, "cores": self.cores}
        )


@dataclass
class _Measured:
    """The best of the runs of a case."""

    rows: int
    tokens: int = 0
    seconds: float = float("inf")
    stages: dict[str, float] | None = None  # µs of CPU per row

    def add(self, run: dict[str, Any]) -> None:
        self.tokens, self.seconds = run["tokens"], min(self.seconds, run["seconds"])
        found = {stage: 1e6 * seconds / self.rows for stage, seconds in run["stages"].items()}
        before = self.stages or found
        self.stages = {stage: min(us, before.get(stage, us)) for stage, us in found.items()}

    def us(self, *stages: str) -> float:
        """Of some stages together, per row."""
        assert self.stages is not None
        return sum(self.stages.get(stage, 0.0) for stage in stages)

    @property
    def total(self) -> float:
        return self.us(*(self.stages or ()))

    @property
    def locked(self) -> float:
        return self.us(*((self.stages or {}).keys() - UNLOCKED))


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the tables."""
    cores = [int(n) for n in options.cores.split(",")]
    vectors = [each.split(":") for each in options.vectors.split(",")]
    cases = [_Case(int(vectors[0][0]), vectors[0][1], n) for n in cores]
    cases += [_Case(int(width), dtype, max(cores)) for width, dtype in vectors[1:]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = _checkpoint(folder / "model", options.tokenizer)
        corpus = folder / "corpus.parquet"
        _write_corpus(corpus, model, options)
        measured = {case: _Measured(options.rows) for case in cases}
        for _ in range(options.repeats):
            for case, found in measured.items():
                found.add(_one(folder, corpus, model, case))
    return "\n\n".join([
        header(command, "cpu"), _stages(measured, cores), _cases(measured, options.of),
        _bounds(measured[cases[len(cores) - 1]], options.of),
    ])  # fmt: skip


def _checkpoint(folder: Path, tokenizer: str) -> Path:
    """A model of one layer and the most dimensions, with the tokenizer of another."""
    folder.mkdir()
    source = checkpoint_of(tokenizer, folder, [], "cpu")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder)
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    settings = {"model_type": "bert", "hidden_size": _MAX_DIMENSIONS, "num_hidden_layers": 1,
                "num_attention_heads": 16, "intermediate_size": 1024,
                "vocab_size": vocabulary}  # fmt: skip
    write_weights(folder, Shape(settings), "cpu")
    return folder


def _write_corpus(corpus: Path, model: Path, options: argparse.Namespace) -> None:
    """Texts of --tokens on average, each another one: equal texts would be computed once."""
    source = read_texts(options.texts, options.rows)
    tokenizer = load_tokenizer(open_card(str(model)))
    sample = tokenizer.encode_batch_fast(source[::_SAMPLED])
    share = min(1.0, options.tokens * len(sample) / sum(map(len, sample)))
    texts = [source[row % len(source)] for row in range(options.rows)]
    texts = [f"{row} {text[: int(share * len(text))]}" for row, text in enumerate(texts)]
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), corpus)


def _one(folder: Path, corpus: Path, model: Path, case: _Case) -> dict[str, Any]:
    """One run, in processes of its own."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "scripts")))
    with tempfile.TemporaryDirectory(dir=folder) as own:
        words = ["-m", "benchmarks.host_process", str(corpus), str(model), own, case.options]
        done = subprocess.run(
            [sys.executable, *words], env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _stages(measured: dict[_Case, _Measured], cores: Sequence[int]) -> str:
    """CPU time per row of each stage of the first vectors, on each number of cores."""
    cases = list(measured.values())[: len(cores)]
    named = [(thread, stage) for thread, (_, stages) in THREADS.items() for stage in stages]
    named += [("own threads", TOKENIZERS), ("other processes", PROCESSES), ("its own", PARENT)]
    rows: list[list[object]] = [
        [stage, thread, "no" if stage in UNLOCKED else "yes", *(found.us(stage) for found in cases)]
        for thread, stage in named
    ]
    rows.append(["all", "", "", *(found.total for found in cases)])
    rows.append(["all that hold the lock", "", "", *(found.locked for found in cases)])
    columns = ["stage", "thread", "holds the lock", *(_on(n) for n in cores)]
    return "µs of CPU per row:\n\n" + table(columns, rows)


def _on(cores: int) -> str:
    return f"{cores} core" + "s" * (cores > 1)


def _cases(measured: dict[_Case, _Measured], of: int) -> str:
    rows = [
        [case.dimensions, case.dtype, case.cores, found.rows / found.seconds,
         found.tokens / found.seconds, found.total, found.locked,
         min(_limits(found, of).values())]
        for case, found in measured.items()
    ]  # fmt: skip
    columns = ["dimensions", "dtype", "cores", "texts/s", "tokens/s", "µs of CPU", "of it locked",
               f"texts/s on {of} cores, extrapolated"]  # fmt: skip
    return table(columns, rows)


def _bounds(found: _Measured, of: int) -> str:
    limits = _limits(found, of)
    rows = [[what, texts] for what, texts in sorted(limits.items(), key=lambda item: item[1])]
    return (
        f"Extrapolated to {of} cores, {found.tokens / found.rows:.0f} tokens a text, one process; "
        "the first bound is the expectation:\n\n" + table(["bound", "texts/s"], rows)
    )


def _limits(found: _Measured, of: int) -> dict[str, float]:
    """Texts a second that each part of the host allows."""
    threads = {name: found.us(*stages) for name, (_, stages) in THREADS.items()}
    # Each waits for its own block, which all cores tokenize.
    shared = found.us(TOKENIZERS, PROCESSES) / of
    threads["tokenizes"] = (threads["tokenizes"] + shared) / _TOKENIZING_THREADS
    limits = {f"the thread that {name}": 1e6 / us for name, us in threads.items()}
    limits["Python's lock"] = 1e6 / found.locked
    limits[f"all {of} cores at work"] = of * 1e6 / found.total
    return limits

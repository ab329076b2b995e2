"""What a night costs: a corpus that changed a little, files that did not change, many earlier rows.

Four tables, each job a process of its own:

1. The corpus as --files files, and after each change to them: rows by what became of them.
2. --unchanged files of ten rows, submitted, and submitted again.
3. --earlier rows in parts, --changed rows of which half are among them: the time and the peak
   memory of finding them. The parts are made up and hold little more than row keys.
4. What a row key costs, by the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import EXAMPLES, ROOT, header, table
from pipeline.row_keys import row_keys

TINY = ROOT / "tests" / "goldens" / "bert_mean"
_MAIN = [sys.executable, "-c", "from jobs.cli import main; main()"]
_MEASURED = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - start, peak]))
sys.exit(code)
"""
_MATCH = """
import json, sys
import pyarrow as pa
from pipeline.input.cutting import plan_inputs
from pipeline.input.wanted import Wanted
from pipeline.output.output import Output
from pipeline.output.plan import make_plan
from pipeline.planning.match_rows import match_rows
wanted = Wanted(columns=(), text_columns=("text",), output_columns=())
planned = plan_inputs([sys.argv[1]], wanted)
plan = make_plan(planned.files, space="0" * 16, schema="0" * 16)
print(match_rows(Output(sys.argv[2]), plan, planned.schema, ("text",), lambda line: None))
"""
_PART_ROWS = 16_384
_ROWS = ["rows", "computed", "reused", "duplicates", "s"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench nights`."""
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--model", default=str(TINY))
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--unchanged", type=int, default=10_000, help="files")
    parser.add_argument("--earlier", type=int, default=10_000_000, help="rows")
    parser.add_argument("--changed", type=int, default=1_000_000, help="rows")


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the tables."""
    tables = [header(command, "cpu")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BEI_JOBS_STATE_DIR"] = str(folder / "state")
        if options.files:
            tables.append(_changes(folder / "changes", options))
        if options.unchanged:
            tables.append(_unchanged(folder / "unchanged", options))
        if options.earlier:
            tables.append(_match(folder / "match", options))
    tables.append(_keys(options.texts))
    return "\n\n".join(tables)


def _changes(folder: Path, options: argparse.Namespace) -> str:
    """The corpus as files, and after each change."""
    inputs = folder / "in"
    inputs.mkdir(parents=True)
    texts = pq.read_table(options.texts, columns=["text"])
    size = -(-len(texts) // (options.files + 1))
    slices = [texts.slice(first, size) for first in range(0, len(texts), size)]
    extra = slices.pop()
    for number, rows in enumerate(slices):
        pq.write_table(rows, inputs / f"{number:03}.parquet")
    nights: list[tuple[str, Callable[[], None]]] = [
        ("all new", lambda: None),
        ("nothing changed", lambda: None),
        (
            "1 row changed in each of 2 files, 1 file added, 1 gone, 1 touched",
            lambda: _change(inputs, extra),
        ),
        ("every file renamed", lambda: _rename(inputs)),
        ("other files, other order", lambda: _reshard(inputs)),
    ]
    rows = []
    for name, change in nights:
        change()
        rows.append([name, *_night(inputs, folder / "out", options.model)])
    return table(["night", *_ROWS], rows)


def _change(inputs: Path, extra: pa.Table) -> None:
    for number in (3, 11):
        path = inputs / f"{number:03}.parquet"
        text = pq.read_table(path)["text"].to_pylist()
        text[7] = f"a text that was changed in file {number}"
        pq.write_table(pa.table({"text": text}), path)
    pq.write_table(extra, inputs / "new.parquet")
    (inputs / "005.parquet").unlink()
    os.utime(inputs / "008.parquet")


def _rename(inputs: Path) -> None:
    for path in list(inputs.iterdir()):
        path.rename(inputs / f"renamed-{path.name}")


def _reshard(inputs: Path) -> None:
    everything = pq.read_table(inputs)
    for path in list(inputs.iterdir()):
        path.unlink()
    order = pa.array(sorted(range(len(everything)), key=lambda row: row * 7919 % len(everything)))
    size = -(-len(everything) // 7)
    for number in range(7):
        rows = everything.take(order.slice(number * size, size))
        pq.write_table(rows, inputs / f"part-{number:05}.snappy.parquet")


def _night(inputs: Path, output: Path, model: str) -> list[object]:
    words = ["submit", str(inputs), "--output", str(output), "--model", model, "--json", "--quiet"]
    said, (seconds, _) = _measured([*_MAIN, *words])
    rows = json.loads(said)["rows"]
    return [rows["done"], rows["computed"], rows["reused"], rows["deduplicated"], seconds]


def _unchanged(folder: Path, options: argparse.Namespace) -> str:
    inputs = folder / "in"
    inputs.mkdir(parents=True)
    for number in range(options.unchanged):
        rows = [f"row {row} of file {number}" for row in range(10)]
        pq.write_table(pa.table({"text": rows}), inputs / f"{number:06}.parquet")
    rows = [
        [f"{options.unchanged} files, {night}", *_night(inputs, folder / "out", options.model)]
        for night in ("all new", "nothing changed")
    ]
    return table(["night", *_ROWS], rows)


def _match(folder: Path, options: argparse.Namespace) -> str:
    inputs, output = folder / "in.parquet", folder / "out"
    output.mkdir(parents=True)
    firsts = range(0, options.earlier, _PART_ROWS)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_part, [output] * len(firsts), firsts, chunksize=64))
    schema = pa.schema([("text", pa.string())])
    first = options.earlier - options.changed // 2
    with pq.ParquetWriter(inputs, schema) as writer:
        for start in range(first, first + options.changed, _PART_ROWS):
            rows = range(start, min(start + _PART_ROWS, first + options.changed))
            writer.write_table(pa.table({"text": [_text(row) for row in rows]}, schema))
    said, (seconds, peak) = _measured([sys.executable, "-c", _MATCH, str(inputs), str(output)])
    row = [f"{options.earlier:,}", f"{options.changed:,}", f"{int(said):,}", seconds, peak]
    return table(["earlier rows", "changed rows", "found", "s", "peak MB"], [row])


def _keys(texts: Path) -> str:
    """Microseconds for each row, the median of five passes."""
    rows = pq.read_table(texts, columns=["text"]).combine_chunks().to_batches()[0]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        row_keys(rows, ["text"])
        seconds.append(time.perf_counter() - start)
    cost = statistics.median(seconds) / len(rows) * 1e6
    return table(["row keys", "µs a row"], [[f"{len(rows):,} rows", cost]])


def _text(row: int) -> str:
    return f"the text of row {row}, long enough to be like others: {row * 2654435761 % 2**32:032}"


def _write_part(output: Path, first: int) -> None:
    digests = [
        hashlib.blake2b(_text(row).encode(), digest_size=16).digest()
        for row in range(first, first + _PART_ROWS)
    ]
    rows = pa.table({"row_key": pa.array(digests, pa.binary(16))})
    name = f"part-c.parquet-00000000-{first:012}-{first:016x}.arrow"
    with pa.OSFile(str(output / name), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)


def _measured(words: list[str]) -> tuple[str, list[float]]:
    """What a command printed last but one, its seconds and its peak resident MB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 3):
        raise SystemExit(f"{words[:6]} failed: {done.stderr}")
    said, measured = done.stdout.strip().rsplit("\n", 1)
    return said, json.loads(measured)

"""What must hold after every fault: one function per letter of the table.

X  every row exactly once, and equal to the undisturbed run
V  nothing partial was ever visible
P  it finished unaided, or failed loudly and the same command resumed (see `case.py`)
B  attempts and leftovers are bounded
S  nothing was written outside the output and the state directories
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import BeiJobsError
from pipeline.output.manifest import read_parts
from pipeline.output.output import find_run, is_part
from pipeline.output.part_file import checksum_holds, parse_info, read_rows
from pipeline.output.verify import verify

COSINE = 1e-5
WATCH_S = 0.02

Matrix = np.ndarray[Any, np.dtype[np.float64]]


class Violation(AssertionError):
    """A promise that did not hold; `letter` says which."""

    def __init__(self, letter: str, message: str) -> None:
        super().__init__(f"{letter}: {message}")
        self.letter = letter


def require(letter: str, holds: object, message: str) -> None:
    if not holds:
        raise Violation(letter, message)


@dataclass(frozen=True)
class Rows:
    """The rows of a finished output in input order."""

    ids: list[str]
    errors: list[str | None]
    vectors: Matrix  # [rows, dimensions], zeros where there is an error

    @classmethod
    def read(cls, output: object) -> Rows:
        store, run = find_run(str(output))
        parts = read_parts(store, run)["part"].to_pylist()
        tables = [read_rows(name, store.directory.read(name)) for name in parts]
        table = pa.concat_tables([each.replace_schema_metadata(None) for each in tables])
        vectors = table["embedding"].combine_chunks()
        width = vectors.type.list_size
        flat = vectors.fill_null([0.0] * width).flatten().to_numpy(zero_copy_only=False)
        return cls(
            table["id"].to_pylist(),
            table["error"].to_pylist(),
            flat.reshape(len(table), width).astype(np.float64),
        )


def exactly_once(output: object, undisturbed: Rows) -> None:
    """X. `bei-jobs verify` is content too: coverage, checksums, provenance."""
    require("X", not (problems := verify(find_run(str(output))[0]).problems), str(problems))
    rows = Rows.read(output)
    require("X", len(set(rows.ids)) == len(rows.ids), "rows are doubled")
    require(
        "X",
        rows.ids == undisturbed.ids,
        f"{len(rows.ids)} rows where the undisturbed run has {len(undisturbed.ids)}, or another "
        "order",
    )
    failed = [i for i, error in enumerate(rows.errors) if error]
    expected = [i for i, error in enumerate(undisturbed.errors) if error]
    require("X", failed == expected, f"rows {failed} failed, not {expected}")
    sound = [i for i, error in enumerate(rows.errors) if not error]
    one, other = rows.vectors[sound], undisturbed.vectors[sound]
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    worst = float(np.min(np.sum(one * other, axis=1) / lengths, initial=1.0))
    require("X", worst >= 1 - COSINE, f"a vector has cosine {worst} to the undisturbed one")


def unsound(name: str, data: bytes) -> str:
    """Why the bytes of a visible part are not a whole part; empty where they are."""
    try:
        info = parse_info(name, data)
        if not checksum_holds(data, info):
            return f"{name} is visible and its checksum does not hold"
        rows = read_rows(name, data).num_rows
    except (BeiJobsError, pa.ArrowException, OSError) as error:
        return f"{name} is visible and cannot be read: {error}"
    if rows != info.count("rows"):
        return f"{name} is visible with {rows} of {info.count('rows')} rows"
    return ""


def visible_parts(output: object) -> Iterator[tuple[str, bytes]]:
    """What the flat glob shows now."""
    directory = find_run(str(output))[0].directory
    for item in list(directory.list()):
        if is_part(item.name):
            yield item.name, directory.read(item.name)


def nothing_partial(output: object) -> None:
    """V, at the end; `Watch` looks in between."""
    for name, data in visible_parts(output):
        require("V", not (problem := unsound(name, data)), problem)


class Watch:
    """Reads each part of a local output as soon as it is visible, and notes when that was."""

    def __init__(self, output: Path) -> None:
        self.times: list[float] = []  # monotonic, one per part
        self.problems: list[str] = []
        self._output = output
        self._seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            self.look()

    def look(self) -> None:
        for path in sorted(self._output.glob("part-*")):
            if path.name in self._seen:
                continue
            try:
                problem = unsound(path.name, path.read_bytes())
            except FileNotFoundError:  # of a superseded run, deleted meanwhile
                continue
            self._seen.add(path.name)
            self.times.append(time.monotonic())
            if problem:
                self.problems.append(problem)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.look()


def attempts(output: object) -> int:
    """Different attempts that committed the parts of the newest finished run."""
    return len(set(read_parts(*find_run(str(output)))["attempt"].to_pylist()))


def failure_records(output: object) -> int:
    store, run = find_run(str(output))
    return sum(1 for _ in store.directory.list(run.path("failures/")))


def temporaries(output: object) -> int:
    return sum(1 for _ in find_run(str(output))[0].directory.list("_bei/tmp/"))


Snapshot = dict[str, tuple[int, int, int]]


def snapshot(folder: Path) -> Snapshot:
    """Every file below a folder: size, time of change, inode."""
    found: Snapshot = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        if not path.is_dir():
            found[str(path.relative_to(folder))] = stat.st_size, stat.st_mtime_ns, stat.st_ino
    return found


def untouched(folder: Path, before: Snapshot) -> None:
    """S."""
    after = snapshot(folder)
    changed = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    require("S", not changed, f"written outside the output: {changed}")

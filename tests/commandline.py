"""The command line as the tests use it: typed in this process or in one of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import ROOT

from jobs.cli import main


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; an error where there is anything else."""
        return json.loads(self.out)

    @property
    def screen(self) -> list[str]:
        """The lines of an error, which must not be a stack trace."""
        assert "Traceback" not in self.err, self.err
        return [line for line in self.err.splitlines() if line.strip()]


Bei: TypeAlias = Callable[..., Outcome]


def forget_the_user(patch: pytest.MonkeyPatch, state: Path, cache: Path) -> None:
    """No option and no memory of another test or of the user; `cache` holds checkpoints."""
    for name in list(os.environ):
        if name.startswith("BEI_JOBS_"):
            patch.delenv(name)
    patch.setenv("BEI_JOBS_STATE_DIR", str(state))
    patch.setenv("BEI_JOBS_CACHE_DIR", str(cache))


def typist(capture: pytest.CaptureFixture[str]) -> Bei:
    """A function that types `bei-jobs WORDS…` in this process."""

    def bei(*words: object) -> Outcome:
        capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capture.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return bei


def command(*words: object) -> list[str]:
    """The words that start `bei-jobs WORDS…` in a process of its own."""
    return [sys.executable, "-c", "from jobs.cli import main; main()", *map(str, words)]


def spawn(*words: object, **environment: str) -> subprocess.Popen[str]:
    """Start `bei-jobs WORDS…`; the caller waits for it."""
    return subprocess.Popen(
        command(*words),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_output(bei: Bei, output: object) -> pa.Table:
    """The rows of a local output through `bei-jobs files`, as the README says to read them."""
    listed = bei("files", output)
    assert listed.code == 0, listed.err
    tables = []
    for path in listed.out.split():
        if path.endswith(".parquet"):
            tables.append(pq.read_table(path))
            continue
        with pa.ipc.open_file(path) as reader:
            tables.append(reader.read_all())
    return pa.concat_tables(table.replace_schema_metadata(None) for table in tables)


def typed(*words: object) -> Outcome:
    """`bei-jobs WORDS…` in this process, for fixtures that outlive a test."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return Outcome(int(ended.value.code or 0), out.getvalue(), err.getvalue())

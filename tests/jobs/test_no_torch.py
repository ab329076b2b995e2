"""Torch takes seconds to import: what computes nothing does without it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import Bei
from corpora import TINY, write_parquet

_SAYS_WHETHER_TORCH_WAS_IMPORTED = """
import platform, sys
machine = sys.argv.pop(1)
platform.node = lambda: machine
from bei_jobs.__main__ import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


def imports_torch(*words: object) -> bool:
    code = _SAYS_WHETHER_TORCH_WAS_IMPORTED
    command = [sys.executable, "-c", code, platform.node(), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1].lower()) is True


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", 5)


def test_a_night_with_nothing_to_do_starts_no_device(
    submit: Bei, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submit(corpus).code == 0

    def started(*_: object) -> None:
        raise AssertionError("a device was started")

    monkeypatch.setattr("workers.device_process.DeviceProcess.start", started)
    again = submit(corpus, "--json")
    assert (again.code, again.json["rows"]["reused"]) == (0, 5)


def test_nothing_to_do_and_planning_of_it_import_no_torch(submit: Bei, corpus: Path) -> None:
    assert submit(corpus).code == 0
    assert not imports_torch("submit", corpus, "--model", TINY, "--quiet")
    assert not imports_torch("plan", corpus, "--model", TINY, "--quiet")


def test_sending_a_job_to_a_broker_imports_no_torch(corpus: Path, redis_url: str) -> None:
    assert not imports_torch("submit", corpus, "--model", TINY, "--quiet", "--broker", redis_url)


def test_a_plan_of_work_that_was_calibrated_before_imports_no_torch(
    bei: Bei, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.calibrate._steady", lambda ends, loaded: True)
    words = ("plan", corpus, "--model", TINY, "--device", "cpu", "--quiet", "--output")
    assert bei(*words, tmp_path / "one").code == 0
    assert not imports_torch(*words, tmp_path / "other", "--output-dtype", "float16")

"""`--log-format json`: every line on stderr is one JSON object."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commandline import spawn
from corpora import TINY, damaged_in_the_middle, write_parquet


def events(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        assert {"ts", "level", "logger", "message"} <= event.keys()
        assert datetime.fromisoformat(event["ts"]).tzinfo is not None
    return found


def test_a_submit_says_everything_as_json(tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 4)
    nobody = "http://127.0.0.1:9/token"  # the port `discard`, where nobody listens

    words = ("submit", corpus, "--model", TINY, "--device", "cpu", "--notify", nobody)
    done = spawn(*words, "--log-format", "json", BEI_JOBS_STATE_DIR=str(tmp_path / "state"))
    out, err = done.communicate(timeout=100)

    assert done.returncode == 0, err
    assert "4 of 4" in out
    said = events(err)
    (chosen,) = [event for event in said if event["message"].startswith("precision ")]
    assert chosen["job"] in out
    warnings = [event["message"] for event in said if event["level"] == "warning"]
    assert [message.partition(":")[0] for message in warnings] == ["--notify", "--notify"]


def test_lines_about_the_run_that_follows_a_damaged_file_name_its_job(tmp_path: Path) -> None:
    for name in "ab":
        write_parquet(tmp_path / f"data/{name}.parquet", 4)
    damaged_in_the_middle(tmp_path / "data/b.parquet", 0)

    words = ("submit", tmp_path / "data", "--model", TINY, "--device", "cpu", "--json")
    done = spawn(*words, "--log-format", "json", BEI_JOBS_STATE_DIR=str(tmp_path / "state"))
    out, err = done.communicate(timeout=100)

    assert done.returncode == 3, err
    (skipped,) = [event for event in events(err) if event["message"].startswith("skipped: ")]
    assert (json.loads(out)["run"], json.loads(out)["job"]) == (2, skipped["job"])


@pytest.mark.parametrize(
    ("words", "level"),
    [(("no-such.parquet",), "error"), (("corpus.parquet", "--limit", "many"), "error")],
)
def test_an_error_is_an_event_too(words: tuple[str, ...], level: str, tmp_path: Path) -> None:
    failed = spawn(
        "submit", *words, BEI_JOBS_LOG_FORMAT="json", BEI_JOBS_STATE_DIR=str(tmp_path / "state")
    )
    _, err = failed.communicate(timeout=60)

    assert failed.returncode in (1, 2)
    assert [event["level"] for event in events(err)] == [level]
    assert words[-1] in err

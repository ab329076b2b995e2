"""`--log-format json`: every line on stderr is one JSON object."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commandline import spawn
from corpora import TINY, write_parquet


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

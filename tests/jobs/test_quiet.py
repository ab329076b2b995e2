"""`--quiet` prints nothing at all when all is well, so that cron sends no mail."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import Bei
from corpora import write_parquet

from jobs.display import Display


def test_quiet_says_nothing_when_all_is_well(submit: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 8)
    for _ in range(2):  # the second time there is nothing to do
        done = submit(corpus)  # with --quiet
        assert (done.code, done.out, done.err) == (0, "", "")
    assert submit(corpus, "--json").json["rows"]["reused"] == 8


def test_quiet_tells_of_rows_in_quarantine(submit: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 3, text=["a", None, "b"])

    done = submit(corpus, "--max-failed-rows", 1)

    assert done.code == 3
    assert "1 failed" in done.out
    assert "_bei/quarantine" in done.out


def test_quiet_does_not_say_that_another_run_is_waited_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Display(quiet=True).waiting("41")
    assert capsys.readouterr() == ("", "")

    Display().waiting("41")
    assert "waiting for process 41" in capsys.readouterr().err

"""The examples are what their README says, and the command line takes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest
from click.core import ParameterSource
from commandline import forget_the_user, typist
from corpora import TINY

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_corpus_has_three_thousand_packages_unicode_and_long_texts_among_them() -> None:
    corpus = pq.read_table(EXAMPLES / "corpus.parquet")
    ids, texts = corpus["id"].to_pylist(), corpus["text"].to_pylist()
    assert len(set(ids)) == len(ids) == 3000
    assert sum(not text.isascii() for text in texts) > 30
    assert sum(len(text) > 1200 for text in texts) > 30
    assert (EXAMPLES / "corpus.parquet").stat().st_size < 1_000_000


def test_the_job_file_sets_what_a_submit_needs() -> None:
    from jobs.cli import cli

    group = click.Context(cli)
    submit = cli.get_command(group, "submit")
    assert submit is not None
    arguments = ["--job-file", str(EXAMPLES / "job.toml"), "--text-column", "title"]
    with submit.make_context("submit", arguments, parent=group) as context:
        assert context.params["inputs"] == (str(EXAMPLES / "corpus.parquet"),)
        assert context.params["id_column"] == "id"
        assert context.get_parameter_source("id_column") is ParameterSource.DEFAULT_MAP
        assert context.params["text_column"] == "title"


def test_the_schedules_are_valid_and_the_monthly_one_reads_the_month_before() -> None:
    from datetime import UTC, datetime

    from jobs.schedules.schedule import read_schedules

    listing = read_schedules(str(EXAMPLES))

    assert dict(listing.refused) == {}
    assert listing.plain == ("job.toml",)
    monthly, nightly = listing.schedules
    assert (nightly.cron.expression, nightly.cron.timezone) == ("0 2 * * *", "Europe/Berlin")
    job = monthly.job_of(datetime(2027, 1, 1, 4, 30, tzinfo=UTC))
    assert job["inputs"] == ["/data/reviews/month=2026-12/"]
    assert job["output"] == "/data/reviews.embed/month=2026-12"


def test_two_nights_of_the_nightly_job_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_the_user(monkeypatch, tmp_path / "state", tmp_path / "cache")
    bei = typist(capsys)
    corpus = pq.read_table(EXAMPLES / "corpus.parquet").slice(0, 20)
    pq.write_table(corpus, tmp_path / "corpus.parquet")  # the file's paths are relative to itself
    shutil.copy(EXAMPLES / "nightly.toml", tmp_path)
    night = ("submit", "--job-file", tmp_path / "nightly.toml", "--model", TINY, "--json")

    assert bei(*night).json["rows"]["computed"] == 20
    pq.write_table(corpus.slice(1), tmp_path / "corpus.parquet")
    second = bei(*night).json
    assert (second["rows"]["computed"], second["rows"]["reused"]) == (0, 19)
    assert bei("verify", tmp_path / "corpus.embed").code == 0

"""The command line, typed over real files with a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import Bei, Outcome, typed, typist
from corpora import TINY, write_parquet


@pytest.fixture(scope="session", autouse=True)
def one_thread(one_thread: None) -> None:
    """For every test here."""


@pytest.fixture(autouse=True)
def own_machine(own_machine: None) -> None:
    """For every test here."""


@pytest.fixture(autouse=True)
def short_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan` measures for seconds how fast a model is, and each test is a machine of its own."""
    monkeypatch.setattr("workers.rates.platform.node", lambda: str(tmp_path))
    monkeypatch.setattr("workers.calibrate.SECONDS", 0.0)
    monkeypatch.setattr("workers.calibrate.WARM_UP_SECONDS", 0.0)


@pytest.fixture
def bei(capsys: pytest.CaptureFixture[str]) -> Bei:
    """Type `bei-jobs WORDS…`."""
    return typist(capsys)


@pytest.fixture
def submit(bei: Bei) -> Bei:
    """Type `bei-jobs submit WORDS… --model TINY --device cpu --quiet`."""

    def submitted(*words: object) -> Outcome:
        model = () if "--model" in words else ("--model", TINY)
        return bei("submit", *words, *model, "--device", "cpu", "--quiet")

    return submitted


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, checkpoint_cache: Path) -> Path:
    """A finished output of three parts of ten rows, one of them an error; not to be touched."""
    folder = tmp_path_factory.mktemp("finished")
    text = ["one", None, *(f"text of number {row}" for row in range(28))]
    corpus = write_parquet(folder / "corpus.parquet", 30, text=text, lang=["en", "de", "fr"] * 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEI_JOBS_STATE_DIR", str(folder / "state"))
        patch.setenv("BEI_JOBS_CACHE_DIR", str(checkpoint_cache))
        done = typed(
            "submit", corpus, "--model", TINY, "--device", "cpu", "--quiet", "--keep", "lang",
            "--rows-per-shard", 10, "--max-failed-rows", 1,
        )  # fmt: skip
    assert done.code == 3, done.err
    return folder / "corpus.embed"

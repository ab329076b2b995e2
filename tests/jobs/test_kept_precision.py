"""`--precision auto` on a CPU: chosen by a trial, and kept by the output."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commandline import Bei
from corpora import GOLDENS, TINY, parts, write_parquet

from pipeline.encoder.card import open_card
from pipeline.encoder.cpu_trials import bfloat16_gain
from pipeline.encoder.precision import choose_precision
from workers.device_main import _Sender

Chip = Callable[[float], None]


@pytest.fixture
def chip(device_in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> Chip:
    """A CPU with some gain of bfloat16, on which even a tiny model is worth the trial."""
    monkeypatch.setattr("pipeline.encoder.precision._LEAST_WIDTH", 0)

    def with_gain(gain: float) -> None:
        monkeypatch.setattr("pipeline.encoder.engine.bfloat16_gain", lambda *_: gain)

    return with_gain


def precisions(verified: Bei, output: Path) -> list[str]:
    found: list[str] = verified("verify", output, "--json").json["precisions"]
    return found


@pytest.mark.parametrize(
    ("gain", "precision"), [(1.49, "float32"), (1.5, "bfloat16"), (8.0, "bfloat16")]
)
def test_a_chip_made_for_bfloat16_computes_in_it_and_says_why(
    submit: Bei, bei: Bei, chip: Chip, tmp_path: Path, gain: float, precision: str
) -> None:
    chip(gain)
    done = submit(write_parquet(tmp_path / "c.parquet", 4), "--output", tmp_path / "o", "--json")
    choice = done.json["choices"]["precision"]
    assert choice["value"] == precision
    assert f"{gain:.1f} times as fast" in choice["reason"]
    assert precisions(bei, tmp_path / "o") == [precision]


@pytest.mark.parametrize("first", [1.0, 8.0])
def test_an_output_keeps_the_precision_that_it_began_with(
    submit: Bei, bei: Bei, chip: Chip, tmp_path: Path, first: float
) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    for night, gain in enumerate((first, 9.0 - first)):
        chip(gain)
        write_parquet(corpus / f"{night}.parquet", 4, seed=night)
        done = submit(corpus, "--output", output, "--json")
        assert (done.code, done.json["rows"]["computed"]) == (0, 4)
    precision = "bfloat16" if first == 8.0 else "float32"
    assert precisions(bei, output) == [precision]
    choice = done.json["choices"]["precision"]
    assert choice == {"value": precision, "reason": "the output began with it"}


def test_an_output_of_an_earlier_version_goes_on_in_the_precision_of_its_parts(
    submit: Bei, bei: Bei, chip: Chip, tmp_path: Path
) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    write_parquet(corpus / "0.parquet", 4)
    assert submit(corpus, "--output", output).code == 0
    (output / "_bei/precision.json").unlink()
    write_parquet(corpus / "1.parquet", 4, seed=1)
    chip(8.0)
    planned = bei("plan", corpus, "--output", output, "--model", TINY, "--json").json
    assert planned["rows"]["reused"] == planned["rows"]["computed"] == 4
    assert submit(corpus, "--output", output, "--json").json["rows"]["reused"] == 4
    assert precisions(bei, output) == ["float32"]
    assert json.loads((output / "_bei/precision.json").read_text())["precision"] == "float32"


def test_an_output_that_an_earlier_version_stopped_before_its_first_part_loses_no_row(
    submit: Bei, bei: Bei, chip: Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, output = write_parquet(tmp_path / "c.parquet", 40), tmp_path / "out"
    stop, batch = threading.Event(), _Sender.batch

    def compute_then_interrupt(self: _Sender, rows: int, tokens: int) -> None:
        batch(self, rows, tokens)
        stop.set()

    words = (corpus, "--output", output, "--token-budget", 100, "--json")
    with monkeypatch.context() as patch:
        patch.setattr(_Sender, "batch", compute_then_interrupt)
        patch.setattr("workers.stop_signals.Stop.is_set", lambda self: stop.is_set())
        assert submit(*words).code == 130
    assert list((output / "_bei/open").glob("*/*.arrow"))
    assert not parts(output)
    (output / "_bei/precision.json").unlink()
    chip(8.0)
    done = submit(*words)
    assert done.json["choices"]["precision"]["reason"] == "the output began with it"
    assert precisions(bei, output) == ["float32"]


def test_a_certificate_of_another_precision_proves_nothing_of_an_output(
    submit: Bei, bei: Bei, chip: Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_JOBS_CACHE_DIR", str(tmp_path / "own-cache"))
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    write_parquet(corpus / "0.parquet", 4)
    assert submit(corpus, "--output", output).code == 0
    chip(8.0)
    assert bei("check", TINY, "--rows", 1).code == 0
    write_parquet(corpus / "1.parquet", 4, seed=1)
    assert submit(corpus, "--output", output, "--json").json["certificate"] is None
    other = submit(corpus, "--output", tmp_path / "new", "--json")
    assert other.json["certificate"]["precision"] == "bfloat16"
    assert bei("check", TINY, "--rows", 1, "--precision", "float32").code == 0
    write_parquet(corpus / "2.parquet", 4, seed=2)
    again = submit(corpus, "--output", output, "--json")
    assert again.json["certificate"]["precision"] == "float32"


def test_rows_are_copied_from_another_output_in_its_precision(
    submit: Bei, bei: Bei, chip: Chip, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 4)
    assert submit(corpus, "--output", tmp_path / "old").code == 0
    chip(8.0)
    words = (corpus, "--output", tmp_path / "new", "--reuse-from", tmp_path / "old", "--json")
    done = submit(*words)
    assert (done.json["rows"]["computed"], done.json["rows"]["reused"]) == (0, 4)
    assert "whose rows are copied" in done.json["choices"]["precision"]["reason"]
    assert precisions(bei, tmp_path / "new") == ["float32"]


def test_a_precision_that_the_user_names_is_not_kept_for_others(
    submit: Bei, chip: Chip, tmp_path: Path
) -> None:
    corpus, output = write_parquet(tmp_path / "c.parquet", 4), tmp_path / "out"
    assert submit(corpus, "--output", output, "--precision", "float32").code == 0
    assert not (output / "_bei/precision.json").exists()
    refused = submit(corpus, "--output", output)
    assert "--precision float32 there, auto here" in refused.err


@pytest.mark.parametrize("content", ["", "[]", '{"precision": "auto"}', '{"precision": {}}'])
def test_a_damaged_file_is_named(submit: Bei, tmp_path: Path, content: str) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    write_parquet(corpus / "0.parquet", 4)
    assert submit(corpus, "--output", output).code == 0
    (output / "_bei/precision.json").write_text(content)
    write_parquet(corpus / "1.parquet", 4, seed=1)
    refused = submit(corpus, "--output", output)
    assert refused.code == 1
    assert "_bei/precision.json is damaged" in refused.err
    assert "Traceback" not in refused.err
    assert len(parts(output)) == 1


def test_a_small_model_and_one_that_transformers_computes_are_not_tried() -> None:
    def never() -> float:
        raise AssertionError("a trial")

    config = open_card(str(GOLDENS / "bert_mean")).config
    wide = replace(config, hidden_size=384)
    for one in (config, replace(wide, family="transformers/x"), replace(wide, family="static")):
        assert choose_precision("auto", one, "cpu", never).value == "float32"
    assert choose_precision("auto", wide, "cuda", never).value == "float16"
    assert choose_precision("float32", wide, "cpu", never).value == "float32"
    with pytest.raises(AssertionError, match="a trial"):
        choose_precision("auto", wide, "cpu", never)


def test_the_trial_of_a_chip_is_kept_and_a_damaged_one_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(open_card(str(GOLDENS / "bert_mean")).config, hidden_size=64)
    with monkeypatch.context() as patch:  # a busy machine
        patch.setattr("pipeline.encoder.cpu_trials._measure", lambda *_: 1.3)
        assert bfloat16_gain(config, tmp_path) == 1.3
        assert not (tmp_path / "trials").exists()
        patch.setattr("pipeline.encoder.cpu_trials._measure", lambda *_: 1.9)
        assert bfloat16_gain(config, tmp_path) == 1.9
    (kept,) = (tmp_path / "trials").iterdir()
    kept.write_text('{"gain": 123.0}')
    assert bfloat16_gain(config, tmp_path) == 123.0
    assert bfloat16_gain(replace(config, intermediate_size=128), tmp_path) != 123.0
    monkeypatch.setattr("pipeline.encoder.cpu_trials._UNSURE", (0.0, 0.0))
    for damaged in ("", "[]", '{"gain": -1}', '{"gain": "x"}', "[" * 10_000):
        kept.write_text(damaged)
        assert 0 < bfloat16_gain(config, tmp_path) < 100
    assert 0 < bfloat16_gain(config, tmp_path / "a" / "b") < 100

"""The canary as a user meets it: in the foreground, from night to night, and in `status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei, spawn
from corpora import GOLDENS, TINY, parts, write_parquet
from torch import Tensor

from pipeline.encoder.model import load
from pipeline.errors import EncodeError


def tear(patch: pytest.MonkeyPatch) -> None:
    """Zeros in a weight of the encoder, as a torn write leaves them."""
    sound = load.load_weights

    def loaded(*words: Any) -> dict[str, Tensor]:
        weights = sound(*words)
        if "tokens.weight" in weights:
            weights["layers.0.up.weight"].view(-1)[:64] = 0
        return weights

    patch.setattr(load, "load_weights", loaded)


@pytest.mark.usefixtures("device_in_this_process")
def test_a_run_that_is_resumed_by_a_damaged_machine_ends_there_and_goes_on_elsewhere(
    submit: Bei, bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise EncodeError("the device is gone")

    words = (write_parquet(tmp_path / "corpus.parquet"), "--output", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.run.read_blocks", broken)
        patch.setattr("workers.shard_runner._MAX_DEATHS", 1)
        assert submit(*words).code == 1
    with monkeypatch.context() as patch:
        tear(patch)
        refused = submit(*words)
    assert refused.code == 1
    assert "computes other values than the first one of run 1" in refused.screen[0]
    assert "docs/operations.md" in refused.screen[1]
    assert bei("status", tmp_path / "out", "--json").json["state"] == "interrupted"
    assert parts(tmp_path / "out") == []
    done = submit(*words, "--json")
    assert (done.code, done.json["run"], done.json["rows"]["computed"]) == (0, 1, 20)


@pytest.mark.usefixtures("device_in_this_process")
def test_a_night_that_computes_otherwise_than_the_one_before_says_so(
    submit: Bei, bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    for night in range(3):
        write_parquet(corpus / f"{night}.parquet", 5, seed=night)
        with monkeypatch.context() as patch:
            if night == 2:
                tear(patch)
            (canary,) = submit(corpus, "--output", output, "--json").json["canaries"]
        assert canary["since"] == (night or None)
        assert bool(canary["change"]) == (night == 2)
    assert "where float32 allows 1e-03" in canary["change"]
    assert canary["precision"] == "float32"
    assert canary["versions"].keys() >= {"torch", "tokenizers"}
    shown = bei("status", output).out
    assert f"canary  not that of run 2: {canary['change']}; now {canary['by']}" in shown


def test_other_instructions_and_threads_of_a_chip_are_no_other_values(
    submit: Bei, tmp_path: Path
) -> None:
    """Also between processes: the second computes as a chip of fifteen years ago."""
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    write_parquet(corpus / "0.parquet", 5)
    assert submit(corpus, "--output", output).code == 0
    write_parquet(corpus / "1.parquet", 5, seed=1)
    words = ("submit", corpus, "--output", output, "--model", TINY, "--device", "cpu", "--json")
    old = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
    out, err = spawn(*words, **old).communicate()
    (canary,) = json.loads(out)["canaries"]
    assert (canary["since"], canary["change"]) == (1, ""), err
    first, second = (
        json.loads((output / f"_bei/runs/{n}/canary-float32.json").read_text())["values"]
        for n in (1, 2)
    )
    assert first != second  # it did compute otherwise


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bert_mean", [16, 32]), ("bge_reranker_xlmr", [16, 1]), ("langid_xlmr", [16, 5]),
        ("ner_bert", [None, 9]),
    ],
)  # fmt: skip
def test_every_task_has_a_canary(submit: Bei, tmp_path: Path, name: str, shape: list[int]) -> None:
    rows = {"query": ["q"] * 2, "documents": [["a", "b"]] * 2}
    corpus = write_parquet(tmp_path / "corpus.parquet", 2, **rows)
    words = (corpus, "--model", GOLDENS / name, "--output", tmp_path / "out")
    task = {"bge_reranker_xlmr": "rerank", "langid_xlmr": "classify", "ner_bert": "tag"}
    assert submit(*words, "--task", task.get(name, "embed")).code == 0
    (file,) = (tmp_path / "out/_bei/runs/1").glob("canary-*.json")
    height, width = json.loads(file.read_text())["shape"]
    assert width == shape[1]
    assert height == shape[0] or (shape[0] is None and height > 100)


def test_a_run_of_an_earlier_version_gets_one_when_it_is_resumed(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus, output = write_parquet(tmp_path / "corpus.parquet"), tmp_path / "out"
    assert submit(corpus, "--output", output).code == 0
    for file in (output / "_bei/runs/1").glob("canary-*"):
        file.unlink()
    assert bei("status", output, "--json").json["canaries"] == []
    (output / parts(output)[0]).unlink()
    again = submit(corpus, "--output", output, "--json").json
    assert [canary["since"] for canary in again["canaries"]] == [None]
    assert bei("verify", output).code == 0


def test_a_damaged_canary_stops_no_status(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    assert submit(write_parquet(tmp_path / "c.parquet"), "--output", tmp_path / "out").code == 0
    (tmp_path / "out/_bei/runs/1/canary-float32.json").write_text("[" * 100_000)
    assert bei("status", tmp_path / "out", "--json").json["canaries"] == []

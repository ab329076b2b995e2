"""`bei-jobs check` proves what a job computes, and a run records the certificate."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commandline import Bei
from corpora import GOLDENS, TINY, write_parquet

from pipeline.encoder.card import open_card
from pipeline.encoder.engine import Engine
from pipeline.output.certificate import (
    Certificate,
    certificate_key,
    find_certificate,
    write_certificate,
)
from pipeline.planning.make_spec import sample_spec
from pipeline.tokenize.texts import TextTokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of this test alone."""
    monkeypatch.setenv("BEI_JOBS_CACHE_DIR", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "sample.parquet", 12)


def proofs(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {proof["name"]: proof for proof in answer["certificate"]["proofs"]}


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("bert_mean", "sentence-transformers"), ("modernbert_reranker", "sentence-transformers"),
        ("go_emotions_roberta", "transformers"), ("ner_bert", "transformers"),
    ],
)  # fmt: skip
def test_each_task_is_proved_against_the_authors_library(
    bei: Bei, cache: Path, sample: Path, name: str, library: str
) -> None:
    done = bei("check", GOLDENS / name, "--sample", sample, "--precision", "bfloat16", "--json")

    assert done.code == 0, done.out
    found = proofs(done.json)
    assert {name: proof["passed"] for name, proof in found.items()} == {
        "finite values": True,
        "batch invariance in bfloat16": True,
        "batch invariance in float32": True,
        "tokens": True,
        "values": True,
    }
    assert found["batch invariance in float32"]["measured"].keys() == {"alone", "order", "budget"}
    assert max(found["batch invariance in float32"]["measured"].values()) < 1e-5
    assert found["values"]["note"].startswith(f"as {library} ")
    assert found["values"]["measured"]["difference"] < 1e-4
    assert found["values"]["rows"] >= 12


def test_a_row_that_depends_on_its_neighbours_fails(
    bei: Bei, cache: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.run

    def leaky(self: Engine, batches: Any, *words: Any) -> Any:
        for batch, outputs in run(self, batches, *words):
            yield batch, outputs + np.float32(0.01) * len(batch)

    monkeypatch.setattr(Engine, "run", leaky)
    done = bei("check", TINY, "--sample", sample)

    assert done.code == 1
    assert "batch invariance in float32: FAILS on 12 rows (a row's values depend on" in done.out


def test_other_tokens_are_shown(
    bei: Bei, cache: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = TextTokenizer.encode_column

    def shouting(self: TextTokenizer, column: pa.Array, prompt: str = "") -> Any:
        texts = column.to_pylist()
        changed = [texts[0], texts[1] + " more", *texts[2:]]
        return encode(self, pa.array(changed, column.type), prompt)

    monkeypatch.setattr(TextTokenizer, "encode_column", shouting)
    done = bei("check", TINY, "--sample", sample, "--json")

    assert done.code == 1
    tokens = proofs(done.json)["tokens"]
    assert (tokens["passed"], tokens["measured"]) == (False, {"different": 1.0})
    assert "input 2: id " in tokens["note"]
    assert proofs(done.json)["values"]["passed"] is False  # the text is another one


def test_values_that_differ_from_the_library_fail(
    bei: Bei, cache: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Engine.run

    def wrong(self: Engine, batches: Any, *words: Any) -> Any:
        for batch, outputs in run(self, batches, *words):
            yield batch, np.roll(outputs, 1, axis=1)

    monkeypatch.setattr(Engine, "run", wrong)
    done = bei("check", TINY, "--sample", sample)

    assert done.code == 1
    assert "values: FAILS on 12 rows (not sentence-transformers" in done.out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("jina_en", "its authors' code is in the checkpoint"),
        ("gte_new_ntk", "sentence-transformers cannot load it"),
    ],
)
def test_what_the_library_cannot_load_is_said_and_fails_nothing(
    bei: Bei, cache: Path, sample: Path, name: str, reason: str
) -> None:
    done = bei("check", GOLDENS / name, "--sample", sample, "--rows", 2)

    assert done.code == 0
    assert "values: not tried" in done.out
    assert reason in done.out


def test_a_library_that_is_not_installed_is_said(
    bei: Bei, cache: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = bei("check", TINY, "--sample", sample)

    assert done.code == 0
    assert "values: not tried (sentence-transformers is not installed)" in done.out
    assert "tokens: not tried (AutoTokenizer cannot be loaded" in done.out


def test_random_weights_of_the_library_are_no_reference(
    bei: Bei, cache: Path, sample: Path, tmp_path: Path
) -> None:
    """A Jina encoder without the mark of its code: transformers takes it for a BERT."""
    folder = shutil.copytree(GOLDENS / "jina_en", tmp_path / "jina")
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    done = bei("check", folder, "--sample", sample, "--rows", 2)

    assert done.code == 0, done.out
    assert "it would compute with random weights" in done.out


def checked(bei: Bei, *words: object) -> dict[str, Any]:
    certificate: dict[str, Any] = bei("check", *words, "--json").json["certificate"]
    return certificate


def test_a_run_records_the_certificate_of_its_model(
    bei: Bei, cache: Path, sample: Path, tmp_path: Path
) -> None:
    certificate = checked(bei, TINY, "--sample", sample)
    corpus = write_parquet(tmp_path / "corpus.parquet")
    done = bei("submit", corpus, "--model", TINY, "--device", "cpu", "--json")

    assert f"checked on {certificate['at']} on cpu in float32: finite values, batch" in done.err
    assert done.json["certificate"] == certificate
    output = tmp_path / "corpus.embed"
    stored = json.loads((output / "_bei/runs/1/run.json").read_text())["record"]["certificate"]
    assert stored == {key: certificate[key] for key in certificate if key != "digest"}
    assert bei("status", output, "--json").json["certificate"] == certificate
    assert f"model   checked on {certificate['at']}" in bei("status", output).out


def test_a_failed_proof_is_a_warning_of_every_run(
    bei: Bei, cache: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.check.invariance.TOLERANCE", {"float32": -1.0})
        assert bei("check", TINY, "--sample", sample).code == 1
    corpus = write_parquet(tmp_path / "corpus.parquet")
    done = bei("submit", corpus, "--model", TINY, "--device", "cpu", "--json", "--quiet")

    assert done.code == 0
    (warning,) = done.json["warnings"]
    assert "FAILED: batch invariance in float32" in warning


@pytest.mark.parametrize("other", ["model", "precision", "versions", "numerics", "damaged"])
def test_a_certificate_is_for_these_weights_and_versions_alone(
    bei: Bei, cache: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    checked(bei, TINY, "--sample", sample, "--rows", 1)
    (file,) = (cache / "certificates").iterdir()
    words: tuple[object, ...] = ("--model", TINY)
    if other == "model":
        words = ("--model", GOLDENS / "roberta_mean")
    elif other == "precision":
        words = (*words, "--precision", "bfloat16")
    elif other == "versions":
        monkeypatch.setattr("pipeline.output.certificate.software_versions", lambda: {"torch": "9"})
    elif other == "numerics":
        monkeypatch.setattr("pipeline.output.certificate.NUMERICS_VERSION", 2)
    else:
        file.write_text(file.read_text().replace('"rows": 1', '"rows": -1'))
    corpus = write_parquet(tmp_path / "corpus.parquet")
    done = bei("submit", corpus, *words, "--device", "cpu", "--json")

    assert done.json["certificate"] is None
    assert "certificate      none for this model: `bei-jobs check` makes one" in done.err


_PROOF = {"name": "a", "passed": True, "rows": 1, "measured": {}, "note": ""}


@pytest.mark.parametrize(
    "change",
    [
        {"at": "x" * 500}, {"by": "a\x1b[2J"}, {"proofs": [{"name": "values"}]}, {"proofs": 3},
        {"proofs": [{"name": "a", "passed": "yes", "rows": 1, "measured": {}, "note": ""}]},
        {"proofs": [{"name": "a", "passed": 1, "rows": 1, "measured": {}, "note": ""}]},
        {"proofs": [{**_PROOF, "measured": {"x": 10**400}}]},
        {"proofs": [{**_PROOF, "measured": {"x": float("nan")}}]},
        {"key": "0" * 16}, {"max_length": None},
    ],
)  # fmt: skip
def test_a_forged_or_damaged_certificate_counts_as_none(
    cache: Path, change: dict[str, Any]
) -> None:
    spec = sample_spec(open_card(TINY, cache_dir=cache), "embed", precision="auto", max_length=None)
    sound = Certificate(certificate_key(spec), "now", "me", "cpu", "float32", "0", 8, ())
    write_certificate(cache, sound)
    assert find_certificate(cache, spec) == sound
    (file,) = (cache / "certificates").iterdir()
    file.write_text(json.dumps({**sound.to_json(), **change}))
    assert find_certificate(cache, spec) is None


def test_a_reranker_is_sampled_with_short_queries(bei: Bei, cache: Path) -> None:
    """The built-in texts are long: a whole one as a query would leave no room for a document."""
    done = bei("check", GOLDENS / "modernbert_reranker", "--rows", 3, "--json")

    assert proofs(done.json)["tokens"]["rows"] > 0

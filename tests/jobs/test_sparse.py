"""Sparse vectors, alone and beside dense ones, from the command line to the columns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import GOLDENS, texts, write_parquet
from forgery import rewrite_part, with_values

from pipeline.output.output import Output
from workers.engine_cache import verified_card

SPARSE = GOLDENS.parent / "sparse_goldens"
NAMES = ("splade_bert", "splade_bare", "splade_router", "bge_m3")
SPLADE = SPARSE / "splade_bert"
M3 = SPARSE / "bge_m3"
TOLERANCE = 1e-4
TOLERANCE_OF = {
    "sparse_indices": 0, "sparse_values": TOLERANCE, "embedding_float16": 1e-3,
    "embedding_int8": 1, "embedding_int8_scale": TOLERANCE,  # 1: may round to its neighbour
}  # fmt: skip
Case = dict[str, Any]


def cases() -> list[tuple[str, list[str], Case]]:
    found = []
    for name in NAMES:
        content = json.loads((SPARSE / name / "cases.json").read_text())
        found += [(name, content["texts"], case) for case in content["cases"]]
    return found


def corpus(folder: Path, given: list[str | None], **columns: list[Any]) -> Path:
    pq.write_table(pa.table({"text": given, **columns}), folder / "c.parquet")
    return folder / "c.parquet"


def matrix(table: pa.Table, terms: int = 400) -> Any:
    """Sparse vectors as rows of all terms; zeros where there is none."""
    rows = np.zeros((len(table), terms), dtype=np.float32)
    lists = (table[name].to_pylist() for name in ("sparse_indices", "sparse_values"))
    for row, (indices, values) in enumerate(zip(*lists, strict=True)):
        rows[row, indices or []] = values or []
    return rows


@pytest.mark.parametrize(("name", "given", "case"), cases())
def test_terms_and_weights_are_those_of_the_reference(
    bei: Bei, submit: Bei, tmp_path: Path, name: str, given: list[str], case: Case
) -> None:
    words = ("--model", SPARSE / name, "--precision", "float32", *case["options"])
    assert submit(corpus(tmp_path, [*given]), *words).code == 0
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    for row, expected in zip(table.to_pylist(), case["expected"], strict=True):
        assert row["sparse_indices"] == expected["indices"]
        np.testing.assert_allclose(row["sparse_values"], expected["values"], rtol=0, atol=TOLERANCE)
    if "dense" in case:
        dense = np.stack(table["embedding"].to_numpy())
        np.testing.assert_allclose(dense, case["dense"], rtol=0, atol=TOLERANCE)


def test_a_row_has_the_same_terms_alone_and_in_company(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    given = [*texts(40), "a", "a much longer text than all of the others " * 9]
    words = ("--model", SPLADE, "--precision", "float32")
    path = corpus(tmp_path, [*given])
    assert submit(path, *words).code == 0
    assert submit(path, *words, "--token-budget", 1, "--output", tmp_path / "alone").code == 0
    together, alone = (read_output(bei, tmp_path / name) for name in ("c.embed", "alone"))
    np.testing.assert_allclose(matrix(together), matrix(alone), rtol=0, atol=1e-5)


def test_the_largest_weights_are_kept_and_named(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    path = corpus(tmp_path, ["go", None, "read and write"])
    words = ("--model", SPLADE, "--max-failed-rows", 1, "--output-dtype", "float16")
    assert submit(path, *words, "--output", tmp_path / "all").code == 3
    top = ("--sparse-top-k", 7, "--sparse-terms", "--output-format", "parquet")
    assert submit(path, *words, *top).code == 3
    assert bei("verify", tmp_path / "c.embed").code == 0
    whole = read_output(bei, tmp_path / "all").to_pylist()
    table = read_output(bei, tmp_path / "c.embed")
    assert table.schema.field("sparse_values").type == pa.list_(pa.float16())
    assert table.schema.field("sparse_indices").type == pa.list_(pa.int32())
    assert table["sparse_terms"][1].as_py() is None
    vocabulary = json.loads((SPLADE / "tokenizer.json").read_text())["model"]["vocab"]
    for row, full in zip(table.to_pylist(), whole, strict=True):
        if full["error"]:
            assert row["sparse_indices"] is row["sparse_values"] is None
            continue
        pairs = zip(full["sparse_values"], full["sparse_indices"], strict=True)
        best = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:7]
        assert row["sparse_indices"] == sorted(index for _, index in best)
        assert [vocabulary[term] for term in row["sparse_terms"]] == row["sparse_indices"]


def test_equal_weights_are_cut_by_their_index(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    """In a table of equal weights, any cut but the first terms would depend on a sort."""
    from safetensors.numpy import save_file

    model = tmp_path / "model"
    shutil.copytree(SPARSE / "splade_router", model)
    weights = {"weight": np.ones(400, dtype=np.float32)}
    save_file(weights, model / "query_0_SparseStaticEmbedding/model.safetensors")
    path = corpus(tmp_path, ["read and write, read and write again"])
    words = ("--model", model, "--kind", "query")
    assert submit(path, *words, "--output", tmp_path / "all").code == 0
    assert submit(path, *words, "--sparse-top-k", 3).code == 0
    whole, cut = (read_output(bei, tmp_path / n).to_pylist()[0] for n in ("all", "c.embed"))
    assert cut["sparse_indices"] == whole["sparse_indices"][:3]


def test_a_night_copies_rows_and_an_older_one_goes_on(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    words = ("--model", M3, "--vectors", "dense,sparse", "--output-dtype", "float32,int8", "--json")
    path = write_parquet(tmp_path / "c.parquet", 12)
    assert submit(path, *words).json["rows"]["computed"] == 12
    first = read_output(bei, tmp_path / "c.embed")
    write_parquet(path, 14)
    again = submit(path, *words).json["rows"]
    assert (again["computed"], again["reused"]) == (2, 12)
    assert read_output(bei, tmp_path / "c.embed").slice(0, 12).equals(first)
    assert bei("verify", tmp_path / "c.embed").code == 0
    other = submit(path, *words[:-1], "--vectors", "dense")
    assert other.code == 1
    assert "vectors" in other.err


def test_terms_that_contradict_each_other_are_found(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    assert submit(corpus(tmp_path, ["go", "read"]), "--model", SPLADE).code == 0
    (part,) = (tmp_path / "c.embed").glob("part-*.arrow")

    def turned(table: pa.Table) -> pa.Table:
        indices = table["sparse_indices"].to_pylist()
        return with_values(table, "sparse_indices", [row[::-1] for row in indices])

    rewrite_part(part, turned)
    found = bei("verify", tmp_path / "c.embed")
    assert found.code == 1
    assert "sparse_indices are not ascending" in found.out + found.err


LONG = " ".join(f"They read book {number} and write, then go." for number in range(12))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (SPLADE, ("--sparse-terms", "--sparse-top-k", 9)),
        (M3, ("--vectors", "dense,sparse", "--output-dtype", "float16,int8")),
        (SPARSE / "splade_router", ("--kind", "query")),
    ],
)
def test_each_chunk_has_the_vectors_that_it_has_alone(
    bei: Bei, submit: Bei, tmp_path: Path, model: Path, words: tuple[object, ...]
) -> None:
    given = [LONG, None, "go", LONG]
    shared = ("--model", model, "--precision", "float32", "--max-failed-rows", 1, *words)
    chunked = (*shared, "--long-texts", "chunk", "--chunk-tokens", 24, "--json")
    assert submit(corpus(tmp_path, given, id=[*"abcd"]), *chunked).code == 3
    corpus(tmp_path, [*given, LONG + " Again."], id=[*"abcde"])
    again = submit(tmp_path / "c.parquet", *chunked)  # other rows are folded, copied and unfolded
    assert again.json["rows"]["computed"] == 1
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    own: list[str | None] = [
        text and text[row["chunk_start"] : row["chunk_end"]]
        for row in table.to_pylist()
        for text in [{"b": None, "c": "go", "e": LONG + " Again."}.get(row["id"], LONG)]
    ]
    assert submit(corpus(tmp_path, own), *shared, "--output", tmp_path / "alone").code == 3
    expected = read_output(bei, tmp_path / "alone")
    written = [name for name in table.column_names if name.startswith(("sparse", "embedding"))]
    assert len(written) >= 2
    assert len(table) > 10
    for name in written:
        assert table[name].type == expected[name].type
        for found, value in zip(table[name].to_pylist(), expected[name].to_pylist(), strict=True):
            if name == "sparse_terms" or value is None:
                assert found == value
            else:
                np.testing.assert_allclose(found, value, rtol=0, atol=TOLERANCE_OF[name])


def test_sparse_vectors_are_exported_but_to_no_array(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    submit(corpus(tmp_path, texts(3)), "--model", SPLADE)
    refused = bei("export", tmp_path / "c.embed", tmp_path / "out.npy")
    assert refused.code == 2
    assert "holds no dense vectors, only sparse ones" in refused.screen[0]
    assert bei("export", tmp_path / "c.embed", tmp_path / "out.parquet").code == 0
    exported = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert exported == read_output(bei, tmp_path / "c.embed").to_pylist()


@pytest.mark.parametrize("policy", ["late-chunk", "pool"])
def test_what_makes_a_vector_of_several_is_for_dense_ones(
    submit: Bei, tmp_path: Path, policy: str
) -> None:
    for model, words in ((SPLADE, ()), (M3, ("--vectors", "dense,sparse"))):
        path = corpus(tmp_path, [LONG])
        done = submit(path, "--model", model, "--long-texts", policy, *words)
        said = " ".join(done.screen)
        assert f"--long-texts {policy} makes dense vectors only" in said
        assert "use --long-texts chunk" in said
        assert ("or --vectors dense" in said) == (model == M3)
    assert not (tmp_path / "c.embed").exists()


@pytest.mark.parametrize(
    ("model", "words", "said", "advice"),
    [
        (SPLADE, ("--vectors", "dense"), "no head for dense vectors", "--vectors sparse"),
        (GOLDENS / "bert_mean", ("--vectors", "sparse"), "it gives dense ones", "dense"),
        (GOLDENS / "e5_xlmr", ("--vectors", "dense,sparse"), "for sparse", "sparse_linear.pt"),
        (SPLADE, ("--dimensions", 8), "--dimensions belongs to dense", "omit it"),
        (SPLADE, ("--output-dtype", "int8"), "sparse_values are float32", "float16"),
        (SPLADE, ("--kind", "query"), "reads queries and documents alike", "document, query"),
        (M3, ("--sparse-top-k", 3), "--sparse-top-k belongs to sparse", "--vectors sparse,dense"),
        (M3, ("--vectors", "sparse,sparse"), "one of them twice", "once"),
        (M3, ("--vectors", "multi"), "no head for multi vectors", "dense,sparse"),
        (M3, ("--vectors", "late"), "'late' is not one of", "dense"),
    ],
)
def test_what_a_model_does_not_give_is_refused_by_name(
    submit: Bei, tmp_path: Path, model: Path, words: tuple[object, ...], said: str, advice: str
) -> None:
    done = submit(corpus(tmp_path, ["go"]), "--model", model, *words)
    assert done.code in (1, 2)
    assert said in " ".join(done.screen)
    assert advice in " ".join(done.screen)
    assert not (tmp_path / "c.embed").exists()


def test_a_pickle_beside_a_model_is_never_read(submit: Bei, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(M3, model)
    (model / "sparse_linear.safetensors").rename(model / "sparse_linear.pt")
    done = submit(corpus(tmp_path, ["go"]), "--model", model, "--vectors", "sparse")
    assert done.code == 1
    assert "convert the published sparse_linear.pt once" in done.err


def test_models_names_the_heads_of_a_checkpoint(bei: Bei) -> None:
    assert bei("models", M3, "--json").json["vectors"] == ["dense", "sparse"]
    assert bei("models", SPLADE, "--json").json["vectors"] == ["sparse"]
    assert bei("models", SPARSE / "splade_router", "--json").json["kinds"] == ["query", "document"]
    assert "max over tokens of log(1 + relu(logit)), of 400 terms" in bei("models", SPLADE).out


def test_check_proves_terms_beside_sentence_transformers(bei: Bei) -> None:
    done = bei("check", SPLADE, "--device", "cpu", "--rows", 8, "--json")
    assert done.code == 0, done.err
    proofs = {proof["name"]: proof for proof in done.json["certificate"]["proofs"]}
    assert proofs["values"]["passed"] is True
    assert proofs["values"]["rows"] == 8


@pytest.mark.parametrize(("kind", "table"), [("query", True), ("document", False)])
def test_a_worker_reads_the_modules_that_the_job_was_submitted_with(
    submit: Bei, tmp_path: Path, checkpoint_cache: Path, kind: str, table: bool
) -> None:
    words = ("--model", SPARSE / "splade_router", "--kind", kind)
    assert submit(corpus(tmp_path, ["go"]), *words).code == 0
    run = Output(str(tmp_path / "c.embed")).latest()
    assert run is not None
    assert verified_card(run.spec, checkpoint_cache).config.static is table


def test_a_text_with_too_many_terms_is_an_error_that_says_what_to_do(
    bei: Bei, submit: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    device_in_this_process: None,
) -> None:  # fmt: skip
    for module in ("tasks.sparse_columns", "encoder.model.load"):
        monkeypatch.setattr(f"pipeline.{module}.MAX_TERMS", 20)
    assert submit(corpus(tmp_path, ["go"]), "--model", SPLADE, "--max-failed-rows", 1).code == 3
    (row,) = read_output(bei, tmp_path / "c.embed").to_pylist()
    assert row["error"] == "the text has more than 20 terms: give --sparse-top-k"
    more = ("--sparse-top-k", 30, "--output", tmp_path / "more")
    assert submit(tmp_path / "c.parquet", "--model", SPLADE, *more).code == 0
    assert len(read_output(bei, tmp_path / "more")["sparse_indices"][0]) == 30


def test_a_text_with_too_many_terms_in_a_chunk_leaves_the_others_as_they_are(
    bei: Bei, submit: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    device_in_this_process: None,
) -> None:  # fmt: skip
    words = ("--model", SPARSE / "splade_router", "--kind", "query")
    words = (*words, "--long-texts", "chunk", "--chunk-tokens", 40)
    path = corpus(tmp_path, ["go", LONG, "read"])
    assert submit(path, *words, "--output", tmp_path / "all").code == 0
    for module in ("tasks.sparse_columns", "encoder.model.load"):
        monkeypatch.setattr(f"pipeline.{module}.MAX_TERMS", 4)
    assert submit(path, *words, "--max-failed-rows", 1).code == 3
    first, failed, last = read_output(bei, tmp_path / "c.embed").to_pylist()
    assert "more than 4 terms" in failed["error"]
    assert failed["sparse_indices"] is failed["chunk"] is None
    whole = read_output(bei, tmp_path / "all").to_pylist()
    assert [first, last] == [whole[0], whole[-1]]

"""A vector for each token, alone and beside other vectors, from the command line to the columns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import GOLDENS, write_parquet
from forgery import rewrite_part, with_values
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

MULTI = GOLDENS.parent / "multi_goldens"
COLBERT, PYLATE, M3 = (MULTI / name for name in ("colbert_v2", "pylate", "bge_m3"))
SPARSE_M3 = GOLDENS.parent / "sparse_goldens/bge_m3"
TOLERANCE = 1e-4
PUNCTUATED = "read/write NTFS driver, for FUSE!"
LONG = " ".join(f"They read book {number} and write, then go." for number in range(12))


def content(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model / "cases.json").read_text())
    return found


def corpus(folder: Path, given: list[str | None], **columns: list[Any]) -> Path:
    pq.write_table(pa.table({"text": given, **columns}), folder / "c.parquet")
    return folder / "c.parquet"


def vectors(table: pa.Table, name: str = "vectors") -> list[Any]:
    return [None if row is None else np.array(row) for row in table[name].to_pylist()]


def assert_near(ours: list[Any], theirs: list[Any], tolerance: float = TOLERANCE) -> None:
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(row, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["query", "document"])
@pytest.mark.parametrize("model", [COLBERT, PYLATE])
def test_vectors_are_those_of_the_authors_code(
    submit: Bei, bei: Bei, tmp_path: Path, model: Path, kind: str
) -> None:
    path = corpus(tmp_path, content(model)["texts"])
    words = ("--model", model, "--precision", "float32", "--kind", kind)
    assert submit(path, *words).code == 0
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    (case,) = (case for case in content(model)["cases"] if kind in case["options"])
    assert_near(vectors(table), case["expected"])
    if kind == "query":  # the tokens that fill it up are read, too
        assert table["n_tokens"].to_pylist() == [len(row) for row in case["expected"]]


def test_types_scales_and_places_are_of_each_token(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    path = corpus(tmp_path, [PUNCTUATED, None, LONG, ""])
    words = ("--model", COLBERT, "--output-dtype", "float32,float16,int8,binary", "--json")
    words = (*words, "--token-offsets", "--max-failed-rows", 1, "--output-format", "parquet")
    done = submit(path, *words)
    assert done.code == 3
    assert done.json["truncated"] == 1
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    width = len(content(COLBERT)["cases"][0]["expected"][0][0])
    for name, value in (("float32", pa.float32()), ("float16", pa.float16()), ("int8", pa.int8())):
        column = table.schema.field(f"vectors_{name}").type
        assert (column.value_type.value_type, column.value_type.list_size) == (value, width)
    assert table.schema.field("vectors_int8_scale").type == pa.list_(pa.float32())
    exact, half, small, signs, scales = (
        vectors(table, f"vectors_{name}")
        for name in ("float32", "float16", "int8", "binary", "int8_scale")
    )
    tokenizer = Tokenizer.from_file(str(COLBERT / "tokenizer.json"))
    for row, text in enumerate([PUNCTUATED, None, LONG, ""]):
        starts, ends = (table[f"vector_{name}"][row].as_py() for name in ("starts", "ends"))
        if text is None:
            assert exact[row] is half[row] is small[row] is scales[row] is starts is ends is None
            continue
        np.testing.assert_allclose(np.linalg.norm(exact[row], axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(half[row], exact[row].astype(np.float16))
        largest = np.abs(exact[row]).max(axis=1)
        np.testing.assert_allclose(scales[row], largest / 127, rtol=1e-6)
        apart = np.abs(small[row] * scales[row][:, None] - exact[row])
        assert (apart.max(axis=1) <= scales[row] / 2 + 1e-7).all()
        np.testing.assert_array_equal(signs[row], np.packbits(exact[row] > 0, axis=1))
        # The special tokens and the marker stand for no text, and punctuation has no vector.
        assert starts[:2] == starts[-1:] * 2 == ends[:2] == ends[-1:] * 2 == [None, None]
        own = tokenizer.encode(text, add_special_tokens=False)
        spans = zip(own.tokens, own.offsets, strict=True)
        kept = [span for token, span in spans if token not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"]
        assert [*zip(starts[2:-1], ends[2:-1], strict=True)] == kept[: len(starts) - 3]
        assert len(starts) == len(exact[row])


def test_three_kinds_of_vectors_come_from_one_pass(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    expected = content(M3)
    path = corpus(tmp_path, expected["texts"])
    words = ("--model", M3, "--precision", "float32")
    assert submit(path, *words, "--vectors", "multi,dense,sparse").code == 0
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    names = ["embedding", "sparse_indices", "sparse_values", "vectors"]
    assert [name for name in table.column_names if name in names] == names
    assert_near(vectors(table), expected["cases"][0]["expected"])
    assert_near(vectors(table, "embedding"), expected["dense"])
    assert bei("models", M3, "--json").json["vectors"] == ["dense", "sparse", "multi"]


def test_a_night_copies_rows_and_exports_them(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    words = ("--model", COLBERT, "--output-dtype", "int8", "--token-offsets", "--json")
    path = write_parquet(tmp_path / "c.parquet", 12)
    assert submit(path, *words).json["rows"]["computed"] == 12
    first = read_output(bei, tmp_path / "c.embed")
    write_parquet(path, 14)
    again = submit(path, *words).json["rows"]
    assert (again["computed"], again["reused"]) == (2, 12)
    table = read_output(bei, tmp_path / "c.embed")
    assert table.slice(0, 12).equals(first)
    assert bei("verify", tmp_path / "c.embed").code == 0
    assert submit(path, *words[:-2]).code == 1  # other columns are another output
    reported = bei("report", tmp_path / "c.embed", tmp_path / "c.html", "--json").json
    assert "dimensions" not in reported["computed_with"]
    refused = bei("rehearse", path, "--from", tmp_path / "c.embed", "--to", "max-length=9")
    assert "writes no dense or sparse vectors, which are compared" in refused.err
    out = tmp_path / "rows.parquet"
    assert bei("export", tmp_path / "c.embed", out).code == 0
    exported = pq.read_table(out)
    for name in ("vectors", "vectors_scale", "vector_starts"):
        assert exported[name].to_pylist() == table[name].to_pylist()
    assert "holds no dense vectors" in bei("export", tmp_path / "c.embed", tmp_path / "v.npy").err


def test_columns_that_contradict_each_other_are_found(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    words = ("--model", COLBERT, "--output-dtype", "int8", "--token-offsets")
    assert submit(corpus(tmp_path, ["go", "read"]), *words).code == 0
    (part,) = (tmp_path / "c.embed").glob("part-*.arrow")
    original = part.read_bytes()

    def found(name: str, change: Callable[[list[Any]], list[Any]]) -> str:
        part.write_bytes(original)
        rewrite_part(
            part,
            lambda table: with_values(table, name, [*map(change, table[name].to_pylist())]),
        )
        done = bei("verify", tmp_path / "c.embed")
        assert done.code == 1
        return done.out + done.err

    assert "vectors_scale has not as many entries as vectors" in found(
        "vectors_scale", lambda row: row[1:]
    )
    assert "vector_starts lie after vector_ends" in found(
        "vector_starts", lambda row: [start and start + 90 for start in row]
    )


def test_each_chunk_has_the_vectors_that_it_has_alone(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    shared = ("--model", PYLATE, "--precision", "float32", "--max-failed-rows", 1)
    words = (*shared, "--long-texts", "chunk", "--chunk-tokens", 24)
    given = [LONG, None, "go", LONG]
    assert submit(corpus(tmp_path, given, id=[*"abcd"]), *words).code == 3
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    assert len(table) > 10
    texts = dict(zip("abcd", given, strict=True))
    own: list[str | None] = [
        text and text[row["chunk_start"] : row["chunk_end"]]
        for row in table.to_pylist()
        for text in [texts[row["id"]]]
    ]
    assert submit(corpus(tmp_path, own), *shared, "--output", tmp_path / "alone").code == 3
    alone = vectors(read_output(bei, tmp_path / "alone"))
    pairs = zip(vectors(table), alone, strict=True)
    both = [(found, value) for found, value in pairs if value is not None]
    assert len(both) == len(table) - 1
    assert_near([found for found, _ in both], [value for _, value in both])


def test_a_row_that_is_not_finite_is_quarantined_alone(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(COLBERT, model)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    weights = load_file(model / "model.safetensors")
    broken = tokenizer.encode("z", add_special_tokens=False).ids[0]
    weights["bert.embeddings.word_embeddings.weight"][broken] = np.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    path = corpus(tmp_path, ["go", "z", "read"])
    assert submit(path, "--model", model, "--max-failed-rows", 1).code == 3
    good, bad, other = read_output(bei, tmp_path / "c.embed").to_pylist()
    assert "not finite" in bad["error"]
    assert bad["vectors"] is None
    assert submit(path, "--model", COLBERT, "--output", tmp_path / "sound").code == 0
    sound = read_output(bei, tmp_path / "sound").to_pylist()
    assert_near([good["vectors"], other["vectors"]], [sound[0]["vectors"], sound[2]["vectors"]])


def test_a_text_without_any_vector_is_an_error_of_its_row(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(MULTI / "st_fixed", model)
    words = ["[CLS]", "[SEP]", "d", ":", "!"]
    (model / "2_MultiVectorMask/config.json").write_text(json.dumps({"skiplist_words": words}))
    given = ("--model", model, "--max-failed-rows", 1)
    assert submit(corpus(tmp_path, ["go", "!!!"]), *given).code == 3
    good, bad = read_output(bei, tmp_path / "c.embed").to_pylist()
    assert good["vectors"]
    assert (bad["vectors"], bad["error"]) == (
        None,
        "the text has no token with a vector for this model",
    )
    assert bei("verify", tmp_path / "c.embed").code == 0


def test_max_length_is_what_a_query_is_filled_up_to(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    path = corpus(tmp_path, ["go", LONG])
    words = ("--model", COLBERT, "--kind", "query", "--max-length", 20)
    assert submit(path, *words).code == 0
    table = read_output(bei, tmp_path / "c.embed")
    assert [len(row) for row in vectors(table)] == table["n_tokens"].to_pylist() == [20, 20]
    assert table["truncated"].to_pylist() == [False, True]


CHUNK = ("--long-texts", "chunk")


@pytest.mark.parametrize(
    ("model", "words", "said", "advice"),
    [
        (COLBERT, ("--vectors", "dense"), "no head for dense vectors", "--vectors multi"),
        (SPARSE_M3, ("--vectors", "multi"), "no head for multi vectors", "colbert_linear.pt"),
        (COLBERT, ("--kind", "query", "--prompt-name", "document"), "of the other", "--kind doc"),
        (M3, ("--token-offsets",), "--token-offsets belongs to multi", "multi,dense"),
        (COLBERT, ("--no-normalize",), "--normalize belongs to dense", "omit it"),
        (M3, ("--kind", "query"), "reads queries and documents alike", "omit it"),
        (COLBERT, ("--prompt-name", "query"), "texts of the other kind", "--kind query"),
        (COLBERT, ("--max-length", 3), "the 3 special tokens and markers", "give 4 or more"),
        (COLBERT, ("--long-texts", "cut-start"), "would cut the marker [unused", "cut-end"),
        (COLBERT, ("--long-texts", "pool"), "makes dense vectors only", "multi vectors for each"),
        (COLBERT, ("--long-texts", "late-chunk"), "makes dense vectors only", "chunk"),
        (COLBERT, (*CHUNK, "--kind", "query"), "fills each query up", "cut-end or error"),
        (COLBERT, (*CHUNK, "--token-offsets"), "cannot be used with --long-texts", "chunk_start"),
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


def test_models_says_how_texts_of_either_kind_are_read(bei: Bei) -> None:
    described = bei("models", COLBERT, "--json").json
    assert (described["vectors"], described["kinds"]) == (["multi"], ["query", "document"])
    shown = bei("models", COLBERT).out
    assert "values for each token" in shown
    assert "with masks, which its tokens do not see" in shown
    assert "no vector for 32 tokens such as !" in shown


def test_check_proves_vectors_beside_sentence_transformers(bei: Bei) -> None:
    done = bei("check", COLBERT, "--device", "cpu", "--rows", 8, "--json")
    assert done.code == 0, done.err
    proofs = {proof["name"]: proof for proof in done.json["certificate"]["proofs"]}
    for name in ("values", "tokens"):
        assert proofs[name]["passed"] is True, proofs[name]
        assert proofs[name]["rows"] == 8

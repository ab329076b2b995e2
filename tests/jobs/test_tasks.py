"""Rerank, classify and tag through the command line: inputs of every format, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import GOLDENS, TINY
from safetensors.numpy import load_file, save_file

RERANKER = GOLDENS / "bge_reranker_xlmr"
CLASSIFIER = GOLDENS / "langid_xlmr"
TAGGER = GOLDENS / "ner_bert"

QUERIES = ["what is a cat", "what is a dog"]
DOCUMENTS = [["an animal", "a car"], ["a plant"]]


def corpus(folder: Path, **columns: Any) -> Path:
    path = folder / "corpus.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def rows_of(bei: Bei, output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_output(bei, output).to_pylist()
    return rows


def test_rerank_writes_the_documented_schema_next_to_the_input(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    path = corpus(tmp_path, id=["a", "b"], query=QUERIES, documents=DOCUMENTS)
    assert submit(path, "--task", "rerank", "--model", RERANKER).code == 0
    table = read_output(bei, tmp_path / "corpus.rerank")
    assert table.schema == pa.schema(
        [
            ("id", pa.string()),
            ("scores", pa.list_(pa.float32())),
            ("ranking", pa.list_(pa.int32())),
            ("n_tokens", pa.int32()),
            ("truncated", pa.bool_()),
            ("error", pa.string()),
            ("row_key", pa.binary(16)),
        ]
    )
    assert [len(row["scores"]) for row in table.to_pylist()] == [2, 1]
    assert bei("verify", tmp_path / "corpus.rerank").code == 0


def regressor(folder: Path) -> Path:
    """A copy of the reranker whose config says that its logit is a value."""
    shutil.copytree(RERANKER, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "regression"}))
    return folder


def test_a_regression_has_the_scores_of_transformers_and_a_reranker_keeps_its_sigmoid(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    from transformers import pipeline

    model = regressor(tmp_path / "model")
    path = corpus(tmp_path, text=["hello world"], query=["hello"], document=["world"])
    assert submit(path, "--task", "classify", "--model", model).code == 0
    (row,) = rows_of(bei, tmp_path / "corpus.classify")
    (expected,) = pipeline("text-classification", model=str(model), device="cpu")("hello world")
    np.testing.assert_allclose(row["scores"], [expected["score"]], atol=1e-4)

    words = (path, "--task", "rerank", "--model", model, "--document-column", "document")
    assert submit(*words).code == 0
    assert submit(*words, "--raw-scores", "--output", tmp_path / "raw").code == 0
    (scored,), (raw,) = rows_of(bei, tmp_path / "corpus.rerank"), rows_of(bei, tmp_path / "raw")
    assert scored["score"] == pytest.approx(1 / (1 + np.exp(-raw["score"])), abs=1e-6)


def test_one_corpus_is_classified_and_tagged_side_by_side(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    path = corpus(tmp_path, text=["one", "two"])
    assert submit(path, "--task", "classify", "--model", CLASSIFIER).code == 0
    assert submit(path, "--task", "tag", "--model", TAGGER, "--aggregation", "none").code == 0
    labels = read_output(bei, tmp_path / "corpus.classify")
    assert labels.schema.field("labels").type == pa.list_(pa.string())
    assert labels.schema.field("scores").type == pa.list_(pa.float32())
    tokens = read_output(bei, tmp_path / "corpus.tag").schema.field("tokens").type.value_type
    assert [(field.name, str(field.type)) for field in tokens] == [
        ("token", "string"),
        ("token_id", "int32"),
        ("start", "int32"),
        ("end", "int32"),
        ("label", "string"),
        ("score", "float"),
    ]


def test_raw_scores_of_tokens_add_a_column_and_cut_smaller_shards(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    path, raw = corpus(tmp_path, text=["Ada"]), tmp_path / "raw"
    words = (path, "--task", "tag", "--model", TAGGER, "--aggregation", "none", "--json")
    best, every = (submit(*words, *more) for more in ([], ["--raw-scores", "--output", raw]))
    assert best.code == every.code == 0, every.err
    cut = [done.json["choices"]["rows-per-shard"]["value"] for done in (best, every)]
    assert cut[0] == 16_384 > cut[1]
    token = read_output(bei, raw).schema.field("tokens").type.value_type
    assert str(token.field("scores").type).startswith("fixed_size_list")


@pytest.mark.parametrize("suffix", ["jsonl", "arrow", "parquet"])
def test_lists_of_documents_are_read_from_every_format_that_has_them(
    bei: Bei, submit: Bei, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"corpus.{suffix}"
    table = pa.table({"query": QUERIES, "documents": DOCUMENTS})
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif suffix == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, path)
    keep = ("--keep", "documents")
    done = submit(path, "--task", "rerank", "--model", RERANKER, *keep)
    assert done.code == 0, done.err
    rows = rows_of(bei, tmp_path / "corpus.rerank")
    assert [row["documents"] for row in rows] == DOCUMENTS
    assert [len(row["scores"]) for row in rows] == [2, 1]


def test_pairs_are_read_from_csv_and_score_as_in_lists(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("query,document\nwhat is a cat,an animal\nwhat is a cat,a car\n")
    options = ("--task", "rerank", "--model", RERANKER, "--raw-scores")
    assert submit(path, *options, "--document-column", "document").code == 0
    lists = corpus(tmp_path, query=QUERIES[:1], documents=DOCUMENTS[:1])
    assert submit(lists, *options).code == 0
    pairs = [row["score"] for row in rows_of(bei, tmp_path / "pairs.rerank")]
    (scores,) = (row["scores"] for row in rows_of(bei, tmp_path / "corpus.rerank"))
    np.testing.assert_allclose(pairs, scores, atol=1e-5)


def test_a_row_with_a_null_is_quarantined_and_the_others_are_scored(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    path = corpus(tmp_path, query=["a", None, "c", "d"], documents=[["x"], ["y"], ["z", None], []])
    done = submit(path, "--task", "rerank", "--model", RERANKER, "--max-failed-rows", 2)
    assert done.code == 3
    rows = rows_of(bei, tmp_path / "corpus.rerank")
    assert [row["error"] for row in rows] == [
        None,
        "the query is null",
        "documents[1] is null",
        None,
    ]
    assert rows[3]["scores"] == rows[3]["ranking"] == []
    assert bei("verify", tmp_path / "corpus.rerank").code == 0


def test_a_long_document_is_truncated_and_a_long_query_is_an_error(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    long = "many words " * 50
    path = corpus(tmp_path, query=["a", long], documents=[["x", long], ["x"]])
    options = ("--task", "rerank", "--model", RERANKER, "--max-length", 20)
    assert submit(path, *options, "--max-failed-rows", 1).code == 3
    short, too_long = rows_of(bei, tmp_path / "corpus.rerank")
    assert short["truncated"]
    assert short["error"] is None
    assert "leaves none for a document within --max-length 20" in too_long["error"]


def test_a_long_text_is_tagged_to_its_end_or_refused(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    text = "Ada Lovelace wrote to Charles Babbage in London. " * 40
    path = corpus(tmp_path, text=[text, "short"])
    options = ("--task", "tag", "--model", TAGGER, "--max-length", 32)
    assert submit(path, *options).code == 0
    row = rows_of(bei, tmp_path / "corpus.tag")[0]
    assert row["entities"][-1]["end"] > len(text) - 60
    assert not row["truncated"]
    assert row["n_tokens"] > 400
    refused = submit(
        path, *options, "--truncate", "error", "--max-failed-rows", 1, "--output", tmp_path / "b"
    )
    assert refused.code == 3
    long, short = rows_of(bei, tmp_path / "b")
    assert "tokens, more than --max-length 32" in long["error"]
    assert long["entities"] is None
    assert short["error"] is None


def test_a_result_that_is_not_finite_fails_its_row_alone(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in RERANKER.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    (name,) = (n for n in weights if n.endswith("word_embeddings.weight"))
    from tokenizers import Tokenizer

    poison = Tokenizer.from_file(str(RERANKER / "tokenizer.json")).encode("z").ids[-2]
    weights[name][poison] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    path = corpus(tmp_path, query=["a", "b"], documents=[["b", "z", "c"], ["d"]])
    done = submit(path, "--task", "rerank", "--model", broken, "--max-failed-rows", 1)
    assert done.code == 3
    first, second = rows_of(bei, tmp_path / "corpus.rerank")
    assert first["scores"] is None
    assert "not finite" in first["error"]
    assert np.isfinite(second["scores"]).all()


@pytest.mark.parametrize(
    ("task", "model", "reason"),
    [
        ("rerank", TINY, "cannot rerank: it is an embedding model"),
        ("classify", TINY, "cannot classify: it is an embedding model"),
        ("tag", CLASSIFIER, "cannot tag: it is a sequence classifier"),
        ("embed", TAGGER, "cannot embed: it is a token classifier"),
        ("rerank", CLASSIFIER, "cannot rerank: it is a sequence classifier with several classes"),
    ],
)
def test_a_model_that_cannot_do_the_task_is_refused_before_anything_is_written(
    submit: Bei, tmp_path: Path, task: str, model: str, reason: str
) -> None:
    path = corpus(tmp_path, text=["a"], query=["a"], documents=[["b"]])
    done = submit(path, "--task", task, "--model", model)
    assert done.code == 1
    assert reason in done.screen[0]
    assert "--task" in done.screen[1]
    assert not (tmp_path / f"corpus.{task}").exists()


@pytest.mark.parametrize(
    ("task", "options", "reason"),
    [
        ("rerank", ["--dimensions", "8"], "--dimensions does not belong to --task rerank"),
        ("rerank", ["--text-column", "body"], "--text-column does not belong to --task rerank"),
        ("rerank", ["--top-k", "2"], "--top-k does not belong to --task rerank"),
        ("classify", ["--prompt", "a: "], "--prompt does not belong to --task classify"),
        ("classify", ["--aggregation", "first"], "--aggregation does not belong"),
        ("tag", ["--prompt-name", "query"], "--prompt-name does not belong to --task tag"),
        ("tag", ["--no-normalize"], "--normalize/--no-normalize does not belong to --task tag"),
        ("tag", ["--truncate", "left"], "--truncate left does not belong to --task tag"),
        ("tag", ["--raw-scores"], "--raw-scores needs --aggregation none"),
        ("embed", ["--raw-scores"], "--raw-scores does not belong to --task embed"),
        ("embed", ["--document-column", "d"], "--document-column does not belong"),
        (
            "rerank",
            ["--document-column", "d", "--documents-column", "e"],
            "--document-column and --documents-column cannot be used together",
        ),
        ("rerank", ["--query-column", "documents"], "are the same column"),
    ],
)
def test_options_of_another_task_are_refused_by_name(
    submit: Bei, tmp_path: Path, task: str, options: list[str], reason: str
) -> None:
    done = submit(corpus(tmp_path, text=["a"]), "--task", task, *options)
    assert done.code == 2
    assert reason in done.screen[0]
    assert len(done.screen) == 2


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        ({"query": ["a"]}, [], "has no column 'documents'; it has query"),
        ({"documents": [["a"]]}, [], "has no column 'query'"),
        (
            {"query": ["a"], "documents": ["b"]},
            [],
            "column 'documents' is string, a list of texts is expected",
        ),
        (
            {"query": [1], "documents": [["b"]]},
            [],
            "column 'query' is int64, a text is expected",
        ),
        (
            {"query": ["a"], "documents": [["b"]]},
            ["--document-column", "documents"],
            "column 'documents' is list<element: string>, a text is expected",
        ),
    ],
)
def test_columns_that_do_not_fit_the_task_are_named(
    submit: Bei, tmp_path: Path, columns: dict[str, Any], options: list[str], reason: str
) -> None:
    path = corpus(tmp_path, **columns)
    done = submit(path, "--task", "rerank", "--model", RERANKER, *options)
    assert done.code == 1
    assert reason in done.screen[0]
    assert "--document" in done.screen[1]


def test_other_scores_are_another_space_and_are_refused_on_the_same_output(
    submit: Bei, tmp_path: Path
) -> None:
    path = corpus(tmp_path, text=["one"])
    options = ("--task", "classify", "--model", CLASSIFIER)
    assert submit(path, *options).code == 0
    done = submit(path, *options, "--raw-scores")
    assert done.code == 1
    assert "--raw-scores" in done.err


def test_a_second_run_of_a_rerank_computes_nothing(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    path = corpus(tmp_path, query=QUERIES, documents=DOCUMENTS)
    options = ("--task", "rerank", "--model", RERANKER)
    assert submit(path, *options).code == 0
    assert "nothing to do" in bei("submit", path, *options, "--device", "cpu").err


def test_a_table_of_token_vectors_embeds_a_corpus(bei: Bei, submit: Bei, tmp_path: Path) -> None:
    long = "a word and another one " * 1000
    path = corpus(tmp_path, id=["a", "b", "c", "d"], text=["a cat", long, "", None])
    model = layouts.model2vec(tmp_path / "model")
    words = ("--dimensions", 16, "--output-dtype", "int8", "--max-failed-rows", 2)
    assert submit(path, "--model", model, *words).code == 3
    rows = {row["id"]: row for row in rows_of(bei, tmp_path / "corpus.embed")}
    assert len(rows["a"]["embedding"]) == 16
    assert rows["b"]["n_tokens"] > 5000
    assert not rows["b"]["truncated"]
    assert rows["c"]["error"] == "the text has no token for this model"
    assert rows["d"]["embedding"] is None


def test_check_compares_a_table_with_itself(bei: Bei, tmp_path: Path) -> None:
    model = layouts.static_embedding(tmp_path / "model")
    assert bei("check", model, "--device", "cpu").code == 0

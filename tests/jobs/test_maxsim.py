"""`--task rerank` by late interaction, from the command line to the scores."""

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
from corpora import GOLDENS, texts

MULTI = GOLDENS.parent / "multi_goldens"
COLBERT = MULTI / "colbert_v2"
RERANK = ("--task", "rerank", "--precision", "float32", "--model", COLBERT)
RANKED = json.loads((COLBERT / "cases.json").read_text())["rerank"]


def lists(file: Path, queries: list[str | None], documents: list[Any]) -> Path:
    names = [f"row-{number}" for number in range(len(queries))]
    columns = {"id": names, "query": queries, "documents": documents}
    pq.write_table(pa.table(columns), file)
    return file


def test_a_night_of_scores_is_copied_verified_and_repaired(
    tmp_path: Path, submit: Bei, bei: Bei
) -> None:
    queries, documents = [*RANKED["queries"], "dog", None], [*RANKED["documents"], ["x"], ["y"]]
    corpus = lists(tmp_path / "c.parquet", queries, documents)
    words = (*RERANK, "--max-failed-rows", 1, "--json", "--output", tmp_path / "out")
    first = submit(corpus, *words)
    assert first.code == 3, first.err
    assert first.json["choices"]["score"]["value"] == "MaxSim, the sum over the tokens of a query"
    table = read_output(bei, tmp_path / "out")
    assert table.column_names[:3] == ["id", "scores", "ranking"]
    for scores, expected in zip(table["scores"].to_pylist(), RANKED["scores"], strict=False):
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
    assert table["scores"].to_pylist()[-1] is None
    lists(corpus, [*queries, "a fox"], [*documents, RANKED["documents"][0]])
    again = submit(corpus, *words)
    # Its query was computed for another row, and its documents too; their scores were not.
    assert (again.json["rows"]["computed"], again.json["rows"]["reused"]) == (1, len(queries) - 1)
    assert read_output(bei, tmp_path / "out").slice(0, len(queries)).equals(table)
    assert bei("retry", tmp_path / "out", "--json").code == 3
    assert bei("verify", tmp_path / "out").code == 0
    (quarantined,) = [r for r in read_output(bei, tmp_path / "out").to_pylist() if r["error"]]
    assert quarantined["error"] == "the query is null"


def test_batches_and_shards_change_no_score(tmp_path: Path, submit: Bei, bei: Bei) -> None:
    """A query of many rows is computed once in each block: the rows in company are those alone."""
    given = texts(24)
    documents = [[given[i], given[(i * 7 + 1) % 24] * 3][: 1 + i % 2] for i in range(24)]
    queries = [given[i % 3].split()[0] for i in range(24)]
    corpus = lists(tmp_path / "c.parquet", queries, documents)
    found = []
    for name, more in (("a", ()), ("b", ("--token-budget", 1, "--rows-per-shard", 5))):
        assert submit(corpus, *RERANK, *more, "--output", tmp_path / name).code == 0
        assert bei("verify", tmp_path / name).code == 0
        found.append(read_output(bei, tmp_path / name))
    for one, other in zip(*(table["scores"].to_pylist() for table in found), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    for name in ("id", "n_tokens", "truncated"):
        assert found[0][name].equals(found[1][name])


def test_pool_loses_nothing_of_a_document(tmp_path: Path, submit: Bei, bei: Bei) -> None:
    corpus = lists(tmp_path / "c.parquet", ["dog"], [["the lazy dog. " * 40]])
    cut = submit(corpus, *RERANK, "--json")
    assert cut.json["truncated"] == 1
    assert cut.json["tokens_cut"] > 50
    pooled = submit(corpus, *RERANK, "--long-texts", "pool", "--output", tmp_path / "p", "--json")
    assert pooled.code == 0, pooled.err
    assert pooled.json["truncated"] == 0
    assert bei("verify", tmp_path / "p").code == 0
    tables = [read_output(bei, path) for path in (tmp_path / "c.rerank", tmp_path / "p")]
    one, all_of_it = (table["scores"].to_pylist()[0][0] for table in tables)
    assert all_of_it >= one - 1e-5


def test_a_prompt_stands_between_the_marker_and_the_query(
    tmp_path: Path, submit: Bei, bei: Bei
) -> None:
    lists(tmp_path / "c.parquet", ["dog"], [["a fox", "a dog"]])
    prompted = submit(tmp_path / "c.parquet", *RERANK, "--prompt", "find: ")
    assert prompted.code == 0, prompted.err
    lists(tmp_path / "d.parquet", ["find: dog"], [["a fox", "a dog"]])
    assert submit(tmp_path / "d.parquet", *RERANK).code == 0
    tables = [read_output(bei, tmp_path / name) for name in ("c.rerank", "d.rerank")]
    assert tables[0]["scores"].equals(tables[1]["scores"])


@pytest.mark.parametrize(
    ("words", "said", "advice"),
    [
        (("--raw-scores",), "scores by MaxSim", "the scores are the sums themselves"),
        (("--instruction", "find"), "reads no instruction", "--prompt puts a text"),
        (("--prompt-name", "passage:"), "has no prompt named 'passage:'", "document, query"),
        (("--long-texts", "cut-start"), "would cut off what", "cut-end or error, or pool"),
        (("--truncate", "left"), "--truncate left would cut off", "cut-end or error, or pool"),
        (("--kind", "query"), "--kind does not belong to --task rerank", "omit it"),
        (("--vectors", "multi"), "--vectors does not belong to --task rerank", "omit it"),
        (("--top-k", 3), "--top-k does not belong to --task rerank", "classify"),
        (("--max-length", 999), "--max-length 999 is more than the 64", "at most 64"),
    ],
)
def test_what_has_no_meaning_is_refused_in_words(
    words: tuple[object, ...], said: str, advice: str, tmp_path: Path, submit: Bei
) -> None:
    corpus = lists(tmp_path / "c.parquet", ["dog"], [["a fox"]])
    done = submit(corpus, *RERANK, *words)
    assert done.code in (1, 2)
    assert said in " ".join(done.screen)
    assert advice in " ".join(done.screen)
    assert not (tmp_path / "c.rerank").exists()


@pytest.mark.parametrize(("key", "value"), [("similarity", "l2"), ("interaction", "flipr")])
def test_a_score_that_is_not_maxsim_is_refused(
    key: str, value: str, tmp_path: Path, submit: Bei
) -> None:
    model = tmp_path / "model"
    shutil.copytree(COLBERT, model)
    settings = json.loads((model / "artifact.metadata").read_text()) | {key: value}
    (model / "artifact.metadata").write_text(json.dumps(settings))
    corpus = lists(tmp_path / "c.parquet", ["dog"], [["a fox"]])
    done = submit(corpus, "--task", "rerank", "--model", model)
    assert done.code == 1
    assert f"sets {key} = " in " ".join(done.screen)
    assert value in " ".join(done.screen)
    assert "--task embed" in " ".join(done.screen)


def test_models_say_how_a_checkpoint_reranks(bei: Bei) -> None:
    lines = [line.split(maxsplit=1) for line in bei("models", COLBERT).out.splitlines()]
    assert ["rerank", "MaxSim, the sum over the tokens of a query"] in lines
    assert ["task", "embed"] in lines
    told = bei("models", MULTI / "st_min", "--task", "rerank", "--json").json
    assert (told["task"], told["maxsim"]) == ("rerank", "mean")


def test_a_model_without_vectors_of_tokens_reranks_nothing(tmp_path: Path, submit: Bei) -> None:
    corpus = lists(tmp_path / "c.parquet", ["dog"], [["a fox"]])
    done = submit(corpus, "--task", "rerank", "--model", GOLDENS / "bert_mean")
    assert done.code == 1
    assert "cannot rerank: it is an embedding model" in done.err

"""`bei-jobs submit` with rerankers that are language models, and with templates of strangers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import GOLDENS, write_parquet
from tiny_rerankers import (
    CHAT_TEMPLATE,
    QWEN3_TEMPLATE,
    TEXTS,
    save_decoder,
    save_modules,
    scores_by_us,
    token,
    write,
)


@pytest.fixture
def qwen3(tmp_path: Path) -> Path:
    folder = save_decoder(tmp_path / "Qwen3-Reranker-0.6B", jinja=QWEN3_TEMPLATE)
    score: dict[str, int | None] = {"true_token_id": token("yes"), "false_token_id": token("no")}
    return save_modules(folder, score=score)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.parquet"
    documents = [[document, "another document", document] for _, document in TEXTS]
    columns = {"query": [query for query, _ in TEXTS], "documents": documents}
    pq.write_table(pa.table({**columns, "document": [document for _, document in TEXTS]}), file)
    return file


def test_an_instruction_ranks_the_documents_of_each_query(
    qwen3: Path, corpus: Path, submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    told = "Find the capital of a country"
    done = submit(
        corpus, "--task", "rerank", "--model", qwen3, "--instruction", told,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = read_output(bei, tmp_path / "out").to_pylist()
    alone = scores_by_us(qwen3, TEXTS, tmp_path, instruction=told)
    for row, score in zip(rows, alone, strict=True):
        assert row["scores"][0] == row["scores"][2] == pytest.approx(score, abs=2e-5)
        assert sorted(row["ranking"]) == [0, 1, 2]
    again = submit(
        corpus, "--task", "rerank", "--model", qwen3, "--output", tmp_path / "out", "--json"
    )
    assert again.code != 0  # another space: values of two instructions never mix


def test_the_instruction_of_the_authors_is_said(corpus: Path, submit: Bei, tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "Qwen3-Reranker-0.6B", template=CHAT_TEMPLATE)
    done = submit(corpus, "--task", "rerank", "--model", folder, "--json")
    assert done.json["choices"]["instruction"] == {
        "value": "Given a web search query, retrieve relevant passages that answer the query",
        "reason": "the default of the model's authors",
    }


def test_a_reranker_gives_no_vectors_and_no_labels(
    qwen3: Path, submit: Bei, tmp_path: Path
) -> None:
    texts = write_parquet(tmp_path / "corpus.parquet", 2)
    for task in ("embed", "classify"):
        done = submit(texts, "--task", task, "--model", qwen3)
        assert done.code != 0
        assert f"cannot {task}: it is a reranker" in done.err
        assert "use --task rerank" in done.err


def test_what_is_assumed_of_a_language_model_is_said(submit: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)
    folder = save_decoder(tmp_path / "model", template=CHAT_TEMPLATE)
    done = submit(corpus, "--model", folder, "--json")
    assert done.json["choices"]["pooling"]["value"] == "lasttoken"
    assert "no modules.json" in done.json["choices"]["pooling"]["reason"]
    known = ("--model", GOLDENS / "qwen3_causal_last", "--output", tmp_path / "out")
    assert "pooling" not in submit(corpus, *known, "--json").json["choices"]


def test_pairs_are_classified_by_two_columns(
    corpus: Path, submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    model = GOLDENS / "langid_xlmr"
    words = ("--task", "classify", "--model", model, "--output", tmp_path / "out")
    done = submit(corpus, *words, "--document-column", "document", "--top-k", "3")
    assert done.code == 0, done.err
    rows = read_output(bei, tmp_path / "out").to_pylist()
    assert [len(row["labels"]) for row in rows] == [3] * len(TEXTS)
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in rows)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--task", "classify", "--query-column", "a"), "--query-column needs --document-"),
        (
            ("--task", "classify", "--document-column", "document", "--text-column", "query"),
            "--text-column and --document-column cannot be used together",
        ),
        (
            ("--task", "classify", "--document-column", "query"),
            "the query and the documents are the same column",
        ),
        (
            ("--task", "rerank", "--instruction", "a", "--prompt", "b"),
            "--instruction and --prompt or --prompt-name cannot be used together",
        ),
        (
            ("--task", "embed", "--instruction", "a"),
            "--instruction does not belong to --task embed",
        ),
    ],
)
def test_options_that_do_not_fit_are_named(
    words: tuple[str, ...], reason: str, corpus: Path, submit: Bei
) -> None:
    done = submit(corpus, *words)
    assert done.code == 2
    assert reason in done.err


def test_a_template_that_is_not_for_pairs_is_refused(
    corpus: Path, submit: Bei, tmp_path: Path
) -> None:
    folder = save_decoder(
        tmp_path / "model", "LlamaForSequenceClassification", jinja=CHAT_TEMPLATE, num_labels=1
    )
    done = submit(corpus, "--task", "rerank", "--model", folder)
    assert done.code == 1
    assert "is not one for pairs: the query does not reach the text" in done.err
    assert "--task classify --raw-scores" in done.err


def test_an_instruction_without_a_place_is_refused(
    corpus: Path, submit: Bei, tmp_path: Path
) -> None:
    template = "{{ messages[-2].content }} | {{ messages[-1].content }}"
    folder = save_decoder(
        tmp_path / "model", "LlamaForSequenceClassification", jinja=template, num_labels=1
    )
    done = submit(corpus, "--task", "rerank", "--model", folder, "--instruction", "Find it")
    assert done.code == 2
    assert "has no place for an instruction" in done.err


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("1_LogitScore/config.json", {"true_token_id": 10**6}, "does not name the tokens"),
        ("1_LogitScore/config.json", {"true_token_id": "yes"}, "does not name the tokens"),
        ("1_LogitScore/config.json", [1], "is not a JSON object"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "fill-mask"},
            "saved with transformer_task = 'fill-mask'",
        ),
        (
            "sentence_bert_config.json",
            {
                "modality_config": {"message": {}},
                "processing_kwargs": {"chat_template": {"tools": []}},
            },
            "which bei-jobs cannot pass to the chat template",
        ),
        (
            "config_sentence_transformers.json",
            {"model_type": "SentenceTransformer"},
            "names a LogitScore, which belongs to a language model",
        ),
        ("tokenizer_config.json", {"chat_template": [{"name": "a", "template": "b"}]}, None),
    ],
)
def test_files_that_contradict_each_other_are_named(
    file: str, content: object, reason: str | None, qwen3: Path, corpus: Path, submit: Bei
) -> None:
    write(qwen3 / file, content)
    if reason is None:
        (qwen3 / "chat_template.jinja").unlink()
        reason = "has several chat templates, of which none is the default"
    done = submit(corpus, "--task", "rerank", "--model", qwen3)
    assert done.code == 1
    assert reason in done.err
    assert "Traceback" not in done.err


def test_a_score_of_a_family_that_is_not_computed_is_refused(
    qwen3: Path, corpus: Path, submit: Bei
) -> None:
    config = json.loads((qwen3 / "config.json").read_text())
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0}
    write(qwen3 / "config.json", {**config, "rope_parameters": yarn})
    done = submit(corpus, "--task", "rerank", "--model", qwen3)
    assert done.code == 1
    assert "scores pairs by the logits of tokens, which bei-jobs computes of" in done.err

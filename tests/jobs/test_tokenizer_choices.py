"""What a tokenizer's files choose for the user is said, and gives way to an option."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei, read_output
from corpora import GOLDENS, write_parquet
from pyarrow.parquet import read_table as read_parquet

SHORT = ("--max-length", 6, "--device", "cpu", "--quiet")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", 4)


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A model whose tokenizer keeps the end of a text."""
    return bent(tmp_path / "left", "bert_mean", truncation_side="left")


def bent(folder: Path, golden: str, **settings: Any) -> Path:
    shutil.copytree(GOLDENS / golden, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


def test_the_side_that_the_files_name_is_cut_unless_the_user_says(
    bei: Bei, corpus: Path, left: Path, tmp_path: Path
) -> None:
    def vectors(name: str, model: Path, *words: object) -> tuple[list[Any], dict[str, Any]]:
        done = bei(
            "submit",
            corpus,
            "--output",
            tmp_path / name,
            "--model",
            model,
            *SHORT,
            "--json",
            *words,
        )
        assert done.code == 0, done.err
        rows = read_output(bei, tmp_path / name)
        return rows["embedding"].to_pylist(), done.json["choices"]

    plain = GOLDENS / "bert_mean"
    ends, chosen = vectors("ends", left)
    starts, unchosen = vectors("starts", left, "--truncate", "right")

    assert chosen["truncate"]["value"] == "left"
    assert "truncation_side" in chosen["truncate"]["reason"]
    assert "truncate" not in unchosen
    assert ends == vectors("plain-ends", plain, "--truncate", "left")[0]
    assert starts == vectors("plain-starts", plain)[0]
    assert ends != starts


def test_a_tagger_cuts_nothing_whatever_the_files_say(
    bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    model = bent(tmp_path / "model", "ner_bert", truncation_side="left")

    done = bei("submit", corpus, "--task", "tag", "--model", model, "--device", "cpu", "--json")

    assert done.code == 0, done.err
    assert "truncate" not in done.json["choices"]


@pytest.mark.parametrize("trims", [True, False])
@pytest.mark.parametrize("strategy", ["simple", "first"])
def test_a_tagger_trims_offsets_where_the_files_say_so(
    trims: bool, strategy: str, bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    from transformers import pipeline

    model = bent(tmp_path / "model", "ner_roberta", trim_offsets=trims)
    texts = read_parquet(corpus)["text"].to_pylist()
    ask = pipeline("token-classification", str(model), aggregation_strategy=strategy)
    expected = [[(e["entity_group"], e["start"], e["end"]) for e in ask(t)] for t in texts]

    done = bei(
        "submit", corpus, "--output", tmp_path / "out", "--task", "tag", "--model", model,
        "--aggregation", strategy, "--device", "cpu", "--quiet",
    )  # fmt: skip

    assert done.code == 0, done.err
    found = read_output(bei, tmp_path / "out")["entities"].to_pylist()
    assert [[(e["entity"], e["start"], e["end"]) for e in row] for row in found] == expected
    assert any(expected)


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], None], ids=["none", "types"])
def test_a_reranker_reads_token_types_where_the_files_say_so(
    names: list[str] | None, bei: Bei, tmp_path: Path
) -> None:
    """As CrossEncoder does; a golden with a table of types becomes a reranker."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    changes = {} if names is None else {"model_input_names": names}
    model = bent(tmp_path / "model", "ner_bert", **changes)
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "score"}}
    config["label2id"] = {"score": 0}
    (model / "config.json").write_text(json.dumps(config))
    tensors = load_file(model / "model.safetensors")
    torch.manual_seed(3)
    width = config["hidden_size"]
    tensors |= {"classifier.weight": torch.randn(1, width), "classifier.bias": torch.zeros(1)}
    tensors["bert.pooler.dense.weight"] = torch.randn(width, width)
    tensors["bert.pooler.dense.bias"] = torch.zeros(width)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(
        model, attn_implementation="eager"
    ).eval()
    query, document = "a small library", "fonts for the terminal"
    with torch.no_grad():
        expected = network(**tokenizer(query, document, return_tensors="pt")).logits.item()

    corpus = write_parquet(
        tmp_path / "pairs.parquet", 2, query=[query] * 2, document=[document] * 2
    )
    done = bei(
        "submit", corpus, "--output", tmp_path / "out", "--task", "rerank", "--model", model,
        "--document-column", "document", "--raw-scores", "--device", "cpu", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert read_output(bei, tmp_path / "out")["score"].to_pylist() == pytest.approx(
        [expected] * 2, abs=1e-5
    )


def test_a_note_on_the_tokenizer_is_a_choice_with_its_reason(
    bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    done = bei("submit", corpus, "--model", GOLDENS / "e5_xlmr", "--device", "cpu", "--json")

    assert done.code == 0, done.err
    choice = done.json["choices"]["tokenizer"]
    assert choice["value"] == "tokenizer.json"
    assert "XLMRobertaTokenizer" in choice["reason"]
    assert "NFKC" in choice["reason"]

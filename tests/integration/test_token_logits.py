"""Every token of odd texts has the logits that transformers gives the text alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from commandline import Bei
from corpora import GOLDENS, write_parquet

TEXTS = [
    "Ada Lovelace met Charles Babbage in London.",
    "",
    " ",
    "Ünïcödé — 東京 is 東京; naïve café",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 family, e\u0301 combining, \u202eright\u202c",
    "tab\tnew\nline\r\n   spaces  ",
    "☃ unknown ☄",
    "x" * 200,
    *(f"text {i} of its own length" + " and more" * i for i in range(8)),
]


@pytest.mark.parametrize("name", ["ner_bert", "ner_roberta"])
def test_logits_are_those_of_transformers_on_the_text_alone(
    bei: Bei, tmp_path: Path, name: str
) -> None:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    corpus = write_parquet(tmp_path / "corpus.parquet", len(TEXTS), text=TEXTS)
    words = ("--task", "tag", "--aggregation", "none", "--raw-scores", "--model", GOLDENS / name)
    done = bei("submit", corpus, *words, "--device", "cpu", "--quiet", "--json")
    assert done.code == 0, done.err
    (part,) = bei("files", done.json["output"]).out.split()
    table = pa.ipc.open_file(part.removeprefix("file://")).read_all()
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / name)
    model = AutoModelForTokenClassification.from_pretrained(
        GOLDENS / name, attn_implementation="eager", dtype=torch.float32
    ).eval()
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]

    assert json.loads(table.schema.metadata[b"bei.labels"]) == names
    for text, tokens in zip(TEXTS, table["tokens"].to_pylist(), strict=True):
        inputs = tokenizer(
            text,
            return_tensors="pt",
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        places = inputs.pop("offset_mapping")[0].tolist()
        text_tokens = np.flatnonzero(inputs.pop("special_tokens_mask")[0].numpy() == 0)
        with torch.no_grad():
            logits = model(**inputs).logits[0].numpy()
        ids = inputs["input_ids"][0].tolist()
        expected = [(ids[i], *places[i]) for i in text_tokens]
        assert [(t["token_id"], t["start"], t["end"]) for t in tokens] == expected
        for token, i in zip(tokens, text_tokens, strict=True):
            np.testing.assert_allclose(token["scores"], logits[i], atol=1e-4)
            assert token["label"] == names[logits[i].argmax()]

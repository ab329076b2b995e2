"""Models that transformers computes, through the command line: a text costs at most its own row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import Bei, read_output
from corpora import texts, write_parquet
from foreign_models import END, make, save

LOGITS = "ForSequenceClassification"
ROWS, LONG = 40, "a " * 200


def submitted(submit: Bei, folder: Path, model: Path, text: list[str], *words: object) -> Any:
    corpus = write_parquet(folder / "corpus.parquet", len(text), text=text)
    return submit(corpus, "--model", model, "--output", folder / "out", *words)


def test_a_text_that_spells_the_end_token_is_classified_like_the_others(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    model = make("T5", LOGITS, num_labels=3)
    folder = save(model, tmp_path / "model")
    text = [*texts(ROWS), "a a a", "a [SEP] a", "a a [SEP]"]
    done = submitted(submit, tmp_path, folder, text, "--task", "classify", "--raw-scores")
    assert done.code == 0, done.err
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = read_output(bei, tmp_path / "out").to_pylist()
    counts = {tokenizer.encode(line).ids.count(END) for line in text}
    assert (len(rows), counts) == (len(text), {1, 2})
    for line, row in zip(text, rows, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([tokenizer.encode(line).ids])).logits[0]
        assert row["labels"] == [model.config.id2label[int(logits.argmax())]]
        np.testing.assert_allclose(row["scores"], [logits.max()], rtol=1e-4, atol=1e-5)


def test_a_text_on_which_the_model_raises_costs_its_own_row(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    folder = save(make("Mpt", LOGITS, max_seq_len=128, num_labels=3), tmp_path / "model")
    text = texts(ROWS)
    text[17] = LONG  # nothing states a limit, and MPT has 128 positions
    words = ("--task", "classify", "--max-failed-rows", 1)
    done = submitted(submit, tmp_path, folder, text, *words)
    assert done.code == 3, done.err
    errors = read_output(bei, tmp_path / "out")["error"].to_pylist()
    assert [row for row, error in enumerate(errors) if error is not None] == [17]
    assert "raised RuntimeError" in errors[17]


def test_a_long_text_ends_where_positions_do_that_start_after_the_padding(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    folder = save(make("Longformer"), tmp_path / "model")
    done = submitted(submit, tmp_path, folder, [*texts(ROWS), LONG])
    assert done.code == 0, done.err
    last = read_output(bei, tmp_path / "out").to_pylist()[-1]
    assert (last["n_tokens"], last["truncated"]) == (126, True)
    refused = submitted(submit, tmp_path, folder, [LONG], "--max-length", 127)
    assert refused.code == 2
    assert "the 126 tokens that" in refused.screen[0]


@pytest.mark.parametrize("stem", ["DistilBert", "Bert"])
def test_a_masked_language_model_is_no_classifier(submit: Bei, tmp_path: Path, stem: str) -> None:
    folder = save(make(stem, "ForMaskedLM"), tmp_path / "model")
    refused = submitted(submit, tmp_path, folder, ["a text"], "--task", "classify")
    assert refused.code == 1
    assert "cannot classify: it is an embedding model: it has no classifier" in refused.screen[0]

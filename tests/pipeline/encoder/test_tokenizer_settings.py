"""Every setting of a tokenizer that its files may hold, against transformers' AutoTokenizer."""

from __future__ import annotations

import json
import random
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from corpora import GOLDENS
from fixtures_encoder import fresh_card

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.checkpoint import tokenizer_build, tokenizer_builder
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError

#: Goldens whose tokenizer.json has steps that the class which they name would drop, so that
#: AutoTokenizer gives tokens that their models were not made for: they are read as they are.
AS_THEY_ARE = {
    "arctic_gte", "bge_reranker_xlmr", "e5_xlmr", "embeddinggemma", "gte_new_reranker",
    "gte_qwen2", "langid_xlmr", "qwen3_causal_last", "voyage_nano",
}  # fmt: skip
#: Of them, those whose end token the authors' own code appends.
ENDED = {"gte_qwen2", "qwen3_causal_last"}
#: AutoTokenizer itself needs code of the repository for its config.
FOREIGN_CONFIG = {"nemotron_llama"}

ADDED = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
SPECIAL = (
    "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "<s>", "</s>", "<mask>", "<unk>", "<bos>",
    "<eos>", "<|endoftext|>", "<|im_start|>", "[NEW]", "<new>", "<extra>",
)  # fmt: skip
WORDS = (
    "fonts", "Library", "the", "naïve", "Café", "ÅNGSTRÖM", "e\u0301", "don't", "I'LL", "12345",
    "3.14", "北京", "日本語", "한국어", "ﬁ", "½", "Ⅷ", "İ", "ß", "👩‍👩‍👧", "🎉", "مرحبا", "हिन्दी",
    "a_b", "--", "…", "“quoted”", "http://x.y/?z=1", "C++", "ΑΒΓ", "Ђ", "\u00ad", "ǅ",
)  # fmt: skip
SPACES = (
    " ",
    " ",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u200b",
    "",
    "   ",
)
CONTROLS = ("\x00", "\x07", "\x1b", "\x7f", "\u0085", "\u2028", "\ufeff", "\ufffd", "\u202e", "�")


@cache
def odd_texts() -> list[str]:
    """2,000 texts, the same every time."""
    rng = random.Random(11)

    def word() -> str:
        chance = rng.random()
        if chance < 0.1:
            return rng.choice(SPECIAL)
        if chance < 0.2:
            return rng.choice(CONTROLS)
        if chance < 0.3:
            return "".join(
                chr(
                    rng.choice(
                        (
                            rng.randrange(0x20, 0x250),
                            rng.randrange(0x300, 0xD7FF),
                            rng.randrange(0x1F300, 0x1FAFF),
                        )
                    )
                )
                for _ in range(rng.randint(1, 4))
            )
        return rng.choice(WORDS)

    texts = ["", " ", "\n", "a", " a", "a ", "A\n", *SPECIAL, "word" * 300, "🎉" * 200]
    texts += [
        " ".join(rng.choices(WORDS, k=300)),
        "a " * 600,
        "".join(SPECIAL),
        "  ".join(SPECIAL),
    ]
    while len(texts) < 2_000:
        text = "".join(word() + rng.choice(SPACES) for _ in range(rng.randint(1, 12)))
        texts.append(unicodedata.normalize("NFD", text) if rng.random() < 0.1 else text)
    return texts


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build here: forty processes would each import transformers. Others test the process."""

    def run(folder: Path, out: Path, request: dict[str, Any]) -> str | None:
        try:
            tokenizer_builder.run(folder, out, request)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    monkeypatch.setattr(tokenizer_build, "_run", run)


def reference(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def as_it_is(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def assert_equal(card: ModelCard, expected: Any) -> None:
    """Ids, types and offsets of texts and of pairs, the limit and the side."""
    ours, texts = load_tokenizer(card), odd_texts()
    seconds = texts[1:] + texts[:1]
    for found, wanted in (
        (ours.encode_batch(texts), encodings(expected, texts)),
        (
            ours.encode_batch(list(zip(texts, seconds, strict=True))),
            encodings(expected, texts, seconds),
        ),
    ):
        kinds = ["ids"]
        kinds += ["type_ids"] if "token_type_ids" in expected.model_input_names else []
        kinds += ["offsets"] if card.head == "token_classifier" else []
        for kind in kinds:
            differ = [
                texts[i]
                for i, (one, other) in enumerate(zip(found, wanted, strict=True))
                if getattr(one, kind) != getattr(other, kind)
            ]
            assert not differ, (kind, differ[:3])
    assert card.tokenizer.passes_types == ("token_type_ids" in expected.model_input_names)
    assert card.truncation_side == expected.truncation_side
    limit = expected.model_max_length
    assert card.tokenizer.limit == limit or (card.tokenizer.limit or 10**9) >= 10**9 <= limit


def encodings(expected: Any, *texts: list[str]) -> Any:
    return expected(*texts, return_attention_mask=False, return_token_type_ids=False).encodings


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", sorted(path.name for path in GOLDENS.iterdir() if path.is_dir()))
def test_the_tokenizer_of_a_golden_is_transformers(name: str, tmp_path: Path) -> None:
    card = open_card(str(GOLDENS / name), cache_dir=tmp_path)
    whole = name in AS_THEY_ARE or name in FOREIGN_CONFIG
    expected = (as_it_is if whole else reference)(GOLDENS / name)
    if name in ENDED:
        expected.add_eos_token = True  # what the authors' own code obeys

    assert card.tokenizer.is_plain  # so that nothing has to import transformers
    assert bool(card.tokenizer.note) == (name in AS_THEY_ARE)
    assert_equal(card, expected)

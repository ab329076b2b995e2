"""A tokenizer of ours against transformers' of the same checkpoint, on odd texts."""

from __future__ import annotations

import random
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.encoder.card import ModelCard
from pipeline.encoder.tokenizer import load_tokenizer

SPECIAL = (
    "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "<s>", "</s>", "<mask>", "<unk>", "<bos>",
    "<eos>", "<|endoftext|>", "<|im_start|>", "[NEW]", "<new>", "<extra>", "<m>", "font",
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
BLOCKS = ((0x20, 0x250), (0x300, 0xD7FF), (0x1F300, 0x1FAFF))


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
                chr(rng.randrange(*rng.choice(BLOCKS))) for _ in range(rng.randint(1, 4))
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
        text = "".join(word() + rng.choice(SPACES) for _ in range(rng.randint(1, 7)))
        texts.append(unicodedata.normalize("NFD", text) if rng.random() < 0.1 else text)
    return texts


def reference(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def as_it_is(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def assert_equal(card: ModelCard, expected: Any) -> None:
    """Ids, types and offsets of texts and of pairs, the limit and the side."""
    ours, texts = load_tokenizer(card), odd_texts()
    firsts = texts[: len(texts) // 4]
    seconds = texts[1 : len(firsts) + 1]
    for found, wanted in (
        (ours.encode_batch(texts), encodings(expected, texts)),
        (
            ours.encode_batch(list(zip(firsts, seconds, strict=True))),
            encodings(expected, firsts, seconds),
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

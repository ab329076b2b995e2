"""What the steps of a tokenizer may do to a text at worst, from tokenizer.json alone.

A text may grow with every step: 30 Replace steps of `a` by `aa` make a gigabyte of one character,
and the library for it, in Rust, ends the whole process when memory runs out. No sample of texts
finds what one rare character triggers, so the growth is bounded by what the steps say.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.encoder.checkpoint.bounds import (
    MAX_ADDED_TEXT,
    MAX_GROWTH,
    MAX_WORD_CHARACTERS,
)
from pipeline.encoder.checkpoint.config_values import is_whole
from pipeline.encoder.checkpoint.shown import shown
from pipeline.encoder.checkpoint.tokenizer_outline import Step, TokenizerOutline

# Unicode's own transformations undo or repeat each other: together they make at most 12 bytes of
# one (NFKC of U+FDFA: 33 of 3; İ in lower case: 3 of 2). A character map repeats them too, if it is
# one of SentencePiece's, whose longest replacement is that of U+FDFA.
_UNICODE = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Strip")
_UNICODE_GROWTH = 12
_CHARSMAP_GROWTH = 33
# Bytes out per byte in, at most, of the others without settings of their own.
_GROWTH = {
    "BertNormalizer": 2,  # spaces around a Chinese character of three bytes
    "BertPreTokenizer": 1,
    "ByteLevel": 3,  # two bytes for one outside ASCII, and a space before a word
    "CharDelimiterSplit": 1,
    "Digits": 1,
    "FixedLength": 1,
    "Metaspace": 4,  # three bytes for a space, and as many before a word
    "Punctuation": 1,
    "Split": 1,
    "UnicodeScripts": 1,
    "Whitespace": 1,
    "WhitespaceSplit": 1,
}
# Bytes that published expressions of Replace match at least.
_MATCHED = {" {2,}": 2, " +": 1, r"\s+": 1}
_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_POST_PROCESSORS = ("BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing")


def unusual_parts(outline: TokenizerOutline) -> list[str]:
    """The parts of a tokenizer that its description alone does not prove harmless.

    Raises:
        ValueError: a part is harmful, or its setting is not valid.
        KeyError: a step lacks a setting.
    """
    _check_model(outline.model)
    for step in outline.post_processor:
        _check_post_processor(step)
    added, unusual = 0, list[str]()
    steps = (*outline.normalizer, *outline.pre_tokenizer)
    kinds = [str(step.get("type")) for step in steps]
    growth = unicode = _UNICODE_GROWTH if set(kinds) & set(_UNICODE) else 1
    for kind, step in zip(kinds, steps, strict=True):
        if kind == "Prepend":
            added += len(str(step["prepend"]))
        elif kind == "Replace":
            growth *= _replace_growth(step)
        elif kind == "Precompiled":
            factor, safe = _charsmap(step["precompiled_charsmap"])
            published = factor <= _CHARSMAP_GROWTH and kinds.count(kind) == 1
            growth *= max(1, factor // unicode) if published else factor
            unusual += [] if safe else ["a damaged precompiled_charsmap"]
        elif kind in _GROWTH:
            growth *= _GROWTH[kind]
        elif kind not in _UNICODE:
            unusual.append(f"the step {shown(kind)}")
        if growth > MAX_GROWTH or added > MAX_ADDED_TEXT:
            raise ValueError(
                f"its steps up to {kind} could make more than {MAX_GROWTH} bytes of each byte, or "
                f"add more than {MAX_ADDED_TEXT:,} characters"
            )
    model = outline.model
    if model.get("type", "BPE") == "BPE" and model.get("continuing_subword_prefix"):
        # The library cuts as much from the second piece of each merge, and panics if it is shorter.
        unusual.append("the continuing_subword_prefix of a BPE")
    kinds = [str(part.get("type")) for part in (outline.model, *outline.post_processor) if part]
    known = (*_MODELS, *_POST_PROCESSORS)
    return unusual + [f"the part {shown(kind)}" for kind in kinds if kind not in known]


def regexes(outline: TokenizerOutline) -> list[str]:
    """Every regular expression that a text is matched with."""
    patterns = [step.get("pattern") for step in (*outline.normalizer, *outline.pre_tokenizer)]
    found = [pattern.get("Regex") for pattern in patterns if isinstance(pattern, Mapping)]
    return [regex for regex in found if isinstance(regex, str)]


def _replace_growth(step: Step) -> int:
    pattern, content = step["pattern"], str(step["content"]).encode("utf-8", "replace")
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    matched = len(str(text).encode("utf-8", "replace")) if text else _MATCHED.get(str(regex), 0)
    # An unknown expression, and an empty string, may match between any two bytes.
    return max(1, math.ceil(len(content) / matched)) if matched else 1 + len(content)


def _charsmap(text: Any) -> tuple[int, bool]:
    """How much a character map lets a text grow, and whether no lookup leaves its table.

    Layout, of SentencePiece: the bytes of the table (4 bytes, little-endian), a double-array trie
    of 32-bit units, and the replacements, each ended by a zero byte.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"its precompiled_charsmap is not base64: {error}") from error
    size = int.from_bytes(content[:4], "little")
    table, replacements = content[4 : 4 + size], content[4 + size :]
    if not size or size % 4 or len(table) < size:
        raise ValueError(f"its precompiled_charsmap of {len(content)} bytes has no table of {size}")
    try:
        replacements.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"its precompiled_charsmap is not UTF-8: {error}") from error
    growth = max(1, *map(len, replacements.split(b"\0")))
    units = np.frombuffer(table, "<u4")
    inner = units[units < 2**31]  # the others are values
    places = np.flatnonzero(units < 2**31).astype(np.uint32)
    offsets = (inner >> 10) << ((inner & 0x200) >> 6)
    reached = (places ^ offsets) | 0xFF
    values = units[units >= 2**31] & 0x7FFFFFFF
    ends = bool(np.all(values < len(replacements)))
    return growth, ends and bool(np.all(reached < len(units)))


def _check_model(model: Mapping[str, Any]) -> None:
    longest = model.get("max_input_chars_per_word", 0)
    if not is_whole(longest) or longest > MAX_WORD_CHARACTERS:
        raise ValueError(
            f"max_input_chars_per_word is {shown(longest)}; at most {MAX_WORD_CHARACTERS:,} is "
            "read: its time grows with the square"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        if len(str(model.get(key))) > MAX_ADDED_TEXT:
            raise ValueError(f"{key} has more than {MAX_ADDED_TEXT:,} characters")


def _check_post_processor(step: Step) -> None:
    """Raise ValueError for a template that repeats a text or adds many tokens."""
    for key, most in (("single", 1), ("pair", 2)):
        pieces = step.get(key, ())
        texts = [piece for piece in pieces if not isinstance(piece, Mapping) or "Sequence" in piece]
        if len(texts) > most:
            raise ValueError(f"its template {key} repeats a text")
        if len(pieces) > MAX_ADDED_TEXT:
            raise ValueError(f"its template {key} has {len(pieces):,} parts")
    specials = step.get("special_tokens")
    for token in specials.values() if isinstance(specials, Mapping) else ():
        if len(token["ids"]) > MAX_ADDED_TEXT // 10:
            raise ValueError(f"a special token of its template stands for {len(token['ids']):,}")

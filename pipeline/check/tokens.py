"""The tokens of a sample beside those of transformers' own tokenizer."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pipeline.check.sample import Input, Sample
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.shown import one_line
from pipeline.output.certificate import Proof

NAME = "tokens"
_SHOWN = 12  # ids around the first difference


def prove_tokens(sample: Sample) -> Proof:
    """Compare ids and token types with AutoTokenizer's, sequence by sequence.

    What is read in chunks, and what a chat template goes around, is left out.
    """
    departs = sample.card.tokenizer.departs
    if sample.card.config.static:
        departs = "a table of token vectors reads tokenizer.json alone, without special tokens"
    if departs:
        return Proof(NAME, None, 0, note=departs)
    try:
        tokenizer = open_tokenizer(sample.card)
    except Exception as error:  # it may raise anything, and says what is missing
        return Proof(NAME, None, 0, note=f"AutoTokenizer cannot be loaded: {one_line(error)[:200]}")
    inputs = sample.inputs()
    if tokenizer.chat_template and any(isinstance(each, tuple) for each in inputs):
        return Proof(NAME, None, 0, note="pairs are read through the model's chat template")
    compared, others, first = 0, 0, ""
    for sequence, given in enumerate(inputs):
        if given is None:
            continue
        compared += 1
        if problem := _difference(sample, sequence, tokenizer, given):
            others += 1
            first = first or f"input {sequence + 1}: {problem}"
    if not compared:
        return Proof(NAME, None, 0, note="no text of the sample can be compared")
    source = f"AutoTokenizer's of transformers {version('transformers')}"
    note = f"as {source}" if not others else f"not as {source}: {first}"
    return Proof(NAME, not others, compared, {"different": float(others)}, note)


def open_tokenizer(card: ModelCard) -> Any:
    """Transformers' tokenizer of a checkpoint, from its files alone.

    Raises:
        Exception: it cannot be loaded; of any kind.
    """
    from transformers import AddedToken, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        card.checkpoint.folder, trust_remote_code=False, local_files_only=True
    )
    markers = card.multi.markers if card.multi is not None else ()
    words = {word for marker in markers for word in (marker, *marker.split()[:1])}
    # As sentence-transformers does: these are one token each, and else would be taken apart.
    whole = [
        AddedToken(word, normalized=False, special=True)
        for word in words
        if word in tokenizer.get_vocab()
    ]
    if whole:
        tokenizer.add_special_tokens({"additional_special_tokens": whole})
    return tokenizer


def encode(sample: Sample, tokenizer: Any, given: str | tuple[str, str]) -> Any:
    """What transformers' tokenizer makes of an input, within the sample's limit."""
    texts: tuple[str, ...] = (given,) if isinstance(given, str) else given
    if sample.card.modules.do_lower_case:  # sentence-transformers does so before the tokenizer
        texts = tuple(text.lower() for text in texts)
    cut = "only_second" if len(texts) > 1 else True
    return tokenizer(*texts, truncation=cut, max_length=sample.spec.max_length)


def _difference(sample: Sample, sequence: int, tokenizer: Any, given: Input) -> str:
    """The first token that differs, in words; "" if none does."""
    assert given is not None
    try:
        theirs = encode(sample, tokenizer, given)
    except Exception as error:  # tokenizers raises bare Exception
        return f"AutoTokenizer cannot read it: {one_line(error)[:200]}"
    tokens = sample.tokens
    span = slice(int(tokens.offsets[sequence]), int(tokens.offsets[sequence + 1]))
    if problem := _first(tokens.ids[span].tolist(), list(theirs["input_ids"]), "id"):
        return problem
    if "token_type_ids" not in theirs or not sample.card.uses_type_ids:
        return ""
    types = [0] * (span.stop - span.start)
    types = types if tokens.type_ids is None else tokens.type_ids[span].tolist()
    return _first(types, list(theirs["token_type_ids"]), "type")


def _first(ours: list[int], theirs: list[int], what: str) -> str:
    if ours == theirs:
        return ""
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    here = slice(max(0, at - 2), at + _SHOWN)
    return f"{what} {at + 1} of {len(ours)} and {len(theirs)}: {ours[here]}, not {theirs[here]}"

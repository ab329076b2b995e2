"""The tokenizer of a checkpoint, with every quirk that its authors' code applies.

Imports `tokenizers`, never transformers: what only transformers can build, a process of its own
builds (`pipeline.encoder.checkpoint.tokenizer_build`).
"""

from __future__ import annotations

import json

from tokenizers import AddedToken, Tokenizer, normalizers, processors

from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.encoder.checkpoint.tokenizer_reading import with_prefix_space
from pipeline.errors import CheckpointError

# An Egyptian hieroglyph: no vocabulary has it, and no normalizer drops it.
_UNKNOWN_CHARACTER = "\N{EGYPTIAN HIEROGLYPH A001}"
# Types of tokens are kept in one byte.
_MAX_TYPES = 128


def load_tokenizer(card: ModelCard) -> Tokenizer:
    """The tokenizer of a checkpoint: no truncation, no padding, every quirk applied.

    Quirks: an end-of-text token that tokenizer_config.json requests and tokenizer.json lacks
    (gte-Qwen2); markers of ColBERT kept whole; lower case requested by sentence-transformers'
    module files; a space before the first word requested by tokenizer_config.json or by the
    authors' loader (tanaos-NER).

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.
    """
    tokenizer = _read(card)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _check_unknown_token(tokenizer, card.checkpoint)
    if card.config.static:  # its authors' code reads tokenizer.json alone, without special tokens
        tokenizer.post_processor = None
        return tokenizer
    if (end := card.tokenizer.end_token) is not None:
        _append_end(tokenizer, end, card)
    if card.modules.do_lower_case:
        _lower(tokenizer)
    tokenizer.encode_special_tokens = card.tokenizer.splits_special_tokens
    if card.multi is not None:
        for marker in card.multi.markers:
            _keep_whole(tokenizer, marker)
    _check_template(tokenizer, card)
    _check_types(tokenizer, card)
    return tokenizer


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> int:
    """Leading tokens that a prompt takes, including special tokens before it but not after it."""
    mask = tokenizer.encode(prompt).special_tokens_mask
    return max((i + 1 for i, special in enumerate(mask) if not special), default=0)


def _read(card: ModelCard) -> Tokenizer:
    reading = card.tokenizer
    if not reading.is_plain:
        return Tokenizer.from_str(reading.built.json.decode())
    file = card.checkpoint.folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{file} is not a tokenizer: {one_line(error)}") from error
    if not reading.adds_space:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    with_prefix_space(content)
    return Tokenizer.from_str(json.dumps(content))


def _keep_whole(tokenizer: Tokenizer, marker: str) -> None:
    """Let a marker of ColBERT, or its first word, be one token where the vocabulary has it.

    [unused0] would be taken apart, and an added "[Q] " is not found where text is lowered first.
    """
    for token in (marker, *marker.split()[:1]):
        if tokenizer.token_to_id(token) is not None:
            if tokenizer.encode(token, add_special_tokens=False).tokens != [token]:
                tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
            return


def _check_unknown_token(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Raise now where a text with an unknown character would end a job later."""
    try:
        tokenizer.encode(_UNKNOWN_CHARACTER)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            f"the tokenizer of {checkpoint.folder} has no token for unknown characters: "
            f"{one_line(error)}",
            hint="download the checkpoint again: its unknown token is not in its vocabulary",
        ) from error


def _append_end(tokenizer: Tokenizer, end: str, card: ModelCard) -> None:
    """Append the end token to every sequence unless the tokenizer does so already."""
    number = tokenizer.token_to_id(end)
    if number is None or number >= card.config.vocab_size:
        file = card.checkpoint.folder / "tokenizer_config.json"
        raise CheckpointError(
            f"{file} sets add_eos_token but its eos_token {shown(end)} is not in the vocabulary"
        )
    if tokenizer.encode("a").ids[-1:] == [number]:
        return
    template = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, number)]
    )
    before = tokenizer.post_processor
    tokenizer.post_processor = (
        template if before is None else processors.Sequence([before, template])
    )


def _check_template(tokenizer: Tokenizer, card: ModelCard) -> None:
    """Raise for special tokens around every text that the model has no embeddings of."""
    pair = tokenizer.encode("", "")
    for number, token in zip(pair.ids, pair.tokens, strict=True):
        if number >= card.config.vocab_size:
            raise CheckpointError(
                f"the tokenizer of {card.checkpoint.folder} puts {shown(token)}, number {number}, "
                f"around every text, and the model has {card.config.vocab_size} tokens",
                hint="check the special tokens of tokenizer_config.json and "
                "special_tokens_map.json: this one is new",
            )


def _check_types(tokenizer: Tokenizer, card: ModelCard) -> None:
    """Raise for a single text with types besides 0, which only pairs and XLNet have here, and for a
    pair with types that the model has no embeddings of.
    """
    has_table = card.uses_type_ids and card.checkpoint.config.get("model_type") != "xlnet"
    if card.head == "sequence_classifier":
        most = min(card.config.token_types, _MAX_TYPES) if has_table else _MAX_TYPES
        _check_types_of_pairs(tokenizer, card, most)
    types = sorted(set(tokenizer.encode("a").type_ids) - {0})
    if types and has_table:
        raise CheckpointError(
            f"the tokenizer of {card.checkpoint.folder} gives the tokens of a single text the "
            f"types {types}, which bei-jobs does not compute",
            hint="remove token_type_ids from model_input_names, if the model was trained without",
        )


def _check_types_of_pairs(tokenizer: Tokenizer, card: ModelCard, most: int) -> None:
    types = sorted(kind for kind in set(tokenizer.encode("a", "b").type_ids) if kind >= most)
    if types:
        raise CheckpointError(
            f"{card.checkpoint.folder / 'tokenizer.json'} gives the tokens of a pair the types "
            f"{types}, where the model takes 0 to {most - 1}",
            hint="use the tokenizer.json that belongs to these weights",
        )


def _lower(tokenizer: Tokenizer) -> None:
    """Convert to lower case first, unless the tokenizer's own normalizer does so already."""
    steps = json.loads(tokenizer.to_str())["normalizer"] or {}
    for step in steps.get("normalizers", [steps]):
        if step.get("type") == "Lowercase" or step.get("lowercase"):
            return
    before = tokenizer.normalizer
    lower = normalizers.Lowercase()
    tokenizer.normalizer = lower if before is None else normalizers.Sequence([lower, before])

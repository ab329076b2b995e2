"""Which tokens of a text have a vector, where each has one, and those that fill a query up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.modules import TextReading
from pipeline.encoder.checkpoint.tokenizer_settings import content_of
from pipeline.errors import CheckpointError, UsageError
from pipeline.packing import Int32Array, Int64Array, Masks
from pipeline.tokenize.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NO_VECTOR = "the text has no token with a vector for this model"


@dataclass(frozen=True, slots=True)
class VectorTokens:
    """The tokens of texts of one kind that have a vector.

    Attributes:
        skipped: ids that have none.
        skips_first: whether the first token of a text has none.
        length: tokens that a text is filled up to, 0 for none.
        filler: the token that fills it up.
        attended: whether a text's own tokens see those.
    """

    skipped: Int32Array
    skips_first: bool = False
    length: int = 0
    filler: int = 0
    attended: bool = False

    def __call__(self, tokens: Tokens) -> Tokens:
        """The tokens, filled up, with their masks."""
        attention = None
        if self.length and (tokens.lengths < self.length).any():
            own, tokens = self._filled(tokens)
            attention = None if self.attended else own
        vector = ~np.isin(tokens.ids, self.skipped)
        if self.skips_first:
            vector[tokens.offsets[:-1][tokens.lengths > 0]] = False
        return replace(tokens, masks=Masks(vector, attention))

    def _filled(self, tokens: Tokens) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], Tokens]:
        """Which tokens [T] are the text's own, and all of them."""
        added = np.maximum(self.length - tokens.lengths, 0)
        offsets = tokens.offsets + np.concatenate([[0], np.cumsum(added)])
        own = np.repeat(
            np.tile([True, False], len(added)), np.stack([tokens.lengths, added], axis=1).ravel()
        )
        ids = np.full(own.shape, self.filler, dtype=np.int32)
        ids[own] = tokens.ids
        spans, types = tokens.char_spans, tokens.type_ids
        if spans is not None:
            filled = np.full((len(own), 2), -1, dtype=np.int32)
            filled[own] = spans
            spans = filled
        if types is not None:
            filled_types = np.zeros(own.shape, dtype=np.int8)
            filled_types[own] = types
            types = filled_types
        more: Int64Array = np.bincount(tokens.row_of, weights=added, minlength=tokens.rows)
        return own, replace(
            tokens,
            ids=ids,
            offsets=offsets,
            n_tokens=tokens.n_tokens + more.astype(np.int32),
            type_ids=types,
            char_spans=spans,
        )


def vector_tokens(
    card: ModelCard, tokenizer: Tokenizer, kind: str, max_length: int
) -> VectorTokens:
    """Which tokens have a vector.

    Args:
        card: of a model that gives them.
        tokenizer: of the model.
        kind: of the texts; "" is that of documents.
        max_length: of a sequence, which is also what a query of fixed length is filled up to.

    Raises:
        CheckpointError: queries are filled up with a token that the vocabulary does not have.
        UsageError: the limit leaves no room for text.
    """
    assert card.multi is not None
    around = max((len(tokenizer.encode(each).ids) for each in card.multi.markers), default=0)
    if max_length <= around:
        raise UsageError(
            f"--max-length {max_length} leaves no room for text besides the {around} special "
            "tokens and markers of this model",
            hint=f"give {around + 1} or more",
        )
    reading = card.multi.reading(kind)
    found = (_skipped(tokenizer, word, reading) for word in reading.skipped)
    skipped = np.array(sorted({number for number in found if number is not None}), dtype=np.int32)
    if (expansion := reading.expansion) is None:
        return VectorTokens(skipped, card.multi.skips_first)
    length = max_length if expansion.fixed else min(max_length, expansion.length)
    filler = _filler(card, tokenizer, expansion.token)
    return VectorTokens(skipped, card.multi.skips_first, length, filler, expansion.attended)


def _skipped(tokenizer: Tokenizer, word: str, reading: TextReading) -> int | None:
    """The token that has no vector; None where there is no such token."""
    if not reading.skips_words:
        return tokenizer.token_to_id(word)
    ids = tokenizer.encode(word, add_special_tokens=False).ids
    return ids[0] if ids else None


def _filler(card: ModelCard, tokenizer: Tokenizer, token: str) -> int:
    """The token that fills queries up: as given, else the mask, else the end token."""
    options = card.tokenizer.options
    named = [content_of(options.get(key)) for key in ("mask_token", "eos_token")]
    wanted = [token] if token else [named[0], "[MASK]", "<mask>", named[1]]
    for each in wanted:
        if each and (number := tokenizer.token_to_id(each)) is not None:
            return number
    raise CheckpointError(
        f"{card.name} fills queries up with {token or 'a mask token'}, and its vocabulary has none",
        hint="check mask_token in tokenizer_config.json",
    )

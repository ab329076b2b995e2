"""Token scores → entities: the strategies of transformers' token-classification pipeline.

    none     every token on its own
    simple   adjacent tokens with one tag form an entity; a label B-… begins a new one
    first    a word takes the label of its first token, then as simple
    average  a word takes the label with the highest mean score, then as simple
    max      a word takes the label of its most certain token, then as simple

The semantics, including the definition of a word, are those of transformers 5.23,
`pipelines/token_classification.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.packing import Int32Array, Int64Array
from pipeline.spec import Aggregation
from pipeline.tasks.base import BoolArray, Float32Array

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_OUTSIDE = "O"
# For tokenizer models that do not name their unknown token, such as byte-level ones: a text may
# still contain it literally.
_UNKNOWN = ("[UNK]", "<unk>")


class Labels:
    """Label names and the meaning of their B- and I- prefixes; all arrays are [L]."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = pa.array(names, pa.string())
        self.outside = np.array([name == _OUTSIDE for name in names])
        self.begins = np.array([name.startswith("B-") for name in names])
        # `tags`: what adjacent tokens must share; `entities`: the name of their entity. They differ
        # for a label such as X-PER, which is a separate tag but is named PER.
        tags = [name[2:] if name[:2] in ("B-", "I-") else name for name in names]
        self.tags = np.unique(tags, return_inverse=True)[1]
        self.entities = pa.array([name.split("-", 1)[-1] for name in names], pa.string())
        self.entity_outside = np.array([name.split("-", 1)[-1] == _OUTSIDE for name in names])


@dataclass(frozen=True, slots=True)
class LabelledSpans:
    """N labelled spans of characters, in order: tokens, words or entities."""

    rows: Int64Array  # [N], not decreasing
    labels: Int64Array  # [N], indexes of labels
    scores: Float32Array  # [N]
    starts: Int32Array  # [N], first character
    ends: Int32Array  # [N], last character + 1


def label_tokens(rows: Int64Array, scores: Float32Array, spans: Int32Array) -> LabelledSpans:
    """Each token with its best label. `scores` [N, L], `spans` [N, 2]."""
    best = scores.argmax(axis=1)
    return LabelledSpans(rows, best, np.take_along_axis(scores, best[:, None], 1)[:, 0], *spans.T)


def label_words(
    rows: Int64Array,
    scores: Float32Array,
    spans: Int32Array,
    inside: BoolArray,
    strategy: Aggregation,
) -> LabelledSpans:
    """Each word with one label. `inside` [N] marks tokens that continue the previous word."""
    if not len(rows):
        return label_tokens(rows, scores, spans)
    starts_word = ~inside
    starts_word[0] = True
    starts_word[1:] |= rows[1:] != rows[:-1]
    firsts = np.flatnonzero(starts_word)
    counts = np.diff(firsts, append=len(rows))
    bounds = np.stack([spans[firsts, 0], spans[firsts + counts - 1, 1]], axis=1)
    if strategy == "average":
        means = np.add.reduceat(scores, firsts, dtype=np.float64) / counts[:, None]
        return label_tokens(rows[firsts], means.astype(np.float32), bounds)
    chosen = firsts if strategy == "first" else _most_certain(scores.max(axis=1), firsts)
    return label_tokens(rows[firsts], scores[chosen], bounds)


def _most_certain(certainty: Float32Array, firsts: Int64Array) -> Int64Array:
    """The first of the tokens with the highest score in each word."""
    word_of = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(certainty)))
    highest = np.flatnonzero(certainty == np.maximum.reduceat(certainty, firsts)[word_of])
    chosen: Int64Array = highest[np.unique(word_of[highest], return_index=True)[1]]
    return chosen


def group(spans: LabelledSpans, labels: Labels) -> LabelledSpans:
    """Entities: adjacent spans with one tag; they get the mean score and the first one's label."""
    if not len(spans.rows):
        return spans
    tags = labels.tags[spans.labels]
    begins = labels.begins[spans.labels]
    begins[0] = True
    begins[1:] |= (tags[1:] != tags[:-1]) | (spans.rows[1:] != spans.rows[:-1])
    firsts = np.flatnonzero(begins)
    counts = np.diff(firsts, append=len(tags))
    means = np.add.reduceat(spans.scores, firsts, dtype=np.float64) / counts
    entities = LabelledSpans(
        spans.rows[firsts],
        spans.labels[firsts],
        means.astype(np.float32),
        spans.starts[firsts],
        spans.ends[firsts + counts - 1],
    )
    return select(entities, ~labels.entity_outside[entities.labels])


def select(spans: LabelledSpans, kept: BoolArray) -> LabelledSpans:
    """The spans that `kept` [N] marks."""
    return LabelledSpans(
        spans.rows[kept],
        spans.labels[kept],
        spans.scores[kept],
        spans.starts[kept],
        spans.ends[kept],
    )


class WordRule:
    """Decides which tokens continue the word of the previous token.

    If the tokenizer has a prefix for continuations, such as WordPiece's `##`, a token is inside a
    word if its length differs from that of its text. Otherwise it is inside a word if neither its
    first character nor the one before is a space. An unknown token always begins a word.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        model = tokenizer.model
        names = (getattr(model, "unk_token", None), *_UNKNOWN)
        ids = [tokenizer.token_to_id(name) for name in names if name]
        # The id of the unknown token, -1 if there is none.
        self.unknown: int = next((id_ for id_ in ids if id_ is not None), -1)
        self._sizes: Int64Array | None = None
        if getattr(model, "continuing_subword_prefix", None):
            count = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
            self._sizes = np.array([len(tokenizer.id_to_token(i) or "") for i in range(count)])

    def inside(
        self, texts: Sequence[str | None], rows: Int64Array, ids: Int32Array, spans: Int32Array
    ) -> BoolArray:
        """Which of N tokens are inside a word.

        Args:
            texts: one per row.
            rows: [N], not decreasing.
            ids: [N].
            spans: [N, 2], characters of the row's text.
        """
        if self._sizes is not None:
            inside: BoolArray = self._sizes[ids] != spans[:, 1] - spans[:, 0]
        else:
            inside = np.zeros(len(rows), dtype=np.bool_)
            firsts = np.unique(rows, return_index=True)[1]
            for first, last in zip(firsts, [*firsts[1:], len(rows)], strict=True):
                text = texts[int(rows[first])] or ""
                inside[first:last] = _no_space_at(text, spans[first:last, 0])
        inside[ids == self.unknown] = False
        return inside


def _no_space_at(text: str, starts: Int32Array) -> BoolArray:
    """Whether neither the character at each start nor the one before is a space; false at 0."""
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    # One more entry at either end: there is no space before and after the text.
    space = np.zeros(len(characters) + 2, dtype=np.bool_)
    space[1:-1] = characters == ord(" ")
    inside: BoolArray = ~(space[starts] | space[starts + 1])
    inside[starts == 0] = False
    return inside

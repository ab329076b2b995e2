"""Tasks on long texts in chunks: a row for each chunk, or one row of all of them.

A row is one row until it is in a part (`pipeline.output.chunk_rows`): with a row for each chunk,
the columns of results are lists.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.encoder.card import ModelCard
from pipeline.outputs import Outputs
from pipeline.packing import Int64Array
from pipeline.part_columns import CHUNK_FIELDS, HELD_FIELDS
from pipeline.spec import JobSpec
from pipeline.tasks.base import BoolArray, Float32Array, Task, lists
from pipeline.tasks.classify import Classify, tokenize_pairs
from pipeline.tasks.embed import Embed
from pipeline.tasks.pairs import pair_tokenizer
from pipeline.tasks.rerank import Rerank
from pipeline.tasks.scores import softmax
from pipeline.tokenize.chunk_texts import ChunkTokenizer
from pipeline.tokenize.chunks import Chunks, bytes_of_chunk
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.pair_chunks import ChunkedPairs, Pairs
from pipeline.tokenize.texts import text_values
from pipeline.tokenize.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HELD_NAMES = frozenset(field.name for field in (*CHUNK_FIELDS, *HELD_FIELDS))


def _chunk_tokenizer(
    spec: JobSpec, tokenizer: Tokenizer, *, window: int | None = None, skipped: int = 0
) -> ChunkTokenizer:
    return ChunkTokenizer(
        tokenizer,
        spec.chunk_tokens or spec.max_length,
        spec.chunk_overlap or 0,
        window=window,
        prompt=spec.prompt,
        skipped=skipped,
    )


def _output_text_bytes(spec: JobSpec) -> int:
    return bytes_of_chunk(spec.chunk_tokens or spec.max_length, spec.chunk_overlap or 0)


def _chunked_pairs(spec: JobSpec, pairs: Pairs, tokenizer: Tokenizer) -> ChunkedPairs:
    chunk_tokens = spec.chunk_tokens or spec.max_length
    overlap = spec.chunk_overlap or 0
    return ChunkedPairs(pairs, tokenizer, chunk_tokens, overlap, max_length=spec.max_length)


def _tokenize(chunker: ChunkTokenizer, column: pa.Array) -> Tokens:
    texts, invalid = text_values(column)
    tokens = chunker.encode(texts)
    tokens.errors.update(invalid)
    return tokens


def _chunks(tokens: Tokens) -> Chunks:
    if tokens.chunks is not None:
        return tokens.chunks
    if len(tokens.lengths):
        raise ValueError("tokens without chunks: they were not made by this task")
    none = np.zeros(0, dtype=np.int64)  # of rows that are refused before they are tokenized
    return Chunks(none, none, none, none)


class ChunkedEmbed(Embed):
    """Text → for each chunk where it is, and what Embed writes for its text alone."""

    output_columns = Embed.output_columns | HELD_NAMES

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        super().__init__(spec, card, tokenizer)  # without `ids`, which say nothing of places
        self._chunker = self._make_chunker(spec, card, tokenizer)
        self.output_text_bytes = _output_text_bytes(spec)

    def _make_chunker(self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer) -> ChunkTokenizer:
        return _chunk_tokenizer(spec, tokenizer)

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        tokens = _tokenize(self._chunker, rows.column(self._spec.text_column))
        return self.with_vectors(tokens)

    def fields(self) -> list[pa.Field]:
        results = [field.with_type(pa.list_(field.type)) for field in super().fields()]
        return [*HELD_FIELDS, *results]

    def all_columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Outputs, failed: BoolArray
    ) -> list[pa.Array]:
        chunks = _chunks(tokens)
        valid = ~failed[chunks.row_of]
        counts = np.bincount(chunks.row_of[valid], minlength=tokens.rows)
        numbers = (chunks.starts, chunks.ends, chunks.n_tokens)
        columns = [pa.array(values[valid], pa.int32()) for values in numbers]
        # To Embed, each chunk is a row.
        count = int(valid.sum())
        alone = replace(
            tokens,
            row_of=np.arange(count),
            n_tokens=chunks.n_tokens[valid].astype(np.int32),
        )
        sound = np.zeros(count, dtype=np.bool_)
        columns += super().all_columns(rows, alone, outputs.take(valid), sound)
        return [lists(counts, values, failed) for values in columns]


class LateChunkedEmbed(ChunkedEmbed):
    """As ChunkedEmbed, but that each chunk is pooled from the states of the whole text's tokens."""

    def _make_chunker(self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer) -> ChunkTokenizer:
        from pipeline.encoder.tokenizer import prompt_tokens  # with the library of tokenizers

        skipped = 0
        if spec.prompt and not card.modules.include_prompt:
            skipped = prompt_tokens(tokenizer, spec.prompt)
        return _chunk_tokenizer(spec, tokenizer, window=spec.max_length, skipped=skipped)


class PooledEmbed(Embed):
    """Text → the mean of its chunks' vectors, weighted by their tokens."""

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        super().__init__(spec, card, tokenizer)  # without `ids`, which say nothing of places
        unit = card.gives_unit_length(spec.all_dimensions)
        self._unit = unit if spec.normalize is None else spec.normalize
        self._chunker = _chunk_tokenizer(spec, tokenizer)
        self.output_text_bytes = _output_text_bytes(spec)

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        return _tokenize(self._chunker, rows.column(self._spec.text_column))

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        found, means = _means(tokens.row_of, outputs, tokens.lengths)
        if self._unit:
            several = np.bincount(tokens.row_of, minlength=tokens.rows)[found] > 1
            for first, width in {(column.first, column.width) for column in self._dense}:
                vectors = means[:, first : first + width]
                norms = np.linalg.norm(vectors[several], axis=1, keepdims=True)
                vectors[several] /= np.where(norms > 0, norms, 1)
        return super().columns(rows, replace(tokens, row_of=found), means, failed)


class PooledRerank(Rerank):
    """Query and documents → the best score of each document's chunks."""

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        super().__init__(spec, card, tokenizer)  # without `ids`, which say nothing of places
        self._tokenizer = _chunked_pairs(spec, self._tokenizer, tokenizer)

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        documents = _chunks(tokens).starts
        firsts = np.flatnonzero(np.diff(documents, prepend=-1))
        best = np.maximum.reduceat(outputs, firsts) if len(firsts) else outputs
        return super().columns(rows, replace(tokens, row_of=tokens.row_of[firsts]), best, failed)


class PooledClassify(Classify):
    """As Classify, of the chunks of a text or of a pair's document.

    Where labels do not exclude each other, a label is as likely as in the chunk that shows it
    best; else probabilities, logits or regressions are means, weighted by tokens.
    """

    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        super().__init__(spec, card, tokenizer)  # without `ids`, which say nothing of places
        self._regression = card.config.regression
        if spec.document_column is None:
            chunker = _chunk_tokenizer(spec, tokenizer)
            column = spec.text_column
            self._tokenize = lambda rows: _tokenize(chunker, rows.column(column))
        else:
            pairs = pair_tokenizer(spec, card, tokenizer, joined=True)
            chunked = _chunked_pairs(spec, pairs, tokenizer)
            self._tokenize = tokenize_pairs(spec, card, chunked, spec.document_column)

    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        if self._independent and not self._regression:
            found = np.unique(tokens.row_of)
            firsts = np.searchsorted(tokens.row_of, found)
            values = np.maximum.reduceat(outputs, firsts) if len(found) else outputs
        elif self._keeps_logits:
            found, values = _means(tokens.row_of, outputs, tokens.lengths)
        else:  # the softmax of their logarithms is the probabilities themselves
            found, means = _means(tokens.row_of, softmax(outputs), tokens.lengths)
            with np.errstate(divide="ignore"):
                values = np.log(means)
        return super().columns(rows, replace(tokens, row_of=found), values, failed)


def _means(
    row_of: Int64Array, outputs: Float32Array, weights: Int64Array
) -> tuple[Int64Array, Float32Array]:
    """The rows that have a sequence, and the weighted mean of each one's outputs.

    A row with one sequence has its output as it is.
    """
    found = np.unique(row_of)
    firsts = np.searchsorted(row_of, found)
    if len(found) == len(row_of):
        return found, outputs
    weight = weights.astype(np.float64)[:, None]
    sums = np.add.reduceat(outputs * weight, firsts)
    means = (sums / np.add.reduceat(weight, firsts)).astype(np.float32)
    single = np.diff(np.append(firsts, len(row_of))) == 1
    means[single] = outputs[firsts[single]]
    return found, means


# Task and policy → what does it.
CHUNKED: dict[tuple[str, str], type[Task]] = {
    (Embed.name, "chunk"): ChunkedEmbed,
    (Embed.name, "late-chunk"): LateChunkedEmbed,
    (Embed.name, "pool"): PooledEmbed,
    (Rerank.name, "pool"): PooledRerank,
    (Classify.name, "pool"): PooledClassify,
}

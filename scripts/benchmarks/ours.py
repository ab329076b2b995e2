"""bei-jobs as `scripts/bench encode` calls it: texts in, a task's result columns out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.encoder.card import open_card
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.load import HeadOptions
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.outputs import Lists, Outputs
from pipeline.packing import Batch
from pipeline.planning.make_spec import sample_spec
from pipeline.prefetch import prefetch
from pipeline.tasks import make_task, task_of
from pipeline.tasks.scores import softmax
from pipeline.tokenize.tokens import Tokens

# As in pipeline.blocks: rows sorted and packed together.
_WINDOW_ROWS = 16_384

# Texts, or pairs of a query and a document.
Inputs = Sequence[str] | Sequence[tuple[str, str]]


class Ours:
    """bei-jobs' encoder: tokenizing in one thread, computing in the others.

    Attributes:
        engine: with the model.
        precision: what the engine computes in.
        automatic: whether that was left to it.
        task: what it does.
        vectors: the kinds that it computes.
        tokenizer: of the model.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        precision: str,
        limit: int,
        *,
        task: str | None = None,
        budget: int | None = None,
    ) -> None:
        card = open_card(str(folder))
        self.task = task_of(card, task).name
        spec = sample_spec(card, self.task, precision="auto", max_length=limit)
        options = HeadOptions(vectors=spec.vectors)
        self.engine = Engine(card, options, device=device, precision=precision)
        self.vectors = spec.vectors
        self.precision = self.engine.precision
        self.automatic = precision == "auto"
        self._real = self._padded = 0
        self._budget = budget or self.engine.token_budget
        self.tokenizer = load_tokenizer(card)
        self._spec = dataclasses.replace(
            spec,
            document_column="document" if self.task == "rerank" else None,
            top_k=len(card.labels) or None,
        )
        # A task owns its tokenizer, and texts are made with this one.
        self._task = make_task(self._spec, card, load_tokenizer(card))

    @property
    def padding(self) -> float:
        """Share of the computed tokens that only fill a graph's shape; none of them on a CPU."""
        self._padded += self.engine.take_padding()
        return self._padded / max(1, self._padded + self._real)

    def __call__(self, inputs: Inputs) -> list[pa.Array]:
        """The result columns of each window of rows, one after another."""
        columns: list[pa.Array] = []
        with prefetch(self._windows(inputs), 2) as ahead:
            for rows, tokens in ahead:
                columns += self._columns(rows, tokens, self._outputs(tokens, self._batches(tokens)))
        return columns

    def values(self, inputs: Inputs) -> np.ndarray:
        """What is compared: vectors, scores (of all labels, best first), or each token's best."""
        return np.concatenate([
            self._values(rows, tokens, self._outputs(tokens, self._batches(tokens)))
            for rows, tokens in self._windows(inputs)
        ])  # fmt: skip

    def tokenized(self, inputs: Inputs) -> Callable[[Inputs], object]:
        """The same without tokenizing and packing: these rows, prepared beforehand."""
        windows = [(t, list(self._batches(t))) for _, t in self._windows(inputs)]
        return lambda _: [self._outputs(tokens, batches) for tokens, batches in windows]

    def lengths(self, inputs: Inputs) -> np.ndarray:
        """Tokens of each sequence."""
        return np.concatenate([tokens.lengths for _, tokens in self._windows(inputs)])

    def whole(self, inputs: Inputs) -> np.ndarray:
        """Whether each row is read as it is: neither cut nor in several pieces."""
        return np.concatenate([
            (tokens.n_tokens <= self._spec.max_length) & ~tokens.truncated
            for _, tokens in self._windows(inputs)
        ])  # fmt: skip

    def _windows(self, inputs: Inputs) -> Iterator[tuple[pa.RecordBatch, Tokens]]:
        for start in range(0, len(inputs), _WINDOW_ROWS):
            rows = self._rows(inputs[start : start + _WINDOW_ROWS])
            tokens = self._task.tokenize(rows)
            if tokens.errors:  # others would compute it all the same
                raise SystemExit(f"a row cannot be measured: {next(iter(tokens.errors.values()))}")
            yield rows, tokens

    def _rows(self, inputs: Inputs) -> pa.RecordBatch:
        if self.task != "rerank":
            return pa.RecordBatch.from_pydict({self._spec.text_column: list(inputs)})
        queries, documents = zip(*inputs, strict=True)
        return pa.RecordBatch.from_pydict({"query": list(queries), "document": list(documents)})

    def _batches(self, tokens: Tokens) -> Iterator[Batch]:
        return map(tokens.batch, tokens.packed(self._budget))

    def _outputs(self, tokens: Tokens, batches: Iterator[Batch] | list[Batch]) -> Outputs:
        """Of each sequence, or of each token where the model labels tokens."""
        size = len(tokens.ids) if self.engine.per_token else len(tokens.lengths)
        rows: np.ndarray | None = None
        lists: dict[str, list[tuple[np.ndarray, Lists]]] = {kind: [] for kind in self.engine.lists}
        scorer = self._task.scorer(tokens)
        for batch, given in self.engine.run_all(batches):
            self._real += batch.tokens
            computed = given if scorer is None else scorer(batch, given)
            places = batch.sequences
            for kind, some in computed.lists.items():
                lists[kind].append((places, some))
            if self.engine.per_token:
                spans = zip(tokens.offsets[places], tokens.offsets[places + 1], strict=True)
                places = np.concatenate([np.arange(a, b) for a, b in spans])
            result = computed.rows.reshape(len(computed.rows), -1)
            if rows is None:
                rows = np.empty((size, result.shape[1]), dtype=np.float32)
            rows[places] = result
        assert rows is not None
        placed = {kind: Lists.placed(size, parts) for kind, parts in lists.items() if parts}
        return Outputs(rows, placed)

    def _columns(self, rows: pa.RecordBatch, tokens: Tokens, outputs: Outputs) -> list[pa.Array]:
        failed = np.zeros(rows.num_rows, dtype=np.bool_)
        return self._task.all_columns(rows, tokens, outputs, failed)

    def _values(self, rows: pa.RecordBatch, tokens: Tokens, outputs: Outputs) -> np.ndarray:
        if outputs.lists:
            return Outputs(
                outputs.rows, {kind: numbered(lists) for kind, lists in outputs.lists.items()}
            ).comparable()
        if self.task == "tag":
            assert tokens.char_spans is not None
            return softmax(outputs.rows[tokens.char_spans[:, 0] >= 0]).max(axis=1)
        scores = self._columns(rows, tokens, outputs)[-1]
        flat = scores.flatten() if pa.types.is_nested(scores.type) else scores
        return flat.to_numpy(zero_copy_only=False).reshape(rows.num_rows, -1)


def numbered(lists: Lists) -> Lists:
    """Vectors of tokens counted from 0, since libraries do not say which were left out."""
    if lists.values.ndim == 1:
        return lists
    starts = np.repeat(np.cumsum(lists.counts) - lists.counts, lists.counts)
    return Lists(lists.counts, (np.arange(len(lists.ids)) - starts).astype(np.int32), lists.values)

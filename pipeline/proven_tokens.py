"""Tokens of rows by tokenizer processes, as long as they are those of the tokenizer itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Self

import numpy as np
import pyarrow as pa

from pipeline.choice import Choice
from pipeline.encoder.card import ModelCard
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.spec import JobSpec
from pipeline.tasks import Task, make_task
from pipeline.tokenize.processes import ProcessesLost, TokenizerProcesses
from pipeline.tokenize.tokens import Tokens

# Rows of a job that are tokenized by both.
PROOF_ROWS = 1000
_OWN = f"tokenizers {version('tokenizers')}"


class ProvenTokens:
    """Tokenizes the rows of a job; safe to share between threads.

    The first rows are tokenized by the task's own tokenizer too. From the first difference on, and
    where the processes end, that one tokenizes alone.

    Args:
        own: the task with its own tokenizer.
        other: the same task with the ids of `processes`.
        processes: started; None if there are none from the beginning.
        choice: what tokenizes, and why.

    Attributes:
        choice: as given.
        warn: told why, where the own tokenizer takes over: a line for the user.
        used: what tokenized rows so far; None if it was the own one alone.
    """

    def __init__(
        self,
        own: Task,
        other: Task,
        processes: TokenizerProcesses | None,
        choice: Choice[str],
        warn: Callable[[str], None],
    ) -> None:
        self.choice = choice
        self.warn = warn
        self.used = None if processes is None else str(processes)
        self._own = own
        self._other = other
        self._processes = processes
        self._proven = 0
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        spec: JobSpec,
        card: ModelCard,
        processes: TokenizerProcesses,
        warn: Callable[[str], None],
    ) -> Self:
        """Start the processes for a job, if its task can use them."""
        tokenizer = load_tokenizer(card)
        other = make_task(spec, card, tokenizer, processes)
        own = make_task(spec, card, tokenizer)  # the last one settles how it truncates
        if not other.uses_ids:
            reason = "this job needs more of it than token ids, or has them from a table of words"
            return cls(own, own, None, Choice(_OWN, reason), warn)
        try:
            processes.start(tokenizer)
        except ProcessesLost as lost:
            warn(f"this job is tokenized by {_OWN}: {lost}")
            return cls(own, own, None, Choice(_OWN, str(lost)), warn)
        where = "a process" if processes.count == 1 else f"{processes.count} processes"
        reason = f"in {where} of its own, compared with {_OWN} on the first {PROOF_ROWS:,} rows"
        return cls(own, other, processes, Choice(str(processes), reason), warn)

    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        """As of the task."""
        if self._processes is None:
            return self._own.tokenize(rows)
        try:
            tokens = self._other.tokenize(rows)
        except ProcessesLost as lost:
            self._fall_back(str(lost))
            return self._own.tokenize(rows)
        left = PROOF_ROWS - self._proven
        if left > 0:
            expected = self._own.tokenize(rows.slice(0, left))
            if (row := first_difference(tokens, expected)) is not None:
                self._fall_back(f"the tokens of row {self._proven + row + 1} of this job differ")
                return self._own.tokenize(rows)
            self._proven += expected.rows
        return tokens

    def _fall_back(self, reason: str) -> None:
        with self._lock:
            processes, self._processes = self._processes, None
        if processes is not None:
            self.used = f"{processes}, then {_OWN}"
            self.warn(f"from here on {_OWN} tokenizes this job, not {processes}: {reason}")
            processes.close()

    def close(self) -> None:
        """End the processes."""
        if self._processes is not None:
            self._processes.close()


def first_difference(tokens: Tokens, expected: Tokens) -> int | None:
    """The first row whose tokens differ from those that are expected of the first rows."""
    rows = range(expected.rows)
    return next((row for row in rows if _of_row(tokens, row) != _of_row(expected, row)), None)


def _of_row(tokens: Tokens, row: int) -> object:
    """All that is known of a row, comparable."""
    first, last = np.searchsorted(tokens.row_of, [row, row + 1])
    bounds = tokens.offsets[first : last + 1]
    start, stop = bounds[0], bounds[-1]
    return (
        tokens.ids[start:stop].tobytes(),
        None if tokens.type_ids is None else tokens.type_ids[start:stop].tobytes(),
        (bounds - start).tobytes(),
        bool(tokens.truncated[row]),
        tokens.errors.get(row),
    )

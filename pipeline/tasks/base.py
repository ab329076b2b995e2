"""The interface of a task: the columns that it reads, the models it needs, the columns it writes.

A task is one class in one file; `pipeline.tasks` lists them. Everything that differs between tasks
is in these classes, so that no other code depends on which task it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.config_values import HeadKind
from pipeline.maxsim import Scorer
from pipeline.outputs import Outputs
from pipeline.packing import Int64Array
from pipeline.request import Request
from pipeline.spec import Chunking, JobSpec, Truncate, Vectors
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

NON_FINITE = "the model's output is not finite, in higher precision too"

# Documents per query of a sample.
SAMPLE_DOCUMENTS = 4

# Estimated bytes of an output row, unless a task knows better: short lists and their scores.
_ROW_BYTES = 320


class InputColumns(Protocol):
    """The names of the columns that hold texts: both Request and JobSpec have them."""

    @property
    def text_column(self) -> str: ...

    @property
    def query_column(self) -> str: ...

    @property
    def documents_column(self) -> str: ...

    @property
    def document_column(self) -> str | None: ...


class Task(ABC):
    """A task, bound to a job and its model. R rows, S sequences, T tokens per block."""

    # As in `--task`.
    name: ClassVar[str]
    # The head that a model must have been saved with.
    head: ClassVar[HeadKind]
    # The models that can do the task, in words that complete "it is …".
    models: ClassVar[str]
    # Fields of a Request that the task uses; tasks that do not list them refuse them.
    options: ClassVar[frozenset[str]]
    # The columns that the task may write, besides ROW_COLUMNS and `columns_written`.
    output_columns: ClassVar[frozenset[str]]
    # Which policies that read all of a text it has, in the order of Chunking.
    chunkings: ClassVar[tuple[Chunking, ...]] = ()
    # The route of a BEI or BEI-Bert server for the same task.
    bei_route: ClassVar[str]
    # Whether the model has one output per token, [T, width], or per sequence, [S, width].
    per_token: ClassVar[bool] = False
    # Bytes of text with which a further output comes; 0: a row has one, whatever its text.
    output_text_bytes: int = 0
    # Values of four bytes that each token has besides its outputs: those of its vector.
    token_values: int = 0
    # Whether `ids`, as given, are what it reads.
    uses_ids: bool = False

    @abstractmethod
    def __init__(
        self, spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None
    ) -> None:
        """Bind the task to a job.

        Args:
            spec: the job.
            card: its model.
            tokenizer: that of the model, owned by the task from here on.
            ids: tokenizes as `tokenizer` does; tasks that can, use it in its place.

        Raises:
            UsageError: an option does not fit the model, such as a limit below its special tokens.
        """

    @classmethod
    def accepts(cls, card: ModelCard) -> bool:
        """Whether a model can do the task."""
        return card.head == cls.head

    @classmethod
    def identity(cls, card: ModelCard) -> dict[str, Any]:
        """The facts of a model that shape the task's values, as the JSON that a job hashes."""
        return card.identity()

    @classmethod
    def text_columns(cls, columns: InputColumns) -> tuple[str, ...]:
        """The columns of texts that the task reads."""
        return (columns.text_column,)

    @classmethod
    def list_columns(cls, columns: InputColumns) -> tuple[str, ...]:
        """The columns of lists of texts that the task reads."""
        return ()

    @classmethod
    def columns_read(cls, columns: InputColumns) -> tuple[str, ...]:
        """All columns that the task reads, which together decide a row's result."""
        return (*cls.text_columns(columns), *cls.list_columns(columns))

    @classmethod  # noqa: B027 - most tasks have nothing to check
    def check_request(cls, request: Request) -> None:
        """Refuse options that exclude each other in this task.

        Raises:
            UsageError: the message names them.
        """

    @classmethod  # noqa: B027 - as above
    def check_model(cls, request: Request, card: ModelCard) -> None:
        """Refuse options that do not fit the model, before an output is claimed.

        Raises:
            UsageError: the message names them.
        """

    @classmethod
    def prompt(cls, request: Request, card: ModelCard) -> str:
        """The text that is put before each text.

        Raises:
            UsageError: the model has no prompt of that name.
        """
        return ""

    @classmethod
    def truncate(cls, request: Request, card: ModelCard) -> Truncate:
        """Which end of a long text is cut: as given, or as the model's tokenizer says."""
        return request.end or card.truncation_side

    @classmethod
    def columns_written(cls, request: Request, card: ModelCard) -> frozenset[str]:
        """The columns that a job writes and others of the task do not."""
        return frozenset()

    @classmethod
    def vectors(cls, request: Request, card: ModelCard) -> tuple[Vectors, ...]:
        """The kinds of vectors that are computed; of a task without any, the default of a spec.

        Raises:
            UsageError: the model has no head for one of them.
        """
        return ("dense",)

    @classmethod
    def choices(cls, request: Request, card: ModelCard) -> Choices:
        """Options of the task alone that the user did not give, and what they were set to."""
        return {}

    @classmethod
    def row_bytes(cls, request: Request, card: ModelCard) -> int:
        """Estimated size of an output row, which bounds the rows of a shard."""
        return _ROW_BYTES

    @classmethod
    def token_bytes(cls, request: Request, card: ModelCard) -> float:
        """Estimated size of what each token adds to an output row."""
        return 0.0

    @classmethod
    def sample(
        cls, spec: JobSpec, texts: Sequence[str], documents: int = SAMPLE_DOCUMENTS
    ) -> pa.RecordBatch:
        """Sample rows for a model: `texts` in the columns that the task reads.

        `documents` is how many texts a query is read with, where a row has several.
        """
        return pa.RecordBatch.from_pydict({spec.text_column: list(texts)})

    @abstractmethod
    def tokenize(self, rows: pa.RecordBatch) -> Tokens:
        """Turn rows into token sequences; rows without one have an error."""

    def scorer(self, tokens: Tokens) -> Scorer | None:
        """What makes scores of the vectors of a block's batches; None: their outputs are kept."""
        return None

    @abstractmethod
    def fields(self) -> list[pa.Field]:
        """The result columns, in order."""

    @abstractmethod
    def columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Float32Array, failed: BoolArray
    ) -> list[pa.Array]:
        """Turn outputs, in block order, into the result columns, R values each.

        `failed` [R] marks the rows whose result is null in every column.
        """

    def all_columns(
        self, rows: pa.RecordBatch, tokens: Tokens, outputs: Outputs, failed: BoolArray
    ) -> list[pa.Array]:
        """The same of a model whose outputs may have lists."""
        return self.columns(rows, tokens, outputs.rows, failed)

    def problems(self, tokens: Tokens, outputs: Outputs) -> dict[int, str]:
        """Row → why its outputs, though finite, do not fit into the columns."""
        return {}

    @classmethod
    def flaws(cls, table: pa.Table) -> Iterator[str]:
        """What contradicts itself in the result columns of a part, in words."""
        yield from ()


def lists(counts: Int64Array, values: pa.Array, failed: BoolArray) -> pa.ListArray:
    """One list per row from flat values in row order; null if the row failed.

    Args:
        counts: values of each row, [R]; 0 if it failed.
        values: [sum of counts].
        failed: [R].
    """
    offsets = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=offsets[1:])
    mask = pa.array(failed) if failed.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)

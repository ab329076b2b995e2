"""What a job asks of its input files, how large its shards are, and what an earlier plan says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline.input.byte_cuts import ByteLimits
from pipeline.input.cuts import default_rows_per_shard
from pipeline.input.where import where_columns
from pipeline.shards import Cut, InputFile

# The files of an earlier plan: (URI, version) → the file and its cuts.
EarlierCuts = Mapping[tuple[str, str], tuple[InputFile, Sequence[Cut]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The columns and the rows that a job takes, and which files it can do without."""

    # Names of columns that pass through to the output with their type.
    columns: Sequence[str]
    # Names of columns of strings of any kind; their type in the schema is large_string, unless they
    # are among `columns` too.
    text_columns: Sequence[str]
    # Names of columns of lists of texts; likewise, list<large_string>.
    list_columns: Sequence[str] = ()
    # Columns that the job adds; no column that passes through may have one of these names.
    output_columns: Collection[str]
    # Columns that pass through if all files have them, such as the default id.
    optional: Sequence[str] = ()
    # Those of `columns` that a file of JSON Lines may lack, and whose type may be widened.
    free: Collection[str] = ()
    # Selects the rows, see `pipeline.input.where`; its columns are in the schema too.
    where: str = ""
    # Of every file, if the user says it.
    file_format: str = ""
    # Of CSV files, the character after which each stands for itself.
    csv_escape: str = ""
    # The number or share of files that may be bad; they are left out.
    max_bad_files: str = "0"

    @property
    def tested(self) -> tuple[str, ...]:
        """The columns that decide which rows are selected."""
        return where_columns(self.where)

    @property
    def needed(self) -> tuple[str, ...]:
        """Every name that may be of a column to read; one with commas also as several."""
        columns = (*self.columns, *named_columns(self.columns, ()))
        named = (*self.optional, *columns, *self.text_columns, *self.list_columns, *self.tested)
        return tuple(dict.fromkeys(named))

    def among(self, known: Collection[str]) -> Wanted:
        """The same, with each of the columns by its own name.

        Args:
            known: all columns of the input.
        """
        columns, free = named_columns(self.columns, known), named_columns(self.free, known)
        return replace(self, columns=columns, free=free)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """How many rows a shard has, or what decides on it."""

    # 0: `default_rows_per_shard(row_bytes)`, and fewer where rows are wide.
    rows_per_shard: int = 0
    # Estimated bytes per output row.
    row_bytes: int = 0
    # Bytes of text for which there is an output row; 0: one for each row.
    chunk_bytes: int = 0
    # Estimated bytes of what each token adds to an output row.
    token_bytes: float = 0.0
    # Tokens of a text, where it is cut.
    most_tokens: int = 0

    @property
    def rows(self) -> int:
        """The most rows of a shard."""
        return self.rows_per_shard or default_rows_per_shard(self.row_bytes)

    def limits(self, wanted: Wanted) -> ByteLimits | None:
        """Those of the bytes of a shard; None where the user says how many rows it has."""
        if self.rows_per_shard:
            return None
        return ByteLimits(
            kept={*wanted.columns, *wanted.optional},
            texts={*wanted.text_columns, *wanted.list_columns},
            row_bytes=self.row_bytes,
            chunk_bytes=self.chunk_bytes,
            token_bytes=self.token_bytes,
            most_tokens=self.most_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What an earlier plan of the same output settled."""

    # Its files; an unchanged file keeps its cuts, if they cover all its rows, and is not counted
    # again.
    cuts: EarlierCuts = field(default_factory=dict)
    # Every file is cast to it or refused, and unchanged files are not even opened.
    schema: pa.Schema | None = None
    # (URI, version) of files that are known to be bad → the reason. Where no file may be bad, they
    # are tried again.
    damaged: Mapping[tuple[str, str], str] = field(default_factory=dict)
    # Whether types of `schema` may be widened. Not while a file is bad that has earlier rows: they
    # would have to be written anew.
    widen: bool = False


def named_columns(values: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """The columns that values of --keep name: each is one name, if a column has it, or several.

    Args:
        values: as typed, such as "a,b".
        known: all columns of the input.
    """
    names = ([value] if value in known else value.split(",") for value in values)
    return tuple(dict.fromkeys(name for each in names for name in each))

"""Some of the rows of an output, in bounded memory and time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from jobs.pages.words import shortened
from pipeline.errors import StorageError
from pipeline.output.output import Output
from pipeline.output.part_format import format_of
from pipeline.part_columns import CHUNK_FIELDS
from pipeline.row_keys import KEY_FIELD

# Parts that are read: as many as these, as weigh this together, and as are read in this time.
_PARTS, _BYTES, _SECONDS = 24, 256 << 20, 20.0
# As many where they are small.
_SMALL_PARTS = 200
#: Rows of which vectors are looked at, spread over these parts.
SAMPLED = 2000
_CHARS = 160

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of some parts.

    Attributes:
        parts: index of each part that was read → how many rows it has.
        of: how many parts there are.
        lengths: part index, n_tokens, truncated and first (whether it is the row of a text, and
            not of another chunk of it), of every row of these parts.
        names: the id and kept columns.
        shown: their values as text, shortened, of some of the rows without an error.
        results: the other columns of these rows.
        part_of: the index of the part of each of them.
        row_of: its number in the part.
        keys: row keys of every text of these parts without an error; none in outputs without.
        unread: parts that could not be read, and why.
    """

    parts: dict[int, int]
    of: int
    lengths: pl.DataFrame
    names: tuple[str, ...]
    shown: list[tuple[str, ...]]
    results: pa.Table | None
    part_of: Ints
    row_of: Ints
    keys: pl.Series
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Taken:
    """What is taken of one part."""

    at: int
    rows: int
    lengths: pl.DataFrame
    keys: pl.Series
    chosen: Ints
    shown: list[tuple[str, ...]]
    results: pa.Table


def take_sample(output: Output, parts: pl.DataFrame, names: Sequence[str]) -> Sample:
    """Read some parts, spread evenly over the output.

    Args:
        output: whose parts they are.
        parts: see `jobs.report.parts.Parts`.
        names: the first columns of each part: id and kept ones.
    """
    begun, size = time.monotonic(), 0
    taken: list[_Taken] = []
    unread: dict[str, str] = {}
    files, sizes = parts["part"].to_list(), parts["bytes"].to_list()
    rows = max(1, int(parts["rows"].drop_nulls().sum()) // max(1, parts["rows"].count()))
    wanted = min(max(_PARTS, min(_SMALL_PARTS, SAMPLED // rows)), len(files))
    for at in _spread(len(files)):
        late = time.monotonic() - begun > _SECONDS
        if len(taken) + len(unread) >= wanted or (taken and (late or size + sizes[at] > _BYTES)):
            break
        try:
            found = _take(at, _read(output, files[at]), len(names), max(1, SAMPLED // wanted))
            if taken and found.results.schema != taken[0].results.schema:
                raise KeyError("its columns are not those of the other parts")
            taken.append(found)
        except (StorageError, pa.ArrowException, OSError, KeyError) as error:
            unread[files[at]] = " ".join(str(error).split())
        size += sizes[at]
    taken.sort(key=lambda each: each.at)
    results = [each.results for each in taken]
    return Sample(
        parts={each.at: each.rows for each in taken},
        of=len(files),
        lengths=pl.concat([_NO_LENGTHS, *(each.lengths for each in taken)]),
        names=tuple(names),
        shown=[row for each in taken for row in each.shown],
        results=pa.concat_tables(results).combine_chunks() if results else None,
        part_of=np.repeat([each.at for each in taken], [len(each.chosen) for each in taken]),
        row_of=np.concatenate([np.zeros(0, np.int64), *(each.chosen for each in taken)]),
        keys=pl.concat([pl.Series("key", [], pl.Binary), *(each.keys for each in taken)]),
        unread=unread,
    )


_NO_LENGTHS = pl.DataFrame(
    schema={"part": pl.Int64, "n_tokens": pl.Int64, "truncated": pl.Boolean, "first": pl.Boolean}
)


def _spread(count: int) -> Iterator[int]:
    """The numbers below `count`, so that those up to any one are spread over all of them."""
    bits = max(1, (count - 1).bit_length())
    for turn in range(1 << bits):
        at = int(f"{turn:0{bits}b}"[::-1], 2)
        if at < count:
            yield at


def _read(output: Output, name: str) -> pa.Table:
    with output.directory.open(name) as file:
        return format_of(name).read(file).replace_schema_metadata(None)


def _take(at: int, table: pa.Table, passing: int, rows: int) -> _Taken:
    good = np.flatnonzero(_column(table, "error").is_null().to_numpy())
    results = table.select(range(passing, table.num_columns))
    first = _first_of_texts(results)
    chosen = good[
        np.unique(np.linspace(0, max(0, len(good) - 1), rows).astype(np.int64))[: len(good)]
    ]
    keys = pl.Series("key", [], pl.Binary)
    if KEY_FIELD.name in results.column_names:
        texts = pa.array(good[first[good]])
        keys = pl.Series("key", _column(results, KEY_FIELD.name).take(texts).cast(pa.binary()))
    shown = [[_text(table.column(i)[row]) for row in chosen.tolist()] for i in range(passing)]
    lengths = {
        "part": np.full(table.num_rows, at, dtype=np.int64),
        "n_tokens": _column(table, "n_tokens").fill_null(0).to_numpy().astype(np.int64),
        "truncated": _column(table, "truncated").fill_null(False).to_numpy(),
        "first": first,
    }
    return _Taken(
        at,
        table.num_rows,
        pl.DataFrame(lengths),
        keys,
        chosen,
        list(zip(*shown, strict=True)) if shown else [()] * len(chosen),
        results.take(pa.array(chosen)),
    )


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """The last column of that name: a kept one may have it too."""
    return table.column(len(table.column_names) - 1 - table.column_names[::-1].index(name))


def _first_of_texts(results: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows are the first of a text: of a text in chunks, the others repeat it."""
    if results.column_names[:1] != [CHUNK_FIELDS[0].name]:
        return np.ones(results.num_rows, dtype=np.bool_)
    return np.asarray(results.column(0).fill_null(0).to_numpy() == 0, dtype=np.bool_)


def _text(value: pa.Scalar) -> str:
    """A value in a few words."""
    try:
        plain = value.as_py()
    except (ValueError, pa.ArrowException):  # such as text that is not UTF-8
        return "(not readable)"
    return "" if plain is None else shortened(" ".join(str(plain).split()), _CHARS)

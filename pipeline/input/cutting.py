"""Inputs → shards, from file footers only (text formats: one streaming count)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from pipeline.input.discovery import ListedFile, discover
from pipeline.input.formats import FileSummary
from pipeline.input.reading import inspect
from pipeline.input.schema import common_schema
from pipeline.spec import Cut, InputFile, Shard
from pipeline.store.uris import is_local

DEFAULT_ROWS_PER_SHARD = 16_384
_SHARD_MAX_BYTES = 256 << 20
_FOOTER_THREADS = 16

#: What an earlier plan knew of a file: (URI, version) → the file and its cuts.
Previous = Mapping[tuple[str, str], tuple[InputFile, Sequence[Cut]]]


@dataclass(frozen=True, slots=True)
class PlannedInputs:
    """Every input file with its cuts, and the columns that all of them have."""

    files: tuple[tuple[InputFile, tuple[Cut, ...]], ...]  # in the byte order of part names
    schema: pa.Schema  # the columns to read, as each file is cast to
    partition: tuple[str, ...]  # which of them are hive keys

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file, _ in self.files)


def default_rows_per_shard(bytes_per_row: int) -> int:
    """16,384 rows, or as many as make an output of 256 MB where that is fewer."""
    return max(1, min(DEFAULT_ROWS_PER_SHARD, _SHARD_MAX_BYTES // max(1, bytes_per_row)))


def cut_file(rows: int, row_groups: Sequence[int] | None, rows_per_shard: int) -> list[Cut]:
    """Row ranges of at most `rows_per_shard` that cover every row exactly once, in order.

    Row groups that fit are kept whole, as many to a cut as fit; a larger one is cut into equal
    parts. Without row groups every cut but the last has `rows_per_shard` rows.
    """
    sizes: list[int] = []
    for group in [rows] if row_groups is None else row_groups:
        if sizes and sizes[-1] + group <= rows_per_shard:
            sizes[-1] += group
        elif row_groups is None:
            sizes += [min(rows_per_shard, group - i) for i in range(0, group, rows_per_shard)]
        else:
            sizes += _equal_parts(group, math.ceil(group / rows_per_shard))
    cuts, first = [], 0
    for size in sizes:
        cuts.append(Cut(first, size))
        first += size
    return cuts


def _equal_parts(rows: int, parts: int) -> list[int]:
    return [rows * (i + 1) // parts - rows * i // parts for i in range(parts)]


def plan_inputs(
    inputs: Sequence[str],
    *,
    columns: Sequence[str],
    text_columns: Sequence[str],
    output_columns: Collection[str],
    list_columns: Sequence[str] = (),
    optional: Sequence[str] = (),
    rows_per_shard: int = 0,
    output_width: int = 0,
    previous: Previous | None = None,
    schema: pa.Schema | None = None,
) -> PlannedInputs:
    """Find, describe and cut the input files.

    Args:
        inputs: files, directories, globs, URIs.
        columns: names that pass through to the output, type unchanged.
        text_columns: names of the texts: strings of any kind; large_string in the schema where
            they are not among `columns` too.
        list_columns: names of lists of texts: likewise, list<large_string>.
        output_columns: what the job adds; no column that passes through may have such a name.
        optional: columns that pass through where all files have them, such as the default id.
        rows_per_shard: 0 for `default_rows_per_shard(output_width)`.
        output_width: estimated bytes of an output row.
        previous: an unchanged file keeps its cuts, if they cover it, and is not counted again.
        schema: of an earlier plan of the same output. Every file is cast to it or refused, and
            unchanged files are not even opened.

    Raises:
        InputError: nothing found; a file that cannot be read; columns that are missing, of the
            wrong type, of types that do not go together, or named like an output column.
        StorageError: a store failed.
    """
    step = rows_per_shard or default_rows_per_shard(output_width)
    needed = tuple(dict.fromkeys([*optional, *columns, *text_columns, *list_columns]))
    found, known = discover(inputs), _covered(previous or {})
    unopened = [f for f in found if schema is not None and (f.uri, f.version) in known]
    opened = [f for f in found if f not in set(unopened)]
    facts = dict(zip(opened, _inspect_all(opened, needed, step), strict=True))
    planned, partition = common_schema(
        found,
        facts,
        columns=columns,
        text_columns=text_columns,
        list_columns=list_columns,
        optional=optional,
        output_columns=output_columns,
        schema=schema,
    )
    cut = [
        _described(file, known.get((file.uri, file.version)), facts.get(file), step)
        for file in found
    ]
    return PlannedInputs(tuple(sorted(cut, key=_part_order)), planned, partition)


def _covered(previous: Previous) -> dict[tuple[str, str], tuple[InputFile, Sequence[Cut]]]:
    """Those whose cuts hold all of their rows: a limit may have left some out."""
    return {
        key: (file, cuts)
        for key, (file, cuts) in previous.items()
        if sum(cut.rows for cut in cuts) == file.rows
    }


def _inspect_all(
    found: Sequence[ListedFile], columns: Sequence[str], step: int
) -> Iterator[FileSummary]:
    """Footers of remote files are waited for together; local ones need no waiting."""
    remote = not all(is_local(file.uri) for file in found)
    with ThreadPoolExecutor(_FOOTER_THREADS if remote else 1) as pool:
        yield from pool.map(lambda file: inspect(file, columns, step), found)


def _described(
    found: ListedFile,
    earlier: tuple[InputFile, Sequence[Cut]] | None,
    facts: FileSummary | None,
    step: int,
) -> tuple[InputFile, tuple[Cut, ...]]:
    rows = earlier[0].rows if earlier else facts.rows if facts else 0
    file = InputFile(
        uri=found.uri,
        # Parts are named after the path: an unchanged file keeps it, whatever it was found by.
        path=earlier[0].path if earlier else found.path,
        version=found.version,
        size=found.size,
        rows=rows,
        format=found.format,
        compression=found.compression,
        partition=found.partition,
    )
    if earlier:
        return file, tuple(earlier[1])
    return file, tuple(_cuts(facts, step)) if facts else ()


def _cuts(facts: FileSummary, step: int) -> list[Cut]:
    cuts = cut_file(facts.rows, facts.row_groups, step)
    if facts.row_groups is not None:
        return cuts
    return [
        Cut(cut.first_row, cut.rows, offset)
        for cut, offset in zip(cuts, facts.offsets, strict=True)
    ]


def _part_order(described: tuple[InputFile, tuple[Cut, ...]]) -> str:
    return Shard(described[0], Cut(0, 0), "").part

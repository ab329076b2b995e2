"""Inputs → shards, from file footers (text formats: one streaming pass); wide rows are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pyarrow as pa

from pipeline.errors import AccessDenied, BeiJobsError, InputError
from pipeline.input.bad_files import BadFiles, add_other_formats
from pipeline.input.byte_cuts import PART_MAX_BYTES, ByteLimits, cut_bytes, divided
from pipeline.input.discovery import ListedFile, discover
from pipeline.input.formats import FileSummary
from pipeline.input.ignored import IgnoredFiles
from pipeline.input.reading import inspect, measure, selected_rows
from pipeline.input.schema import common_schema, named_columns
from pipeline.input.search import Search
from pipeline.input.table_file import ReadTable, read_tables
from pipeline.input.where import check_where, where_columns
from pipeline.spec import Cut, InputFile, Shard
from pipeline.store.uris import is_local

DEFAULT_ROWS_PER_SHARD = 16_384
_FOOTER_THREADS = 16

_File = TypeVar("_File", ListedFile, InputFile)
_Found = TypeVar("_Found")

# The files of an earlier plan: (URI, version) → the file and its cuts.
EarlierCuts = Mapping[tuple[str, str], tuple[InputFile, Sequence[Cut]]]


@dataclass(frozen=True, slots=True)
class PlannedInputs:
    """Every input file but the bad ones with its cuts, and the columns that all of them have."""

    files: tuple[tuple[InputFile, tuple[Cut, ...]], ...]  # in byte order of part names
    schema: pa.Schema  # the columns to read, with the types that every file is cast to
    partition: tuple[str, ...]  # which of them are hive keys
    skipped: tuple[tuple[str, str], ...] = ()  # URI and reason of each bad file
    tables: tuple[ReadTable, ...] = ()  # those among the inputs
    ignored: IgnoredFiles = field(default_factory=IgnoredFiles)  # files that are no inputs

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file, _ in self.files)


def default_rows_per_shard(bytes_per_row: int) -> int:
    """16,384 rows, or fewer if their output would exceed 256 MiB."""
    return max(1, min(DEFAULT_ROWS_PER_SHARD, PART_MAX_BYTES // max(1, bytes_per_row)))


def cut_file(rows: int, row_groups: Sequence[int] | None, rows_per_shard: int) -> list[Cut]:
    """Row ranges of at most `rows_per_shard` that cover every row exactly once, in order.

    Row groups that fit are kept whole, as many per cut as fit; a larger one is divided into equal
    cuts. Without row groups every cut but the last has `rows_per_shard` rows.
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
    file_format: str = "",
    columns: Sequence[str],
    text_columns: Sequence[str],
    output_columns: Collection[str],
    list_columns: Sequence[str] = (),
    optional: Sequence[str] = (),
    rows_per_shard: int = 0,
    row_bytes: int = 0,
    previous: EarlierCuts | None = None,
    schema: pa.Schema | None = None,
    max_bad_files: str = "0",
    damaged: Mapping[tuple[str, str], str] | None = None,
    where: str = "",
    free: Collection[str] = (),
    widen: bool = False,
    csv_escape: str = "",
) -> PlannedInputs:
    """Find the input files, read their footers and cut them into row ranges.

    A file is bad if it cannot be read, lacks a column, or has one of a type that goes together
    neither with `schema` nor, without it, with those of most files.

    Args:
        inputs: files, directories, globs, URIs.
        file_format: of every file, if the user says it.
        columns: names of columns that pass through to the output with their type.
        text_columns: names of columns of strings of any kind; their type in the schema is
            large_string, unless they are among `columns` too.
        output_columns: columns that the job adds; no column that passes through may have one of
            these names.
        list_columns: names of columns of lists of texts; likewise, list<large_string>.
        optional: columns that pass through if all files have them, such as the default id.
        rows_per_shard: 0 for `default_rows_per_shard(row_bytes)`, and fewer where rows are wide.
        row_bytes: estimated bytes per output row.
        previous: the files of an earlier plan; an unchanged file keeps its cuts, if they cover
            all its rows, and is not counted again.
        schema: that of an earlier plan of the same output. Every file is cast to it or refused,
            and unchanged files are not even opened.
        max_bad_files: the number or share of files that may be bad; they are left out.
        damaged: (URI, version) of files that are known to be bad → the reason. Where no file may be
            bad, they are tried again.
        where: selects the rows, see `pipeline.input.where`; its columns are in the schema too.
        free: those of `columns` that a file of JSON Lines may lack, and whose type may be widened.
        widen: whether types of `schema` may be. Not while a file is bad that has earlier rows: they
            would have to be written anew.
        csv_escape: of CSV files, the character after which each stands for itself.

    Raises:
        UsageError: `where` is no condition on the columns.
        InputError: there is no input; more files are bad than allowed; a column is named like an
            output column.
        StorageError: a store failed.
    """
    passing, texts = {*columns, *optional}, {*text_columns, *list_columns}
    limits = None if rows_per_shard else ByteLimits(passing, texts, row_bytes)
    rows_per_shard = rows_per_shard or default_rows_per_shard(row_bytes)
    tested = where_columns(where)
    named = [*optional, *columns, *named_columns(columns, ()), *text_columns, *list_columns]
    needed = tuple(dict.fromkeys([*named, *tested]))
    earlier_files = (previous or {}).items()
    search = Search(file_format, {key: (f.format, f.compression) for key, (f, _) in earlier_files})
    listed = [file.with_columns(needed) for file in discover(inputs, search)]
    listed = [replace(f, csv_escape=csv_escape) if f.is_csv else f for f in listed]
    covered = _covered(previous or {}, where, csv_escape)
    bad = BadFiles(max_bad_files, len(listed))
    add_other_formats(bad, listed, search.known)
    for file in () if bad.none_allowed else listed:
        if reason := (damaged or {}).get((file.uri, file.version)):
            bad.add(file, InputError(reason, hint="repair the file, or leave it out of the inputs"))
    unopened = {f for f in listed if schema is not None and (f.uri, f.version) in covered}
    opened = [f for f in listed if f not in unopened and f not in bad]
    found = _of_each(opened, lambda file: inspect(file, needed, rows_per_shard), bad)
    summaries = {file: summary for file, summary in found if summary is not None}
    known = {name for summary in summaries.values() for name in summary.columns}
    known.update(schema.names if schema is not None else ())
    columns, free = named_columns(columns, known), named_columns(free, known)
    known_bad, planned_before = -1, {uri for uri, _ in previous or {}}
    cuts: dict[ListedFile, list[Cut] | None] = {}
    while known_bad < len(bad):  # a bad file has no say in the schema of the others
        known_bad = len(bad)
        planned_schema, partition = common_schema(
            listed,
            summaries,
            columns=columns,
            text_columns=text_columns,
            list_columns=list_columns,
            optional=optional,
            where_columns=tested,
            output_columns=output_columns,
            schema=schema,
            bad=bad,
            free=free,
            widen=widen and planned_before.isdisjoint(dict(bad.reasons())),
        )
        earlier = {
            file: covered.get((file.uri, file.version)) for file in listed if file not in bad
        }
        new = [file for file, kept in earlier.items() if kept is None]
        cuts |= _of_each(
            [file for file in new if file not in cuts],
            lambda f: _cuts(f, summaries[f], rows_per_shard, limits),
            bad,
        )
        files = [
            _plan_file(file, kept, summaries.get(file), cuts.get(file) or (), where)
            for file, kept in earlier.items()
            if file not in bad
        ]
        if where and known_bad == len(bad):
            check_where(where, pa.schema([planned_schema.field(name) for name in tested]))
        if known_bad == len(bad) and any(file.selects for file, _ in files):
            sizes = {f.uri: cut_bytes(cuts[f] or (), summaries[f].sizes, limits) for f in new}
            files = _with_selected_rows(files, sizes, planned_schema, rows_per_shard, bad)
    files.sort(key=_part_order)
    tables = read_tables(file.table for file in listed if file.table)
    return PlannedInputs(
        tuple(files), planned_schema, partition, bad.reasons(), tables, search.ignored
    )


def read_alike(file: InputFile, where: str, csv_escape: str) -> bool:
    """Whether the rows of a file of an earlier plan are those that would be read now."""
    return file.where == where and (not file.is_csv or file.csv_escape == csv_escape)


def _covered(
    previous: EarlierCuts, where: str, csv_escape: str
) -> dict[tuple[str, str], tuple[InputFile, Sequence[Cut]]]:
    """The files whose cuts hold all of their selected rows: a limit may have left some out.

    A file of which no row is selected has no cuts.
    """
    return {
        key: (file, cuts)
        for key, (file, cuts) in previous.items()
        if read_alike(file, where, csv_escape)
        and (
            sum(cut.end - cut.first_row for cut in cuts) == file.rows or (file.selects and not cuts)
        )
    }


def _with_selected_rows(
    files: Sequence[tuple[InputFile, tuple[Cut, ...]]],
    new: Mapping[str, Sequence[int]],
    schema: pa.Schema,
    rows_per_shard: int,
    bad: BadFiles,
) -> list[tuple[InputFile, tuple[Cut, ...]]]:
    """The files with the cuts of their selected rows, which are counted of the `new` ones.

    `new` is the bytes of each of their cuts, by URI.
    """
    cuts = dict(files)
    counted = [file for file in cuts if file.selects and file.uri in new]
    for file, counts in _of_each(counted, lambda f: selected_rows(f, cuts[f], schema), bad):
        cuts[file] = tuple(merged_cuts(cuts[file], counts or (), rows_per_shard, new[file.uri]))
    return [(file, file_cuts) for file, file_cuts in cuts.items() if file not in bad]


def merged_cuts(
    cuts: Sequence[Cut], selected: Sequence[int], rows_per_shard: int, sizes: Sequence[int] = ()
) -> list[Cut]:
    """Cuts that follow each other as one, while it has at most `rows_per_shard` selected rows.

    Every row of the file is in one of them; none if no row is selected.

    Args:
        cuts: of a whole file, in order.
        selected: how many rows of each are selected.
        rows_per_shard: as many or more than a cut has.
        sizes: bytes of each cut, whose selected rows are taken to have their share.
    """
    merged, total = list[Cut](), 0.0
    for index, (cut, rows) in enumerate(zip(cuts, selected, strict=True) if any(selected) else ()):
        size = sizes[index] * rows / cut.rows if sizes else 0.0
        fits = total + size <= PART_MAX_BYTES
        if merged and fits and merged[-1].rows + rows <= rows_per_shard:
            first, total = merged[-1], total + size
            merged[-1] = replace(first, rows=first.rows + rows, extent=cut.end - first.first_row)
        else:
            merged.append(replace(cut, rows=rows, extent=cut.rows))
            total = size
    return merged


def _of_each(
    files: Sequence[_File], read: Callable[[_File], _Found], bad: BadFiles
) -> Iterator[tuple[_File, _Found | None]]:
    """Each file with what is read of it, in order; a bad one with None.

    Remote files are read concurrently to hide latency; local ones have none.
    """

    def found_or_error(file: _File) -> _Found | BeiJobsError:
        try:
            return read(file)
        except (InputError, AccessDenied) as error:  # any other error is the store's
            # A copy: the traceback holds what was read of the file.
            return type(error)(error.message, hint=error.hint)

    remote = not all(is_local(file.uri) for file in files)
    with ThreadPoolExecutor(_FOOTER_THREADS if remote else 1) as pool:
        for file, found in zip(files, pool.map(found_or_error, files), strict=True):
            if isinstance(found, BeiJobsError):
                bad.add(file, found)
                yield file, None
            else:
                yield file, found


def _plan_file(
    listed: ListedFile,
    earlier: tuple[InputFile, Sequence[Cut]] | None,
    summary: FileSummary | None,
    cuts: Sequence[Cut],
    where: str,
) -> tuple[InputFile, tuple[Cut, ...]]:
    rows = earlier[0].rows if earlier else summary.rows if summary else 0
    file = InputFile(
        uri=listed.uri,
        # Parts are named after the path: an unchanged file keeps it, whichever input names it now.
        path=earlier[0].path if earlier else listed.path,
        version=listed.version,
        size=listed.size,
        rows=rows,
        format=listed.format,
        compression=earlier[0].compression if earlier else summary.compression if summary else "",
        partition=listed.partition,
        where=where,
        csv_escape=listed.csv_escape,
        table=listed.table.text if listed.table else "",
        deleted=listed.table.deleted if listed.table else "",
    )
    return file, tuple(earlier[1] if earlier else cuts)


def _cuts(
    file: ListedFile, summary: FileSummary, rows_per_shard: int, limits: ByteLimits | None
) -> list[Cut]:
    cuts = cut_file(summary.rows, summary.row_groups, rows_per_shard)
    if summary.row_groups is None:
        offsets = zip(cuts, summary.offsets, strict=True)
        cuts = [Cut(cut.first_row, cut.rows, offset) for cut, offset in offsets]
    if limits is None or summary.sizes is None:
        return cuts
    read = [f for f in summary.schema if f.name in limits.kept or f.name in limits.texts]
    return divided(cuts, summary.sizes, limits, lambda c: measure(file, c, pa.schema(read)))


def _part_order(planned: tuple[InputFile, tuple[Cut, ...]]) -> str:
    return Shard(planned[0], Cut(0, 0), "").part

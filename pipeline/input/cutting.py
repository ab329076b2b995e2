"""Inputs → shards, from file footers (text formats: one streaming pass); wide rows are measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.input.bad_files import BadFiles, add_other_formats
from pipeline.input.byte_cuts import ByteLimits
from pipeline.input.cuts import default_rows_per_shard
from pipeline.input.cutter import Cutter, EarlierCuts, Files, of_each
from pipeline.input.discovery import ListedFile, discover
from pipeline.input.ignored import IgnoredFiles
from pipeline.input.reading import inspect
from pipeline.input.schema import common_schema, named_columns
from pipeline.input.search import Search
from pipeline.input.table_file import ReadTable, read_tables
from pipeline.input.where import check_where, where_columns
from pipeline.shards import Cut, InputFile, Shard


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
    chunk_bytes: int = 0,
    token_bytes: float = 0.0,
    most_tokens: int = 0,
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
        chunk_bytes: of text, for which there is an output row; 0: one for each row.
        token_bytes: estimated bytes of what each token adds to an output row.
        most_tokens: of a text, where it is cut.
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
    limits = (
        None
        if rows_per_shard
        else ByteLimits(passing, texts, row_bytes, chunk_bytes, token_bytes, most_tokens)
    )
    rows_per_shard = rows_per_shard or default_rows_per_shard(row_bytes)
    tested = where_columns(where)
    named = [*optional, *columns, *named_columns(columns, ()), *text_columns, *list_columns]
    needed = tuple(dict.fromkeys([*named, *tested]))
    earlier_files = (previous or {}).items()
    search = Search(file_format, {key: (f.format, f.compression) for key, (f, _) in earlier_files})
    listed = [file.with_columns(needed) for file in discover(inputs, search)]
    listed = [replace(f, csv_escape=csv_escape) if f.is_csv else f for f in listed]
    covered = _covered(previous or {}, where, csv_escape)
    bad = _known_bad(listed, max_bad_files, damaged or {}, search)
    unopened = {f for f in listed if schema is not None and (f.uri, f.version) in covered}
    opened = [f for f in listed if f not in unopened and f not in bad]
    found = of_each(opened, lambda file: inspect(file, needed, rows_per_shard), bad)
    summaries = {file: summary for file, summary in found if summary is not None}
    known = {name for summary in summaries.values() for name in summary.columns}
    known.update(schema.names if schema is not None else ())
    columns, free = named_columns(columns, known), named_columns(free, known)
    planned_before = {uri for uri, _ in previous or {}}
    cutter = Cutter(summaries, covered, rows_per_shard, limits, where, bad)
    files: Files = []
    known_bad = -1
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
        files = cutter.cut(listed)
        if where and known_bad == len(bad):
            check_where(where, pa.schema([planned_schema.field(name) for name in tested]))
        if known_bad == len(bad) and any(file.selects for file, _ in files):
            files = cutter.with_selected_rows(files, planned_schema)
    files.sort(key=_part_order)
    tables = read_tables(file.table for file in listed if file.table)
    return PlannedInputs(
        tuple(files), planned_schema, partition, bad.reasons(), tables, search.ignored
    )


def _known_bad(
    listed: Sequence[ListedFile],
    limit: str,
    damaged: Mapping[tuple[str, str], str],
    search: Search,
) -> BadFiles:
    """The files that are bad before any is opened."""
    bad = BadFiles(limit, len(listed))
    add_other_formats(bad, listed, search.known)
    for file in () if bad.none_allowed else listed:
        if reason := damaged.get((file.uri, file.version)):
            bad.add(file, InputError(reason, hint="repair the file, or leave it out of the inputs"))
    return bad


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


def _part_order(planned: tuple[InputFile, tuple[Cut, ...]]) -> str:
    return Shard(planned[0], Cut(0, 0), "").part

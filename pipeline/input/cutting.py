"""Inputs → shards, from file footers (text formats: one streaming pass); wide rows are measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.input.bad_files import BadFiles, add_other_formats
from pipeline.input.cutter import Cutter, Files, of_each
from pipeline.input.discovery import ListedFile, discover
from pipeline.input.formats import FileSummary
from pipeline.input.ignored import IgnoredFiles
from pipeline.input.reading import inspect
from pipeline.input.schema import common_schema
from pipeline.input.search import Search
from pipeline.input.table_file import ReadTable, read_tables
from pipeline.input.wanted import Earlier, EarlierCuts, Sizing, Wanted
from pipeline.input.where import check_where
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
    wanted: Wanted,
    sizing: Sizing = Sizing(),
    earlier: Earlier = Earlier(),
) -> PlannedInputs:
    """Find the input files, read their footers and cut them into row ranges.

    A file is bad if it cannot be read, lacks a column, or has one of a type that goes together
    neither with the earlier schema nor, without it, with those of most files.

    Args:
        inputs: files, directories, globs, URIs.
        wanted: what is read of them.
        sizing: how large the shards are.
        earlier: what the last plan of the same output settled.

    Raises:
        UsageError: `wanted.where` is no condition on the columns.
        InputError: there is no input; more files are bad than allowed; a column is named like an
            output column.
        StorageError: a store failed.
    """
    search = _search(wanted, earlier)
    listed = _listed(inputs, wanted, search)
    covered = _covered(earlier.cuts, wanted)
    bad = _known_bad(listed, wanted.max_bad_files, earlier.damaged, search)
    unopened = {} if earlier.schema is None else covered
    summaries = _summaries(listed, wanted.needed, sizing.rows, unopened, bad)
    # By the names as they were typed: other limits would move the cuts of earlier outputs.
    limits = sizing.limits(wanted)
    known = {name for summary in summaries.values() for name in summary.columns}
    wanted = wanted.among(known.union(() if earlier.schema is None else earlier.schema.names))
    cutter = Cutter(summaries, covered, sizing.rows, limits, wanted.where, bad)
    files, schema, partition = _settled(listed, summaries, wanted, earlier, cutter, bad)
    tables = read_tables(file.table for file in listed if file.table)
    return PlannedInputs(
        tuple(sorted(files, key=_part_order)),
        schema,
        partition,
        bad.reasons(),
        tables,
        search.ignored,
    )


def _search(wanted: Wanted, earlier: Earlier) -> Search:
    known = {key: (file.format, file.compression) for key, (file, _) in earlier.cuts.items()}
    return Search(wanted.file_format, known)


def _listed(inputs: Sequence[str], wanted: Wanted, search: Search) -> list[ListedFile]:
    """The files of the inputs, each with what is to be read of it."""
    needed = wanted.needed
    listed = [file.with_columns(needed) for file in discover(inputs, search)]
    return [replace(f, csv_escape=wanted.csv_escape) if f.is_csv else f for f in listed]


def _summaries(
    listed: Sequence[ListedFile],
    needed: Sequence[str],
    rows_per_shard: int,
    unopened: Collection[tuple[str, str]],
    bad: BadFiles,
) -> dict[ListedFile, FileSummary]:
    """What the files say of themselves: those that turn out to be bad are added to `bad`.

    Args:
        listed: all files.
        needed: names of columns.
        rows_per_shard: the most rows of a cut.
        unopened: (URI, version) of files that need not say anything.
        bad: files that are known to be bad.
    """
    opened = [f for f in listed if (f.uri, f.version) not in unopened and f not in bad]
    found = of_each(opened, lambda file: inspect(file, needed, rows_per_shard), bad)
    return {file: summary for file, summary in found if summary is not None}


def _settled(
    listed: Sequence[ListedFile],
    summaries: Mapping[ListedFile, FileSummary],
    wanted: Wanted,
    earlier: Earlier,
    cutter: Cutter,
    bad: BadFiles,
) -> tuple[Files, pa.Schema, tuple[str, ...]]:
    """The files that are not bad with their cuts, the schema that they share, and its hive keys."""
    planned_before = {uri for uri, _ in earlier.cuts}
    while True:
        known_bad = len(bad)
        widen = earlier.widen and planned_before.isdisjoint(dict(bad.reasons()))
        schema, partition = common_schema(listed, summaries, wanted, earlier, bad, widen=widen)
        files = cutter.cut(listed)
        if known_bad < len(bad):
            continue  # a bad file has no say in the schema of the others
        if wanted.where:
            check_where(wanted.where, pa.schema([schema.field(name) for name in wanted.tested]))
        if any(file.selects for file, _ in files):
            files = cutter.with_selected_rows(files, schema)
        if known_bad == len(bad):
            return files, schema, partition


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


def _covered(cuts: EarlierCuts, wanted: Wanted) -> EarlierCuts:
    """The files whose cuts hold all of their selected rows: a limit may have left some out.

    A file of which no row is selected has no cuts.
    """
    return {
        key: (file, of_file)
        for key, (file, of_file) in cuts.items()
        if read_alike(file, wanted.where, wanted.csv_escape)
        and (
            sum(cut.end - cut.first_row for cut in of_file) == file.rows
            or (file.selects and not of_file)
        )
    }


def _part_order(planned: tuple[InputFile, tuple[Cut, ...]]) -> str:
    return Shard(planned[0], Cut(0, 0), "").part

"""The cuts of every input file: earlier ones, or new ones by rows, bytes and what is selected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

from pipeline.errors import AccessDenied, BeiJobsError, InputError
from pipeline.input.bad_files import BadFiles
from pipeline.input.byte_cuts import ByteLimits, cut_bytes, divided
from pipeline.input.cuts import cut_file, merged_cuts
from pipeline.input.discovery import ListedFile
from pipeline.input.formats import FileSummary
from pipeline.input.reading import measure, selected_rows
from pipeline.input.wanted import EarlierCuts
from pipeline.shards import Cut, InputFile
from pipeline.store.uris import is_local

_FOOTER_THREADS = 16

_File = TypeVar("_File", ListedFile, InputFile)
_Found = TypeVar("_Found")

# Planned files with their cuts.
Files = list[tuple[InputFile, tuple[Cut, ...]]]


class Cutter:
    """Cuts files, each once; an unchanged one keeps its cuts.

    Args:
        summaries: of the files that were opened.
        covered: those of the earlier plan whose cuts hold all of their selected rows.
        rows_per_shard: the most rows of a cut.
        limits: of the bytes of a cut, None for none.
        where: the expression that selects rows.
        bad: gets the files that cannot be read after all.
    """

    def __init__(
        self,
        summaries: Mapping[ListedFile, FileSummary],
        covered: EarlierCuts,
        rows_per_shard: int,
        limits: ByteLimits | None,
        where: str,
        bad: BadFiles,
    ) -> None:
        self._summaries = summaries
        self._covered = covered
        self._rows_per_shard = rows_per_shard
        self._limits = limits
        self._where = where
        self._bad = bad
        self._new: dict[ListedFile, list[Cut]] = {}

    def cut(self, listed: Sequence[ListedFile]) -> Files:
        """The files that are not bad, with their cuts."""
        earlier = {f: self._covered.get((f.uri, f.version)) for f in listed if f not in self._bad}
        new = [file for file, kept in earlier.items() if kept is None and file not in self._new]
        self._new |= {file: cuts or [] for file, cuts in of_each(new, self._cuts, self._bad)}
        return [
            _plan_file(f, kept, self._summaries.get(f), self._new.get(f, ()), self._where)
            for f, kept in earlier.items()
            if f not in self._bad
        ]

    def with_selected_rows(self, files: Files, schema: pa.Schema) -> Files:
        """The files with the cuts of their selected rows, which are counted of the new ones."""
        sizes = {
            file.uri: cut_bytes(cuts, self._summaries[file].sizes, self._limits)
            for file, cuts in self._new.items()
        }
        cuts = dict(files)
        counted = [file for file in cuts if file.selects and file.uri in sizes]
        found = of_each(counted, lambda file: selected_rows(file, cuts[file], schema), self._bad)
        for file, counts in found:
            merged = merged_cuts(cuts[file], counts or (), self._rows_per_shard, sizes[file.uri])
            cuts[file] = tuple(merged)
        return [(file, file_cuts) for file, file_cuts in cuts.items() if file not in self._bad]

    def _cuts(self, file: ListedFile) -> list[Cut]:
        summary, limits = self._summaries[file], self._limits
        cuts = cut_file(summary.rows, summary.row_groups, self._rows_per_shard)
        if summary.row_groups is None:
            offsets = zip(cuts, summary.offsets, strict=True)
            cuts = [Cut(cut.first_row, cut.rows, offset) for cut, offset in offsets]
        if limits is None or summary.sizes is None:
            return cuts
        read = [f for f in summary.schema if f.name in limits.kept or f.name in limits.texts]
        return divided(cuts, summary.sizes, limits, lambda c: measure(file, c, pa.schema(read)))


def of_each(
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

"""The rows of a finished run, part by part in input order, each part as the manifest lists it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import Interrupted, NotFound, StorageError
from pipeline.output.manifest import read_parts
from pipeline.output.output import Output
from pipeline.output.part_file import read_info
from pipeline.output.plan import row_values
from pipeline.output.read_part import read_part
from pipeline.output.run import Run
from pipeline.output.totals import Manifest
from pipeline.part_columns import CHUNK_FIELDS
from pipeline.store.uris import redact

# What is written at once, of whole parts.
_CHUNK_ROWS = 131_072
_CHUNK_BYTES = 32 << 20
# Metadata of a part that says something of all rows of its output.
_METADATA = (
    "space", "task", "model", "revision", "sha256", "fingerprint", "pooling", "prompt",
    "dimensions", "dtype", "max_length", "labels",
)  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """The rows of a finished run of an output. `stopped` says that the user wants no more."""

    output: Output
    run: Run
    manifest: Manifest
    schema: pa.Schema  # of each part, with metadata
    stopped: Callable[[], bool]

    @classmethod
    def of(cls, output: Output, run: Run, manifest: Manifest, stopped: Callable[[], bool]) -> Rows:
        """The rows of `run`; reads the end of its first part.

        Raises:
            NotFound: it has no rows.
        """
        parts = read_parts(output, run)["part"]
        if not len(parts):
            uri = redact(output.uri)
            raise NotFound(f"{uri} holds no rows", hint=f"see its status: `bei-jobs status {uri}`")
        info = read_info(output.directory, parts[0].as_py())
        values = {f"bei.{key}": info.values[key] for key in _METADATA if key in info.values}
        return cls(output, run, manifest, info.schema.with_metadata(values), stopped)

    @property
    def vectors(self) -> pa.Field | None:
        """The column of vectors; None if the task writes none."""
        chunk = len(CHUNK_FIELDS) if self.run.spec.has_chunk_rows else 0
        result = self.schema.field(len(self.run.kept) + chunk)
        return result if pa.types.is_fixed_size_list(result.type) else None

    @property
    def row_bytes(self) -> int:
        """Bytes of an average row in its part, at least 1."""
        return max(1, self.manifest.bytes // max(1, self.manifest.output_rows))

    def tables(self) -> Iterator[pa.Table]:
        """All rows: the tables have one row or more, and at most about 32 MiB.

        A part is held until its last table is dropped, and the next one is read then.

        Raises:
            Interrupted: the user wants no more.
            StorageError: the parts are not those of the manifest.
        """
        rows = 0
        count = "chunks" if self.manifest.chunks else "rows"
        listed = read_parts(self.output, self.run).select(["part", "checksum", count])
        for name, checksum, expected in row_values(listed):
            part = read_part(self.output, name, checksum).replace_schema_metadata(None)
            if part.num_rows != expected or part.schema != self.schema.remove_metadata():
                raise self._unlike_manifest(name)
            rows += expected
            yield from self._chunks(part)
            del part  # before the next one is read
        if rows != self.manifest.output_rows:
            raise self._unlike_manifest("the list of its parts")

    def _chunks(self, part: pa.Table) -> Iterator[pa.Table]:
        at_once = max(1, part.num_rows * _CHUNK_BYTES // max(_CHUNK_BYTES, part.nbytes))
        for start in range(0, part.num_rows, at_once):
            if self.stopped():
                raise Interrupted("interrupted", hint="nothing was exported")
            yield part.slice(start, at_once)

    def _unlike_manifest(self, name: str) -> StorageError:
        uri = redact(self.output.uri)
        return StorageError(
            f"{uri}: {name} does not hold what the manifest says",
            hint=f"run `bei-jobs verify {uri}`",
        )


class RowReader:
    """Takes tables of any length from others, in order."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._next: pa.Table | None = None

    def take(self, rows: int) -> pa.Table | None:
        """The next rows: at most `rows`, and fewer where they pass 32 MiB; None at the end."""
        held: list[pa.Table] = []
        wanted, size = min(rows, _CHUNK_ROWS), 0
        while wanted and size < _CHUNK_BYTES:
            table = next(self._tables, None) if self._next is None else self._next
            if table is None:
                break
            held.append(table.slice(0, wanted))
            wanted, size = wanted - len(held[-1]), size + held[-1].nbytes
            rest = table.slice(len(held[-1]))
            self._next = rest if len(rest) else None
        return pa.concat_tables(held) if held else None

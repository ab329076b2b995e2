"""An output → the files that another program reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.errors import UsageError
from pipeline.export.delta import write_delta
from pipeline.export.destination import Destination, found, refuse_own_files
from pipeline.export.lance import write_lance
from pipeline.export.npy import write_npy
from pipeline.export.parquet import write_directory, write_file
from pipeline.export.rows import Rows
from pipeline.output.manifest import require_finished
from pipeline.output.output import Output

# Before compression; DuckDB, Spark and BigQuery like files of this size.
FILE_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class FileSize:
    """How long the files of a directory shall be; `rows` goes before `bytes`."""

    rows: int | None = None
    bytes: int | None = None

    def rows_per_file(self, rows: Rows) -> int:
        return self.rows or max(1, (self.bytes or FILE_BYTES) // rows.row_bytes)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    job: str
    run: int
    rows: int
    left_out: int  # rows with an error, which have no place in a .npy file
    files: tuple[str, ...]  # URIs; of a table, its own
    converted: Mapping[str, str] = field(default_factory=dict)  # column → its type in a table
    unfinished_run: int | None = None  # a newer one, none of whose rows were written


def export(
    output: Output,
    dest: Destination,
    size: FileSize,
    *,
    overwrite: bool,
    stopped: Callable[[], bool],
) -> Exported:
    """Write the rows of the newest finished run, in input order.

    Args:
        output: of a job.
        dest: what to write, and where.
        size: of the files of a directory, or of a Delta table.
        overwrite: whether an earlier export there may be replaced.
        stopped: says that the user wants no more; asked before each part.

    Raises:
        NotFound: there is no finished run, or it has no rows.
        UsageError: the output does not fit what shall be written.
        OutputConflict: something is there that may not be overwritten.
        StorageError: a store failed, or a part is not what the manifest lists.
        Interrupted: `stopped` said so; nothing was exported.
    """
    has_files = dest.format in ("parquet", "delta") and not dest.is_file
    if (size.rows or size.bytes) and not has_files:
        raise UsageError(
            "--file-size and --rows-per-file are for a directory of Parquet files, or Delta",
            hint="end DEST with / or .delta, or omit them",
        )
    run, manifest = require_finished(output)
    refuse_own_files(dest, output, run, [file.uri for file in output.plan(run).files])
    replaces = found(dest, overwrite=overwrite)
    rows = Rows.of(output, run, manifest, stopped)
    files, converted = dest.files or (dest.uri,), dict[str, str]()
    if dest.format == "delta":
        converted = write_delta(rows, dest, size.rows_per_file(rows), replaces=replaces)
    elif has_files:
        names = write_directory(rows, dest, size.rows_per_file(rows), overwrite=overwrite)
        files = tuple(f"{dest.uri}/{name}" for name in names)
    elif dest.format == "parquet":
        write_file(rows, dest, overwrite=overwrite)
    elif dest.format == "npy":
        write_npy(rows, dest, overwrite=overwrite)
    else:
        write_lance(rows, dest, replaces=replaces)
    left_out = manifest.failed if dest.format == "npy" else 0
    latest = output.latest()
    newer = latest.n if latest and latest.n != run.n else None
    written = manifest.output_rows - left_out
    return Exported(run.job, run.n, written, left_out, files, converted, newer)

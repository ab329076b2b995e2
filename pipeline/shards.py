"""Input files and their shards as planned, and the results of shards: frozen values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.spec import OutputFormat, canonical_json
from pipeline.store.uris import redact

# Before what a table adds to the version of its files.
TABLE_MARK = "+"
# Formats of one reader, of which `csv_escape` says more.
CSV_FORMATS = frozenset({"csv", "tsv"})

_SLUG_MAX_CHARS = 80
_UNSAFE_BYTES = re.compile(rb"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file as planned."""

    uri: str
    path: str  # relative to the INPUT it came from, "/"-separated
    # ETag, generation, or size, mtime_ns and ctime_ns; of a table, TABLE_MARK and a digest of what
    # the table makes of it
    version: str
    size: int  # bytes
    rows: int
    format: str  # parquet, arrow, jsonl, csv or tsv
    compression: str = ""  # "", gzip, zstd, bz2 or xz; text formats only
    partition: tuple[tuple[str, str], ...] = ()  # hive keys of the path, in order
    where: str = ""  # the expression that selects its rows, see `pipeline.input.where`; "": all
    csv_escape: str = ""  # of CSV: the character after this one stands for itself; "": none
    table: str = ""  # where the columns of a table are in it, see `pipeline.input.table_file`
    deleted: str = ""  # rows that its table has no longer, packed

    @property
    def is_csv(self) -> bool:
        """Whether it is CSV, with commas or tabs."""
        return self.format in CSV_FORMATS

    @property
    def stored_version(self) -> str:
        """The version without what its table adds to it."""
        return self.version.rpartition(TABLE_MARK)[0] if self.table else self.version

    @property
    def selects(self) -> bool:
        """Whether some of its rows may be left out, so that its cuts have an extent."""
        return bool(self.where or self.deleted)

    @property
    def slug(self) -> str:
        """The path as part of a file name: "/" becomes ".", other unsafe bytes become "_"."""
        safe = _UNSAFE_BYTES.sub(b"_", self.path.replace("/", ".").encode())
        return safe.decode("ascii")[:_SLUG_MAX_CHARS]

    @property
    def part_prefix(self) -> str:
        """What the names of all parts of the file begin with."""
        return f"part-{self.slug}-{hashlib.sha256(self.uri.encode()).hexdigest()[:8]}-"


@dataclass(frozen=True, slots=True)
class Cut:
    """A row range of a file, for text formats with the byte offset of its start."""

    first_row: int
    rows: int  # where only some are selected, as many as these: the first of the range
    byte_offset: int = -1  # in the uncompressed text; -1 for formats with row groups
    repair: int = 0  # how often its rows were computed again because some were quarantined
    extent: int = 0  # length of the range in the file; 0: as many as `rows`

    @property
    def end(self) -> int:
        """The row of the file after the range."""
        return self.first_row + (self.extent or self.rows)


@dataclass(frozen=True, slots=True)
class Shard:
    """A row range of one input file: the unit of work, of retry and of commit."""

    file: InputFile
    cut: Cut
    id: str  # 16 hex digits, see `shard_id`
    output_format: OutputFormat = "arrow"

    @property
    def first_row(self) -> int:
        return self.cut.first_row

    @property
    def rows(self) -> int:
        return self.cut.rows

    @property
    def part(self) -> str:
        """The name of the part that commits this shard; its byte order is the input order."""
        prefix = self.file.part_prefix
        return part_name(prefix, self.cut.first_row, self.id, self.output_format)

    def __str__(self) -> str:
        return f"{redact(self.file.uri)} rows {self.cut.first_row}-{self.cut.end - 1}"


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The result of one shard: the counts of its part, or why there is no part."""

    shard: str
    part: str
    rows: int
    tokens: int = 0
    truncated: int = 0
    failed: int = 0
    reused: int = 0  # rows copied from earlier parts
    deduplicated: int = 0  # rows copied from others that were just computed
    chunks: int = 0  # rows of the part; 0: one for each row
    cut: int | None = 0  # tokens cut off truncated texts; None: not known
    seconds: float = 0.0
    computed: bool = True  # False: it was already committed
    error: str = ""  # not empty: the shard failed and has no part
    hint: str = ""
    transient: bool = False  # of a failed shard: whether a retry may succeed
    kind: str = ""  # of a failed shard: the class of its error


def shard_id(space: str, schema: str, file: InputFile, cut: Cut) -> str:
    """16 hex digits over (space, schema, input URI, input version, the expression that selects
    rows, and the escape character, if any, row range, repair if not 0).

    Resuming, retrying, a nightly rerun and adding files all mean computing the shards whose part
    is missing. This hash decides whether an existing part is the right one.
    """
    return shard_ids(space, schema, file)(cut)


def shard_ids(space: str, schema: str, file: InputFile) -> Callable[[Cut], str]:
    """`shard_id` of the cuts of one file: what they share is hashed once."""
    reading = [file.where, file.csv_escape]
    while reading and not reading[-1]:  # as before there were these
        reading.pop()
    shared = canonical_json([space, schema, file.uri, file.version, *reading])
    hashed = hashlib.sha256(shared.removesuffix("]").encode())

    def of(cut: Cut) -> str:
        copy = hashed.copy()
        extent = f",{cut.extent}" if cut.extent else ""
        repair = f",{cut.repair}" if cut.repair else ""
        copy.update(f",{cut.first_row},{cut.rows}{extent}{repair}]".encode())
        return copy.hexdigest()[:16]

    return of


def part_name(prefix: str, first_row: int, shard: str, output_format: OutputFormat) -> str:
    """The name of a part, from `InputFile.part_prefix`, first row, shard's id and format."""
    return f"{prefix}{first_row:012d}-{shard}.{output_format}"


def part_format(name: str) -> OutputFormat:
    """The format of a part, or of a piece, by its name."""
    return "parquet" if name.endswith(".parquet") else "arrow"

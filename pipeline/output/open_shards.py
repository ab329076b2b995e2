"""What the store keeps of a shard that has no part yet: computed rows, and attempts that died.

    _bei/open/<shard>/<attempt>-<n>.arrow          a piece: computed rows that are in no part yet
    _bei/runs/<n>/attempts/<attempt>-<block>.json  rows that an attempt is working on
    _bei/runs/<n>/attempts/<attempt>-order.json    the shards that it was told to compute

A piece is written when an attempt stops, and several times a minute, so that little is lost with a
process. Whoever computes the shard next takes its rows from there; the pieces go when the part is
there. They belong to the shard, not to a run: the next run uses them too.

An attempt record is created before anything is done to its rows, and deleted when they are safe.
One that is left over means that the process died with these rows in its hands: a *death* of each.
A supervisor that saw the death replaces it by a record of the rows that were really in flight, with
the reason. A record of an attempt that still lives counts as a death too: that is rare, and
harmless, since a row is given up only after it died alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.errors import NotFound, StorageError
from pipeline.output.chunk_rows import NOTHING_KNOWN
from pipeline.output.output import Output
from pipeline.output.part_file import (
    checksum_holds,
    encode_part,
    parse_info,
    read_info,
    read_rows,
)
from pipeline.output.plan import Plan
from pipeline.output.row_ranges import NO_ROWS, Places, Rows, ranges_of, rows_in, union
from pipeline.output.run import Run
from pipeline.shards import Shard
from pipeline.spec import NUMERICS_VERSION

logger = logging.getLogger(__name__)

OPEN = "_bei/open/"
# The last column of a piece: the numbers of its rows in the shard. Others may have its name.
ROW_FIELD = pa.field("_row_in_shard", pa.int64())
# The same numbers as ranges in the metadata of the piece, and those of rows that were copied.
_ROWS, _REUSED, _DUPLICATES = "rows_held", "rows_reused", "rows_deduplicated"


@dataclass(frozen=True, slots=True)
class Piece:
    """Computed rows of an open shard."""

    name: str
    rows: Rows
    precision: str
    seconds: float  # spent computing
    reused: Rows = field(default_factory=lambda: NO_ROWS)  # which of them were copied from parts
    duplicates: Rows = field(default_factory=lambda: NO_ROWS)  # … and from rows computed with them


@dataclass(frozen=True, slots=True)
class Death:
    """Rows that a process had in its hands when it died, hung, or when an error was raised.

    A shard without rows was to be computed, and none of its rows were in flight.
    """

    places: Places
    reason: str  # in words that complete "the row …"; "" if nobody saw it

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(rows.size for rows in self.places.values())


class AttemptLog:
    """The records of one attempt: what it is working on."""

    def __init__(self, output: Output, run: Run, attempt: str) -> None:
        self._directory = output.directory
        self._prefix = run.path(f"attempts/{attempt}-")
        self._open: set[str] = set()

    def begin(self, key: str, places: Places) -> None:
        """Record, before anything is done to them, that the attempt works on these rows.

        Raises:
            StorageError: the output cannot be written.
        """
        name = f"{self._prefix}{key}.json"
        self._directory.create(name, _death_json(Death(places, "")))
        self._open.add(name)

    def end(self, key: str) -> None:
        """Delete the record of rows that are safe."""
        self._forget(f"{self._prefix}{key}.json")

    def close(self) -> None:
        """Delete all records: the attempt ends without a death."""
        for name in tuple(self._open):
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._open.discard(name)
        # Where it cannot be deleted, its rows count as having died once, which is harmless.
        with suppress(StorageError):
            self._directory.delete(name)


def record_death(output: Output, run: Run, attempt: str, death: Death) -> None:
    """Replace the records that a dead attempt left by one of what its supervisor saw.

    Raises:
        StorageError: the output cannot be read or written; the records that are left count.
    """
    directory, prefix = output.directory, run.path(f"attempts/{attempt}-")
    left = [item.name for item in directory.list(prefix)]
    if death.places:
        directory.create(f"{prefix}died.json", _death_json(death))
    for name in left:
        directory.delete(name)


def read_deaths(output: Output, run: Run) -> list[Death]:
    """The deaths of a run, one for each attempt that died. One listing, and one read per record.

    Raises:
        StorageError: the output cannot be read.
    """
    prefix = run.path("attempts/")
    records: dict[str, list[Death]] = {}
    for item in output.directory.list(prefix):
        attempt = item.name.removeprefix(prefix).partition("-")[0]
        try:
            death = _read_death(output.directory.read(item.name))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            logger.warning("%s/%s is not the record of an attempt: ignored", output.uri, item.name)
        except NotFound:  # its attempt ended since it was listed
            continue
        else:
            records.setdefault(attempt, []).append(death)
    return [_one_death(parts) for parts in records.values()]


def forget_deaths(output: Output, run: Run) -> None:
    """Delete every attempt record of a run."""
    for item in list(output.directory.list(run.path("attempts/"))):
        output.directory.delete(item.name)


def piece_names(output: Output) -> dict[str, list[str]]:
    """Shard id → the names of its pieces. One listing.

    Raises:
        StorageError: the output cannot be read.
    """
    names: dict[str, list[str]] = {}
    for item in output.directory.list(OPEN, recursive=True):
        names.setdefault(item.name.removeprefix(OPEN).partition("/")[0], []).append(item.name)
    return names


def read_pieces(output: Output, names: Iterable[str], rows: int) -> list[Piece]:
    """Which of the `rows` rows of a shard its pieces hold; one small read for each."""
    pieces = (_read_piece(output, name, rows) for name in names)
    return [piece for piece in pieces if piece is not None]


def rows_kept(output: Output, plan: Plan) -> int:
    """Rows of the shards of a plan that are in pieces, and in no part."""
    return sum(kept_by_shard(output, plan).values())


def kept_by_shard(output: Output, plan: Plan) -> dict[str, int]:
    """Shard id → its rows that are in pieces, and in no part; without those that have none."""
    names = piece_names(output)
    if not names:
        return {}
    shards, rows = plan.table["shard"].to_pylist(), plan.table["rows"].to_pylist()
    limits = dict(zip(shards, rows, strict=True))
    return {
        one: len({r for piece in read_pieces(output, names[one], limits[one]) for r in piece.rows})
        for one in names.keys() & limits.keys()
    }


def write_piece(
    output: Output,
    shard: Shard,
    name: str,
    table: pa.Table,
    values: Mapping[str, object],
    *,
    reused: Rows = NO_ROWS,
    duplicates: Rows = NO_ROWS,
) -> Piece:
    """Save computed rows of an open shard.

    Args:
        output: of the job.
        shard: the shard; its input must be known to be unchanged since the rows were read.
        name: unique among all attempts.
        table: the rows as the part will hold them, and ROW_FIELD, ascending.
        values: provenance, as of the part.
        reused: which of the rows were copied from parts.
        duplicates: which were copied from other rows of the attempt.

    Raises:
        StorageError: it cannot be written.
    """
    rows: Rows = table.column(table.num_columns - 1).to_numpy()
    path = f"{OPEN}{shard.id}/{name}.arrow"
    numbers = {_ROWS: rows, _REUSED: reused, _DUPLICATES: duplicates}
    ranges = {key: ranges_of(of) for key, of in numbers.items()}
    output.directory.create(path, encode_part(table, {**values, **ranges}))
    seconds = float(str(values["seconds"]))
    return Piece(path, rows, str(values["precision"]), seconds, reused, duplicates)


def read_piece_table(output: Output, run: Run, piece: Piece, schema: pa.Schema) -> pa.Table | None:
    """The rows of a piece; None where it is damaged or was written for another schema."""
    try:
        data = output.directory.read(piece.name)
        sound = checksum_holds(data, parse_info(piece.name, data))
        table = read_rows(piece.name, data) if sound else None
    except (StorageError, pa.ArrowException, OSError) as error:
        logger.warning("%s is not used: %s", piece.name, error)
        return None
    earlier = schema.remove(run.form.cut_index(len(schema) - 1))
    if table is not None and table.schema.remove_metadata() == earlier:
        last = table.num_columns - 1
        rows = run.form.with_cut(table.remove_column(last), NOTHING_KNOWN)
        table = rows.append_column(ROW_FIELD, table.column(last))
    if table is None or table.schema.remove_metadata() != schema:
        logger.warning("%s is not used: it is damaged or of another schema", piece.name)
        return None
    return table


def delete_pieces(output: Output, names: Iterable[str]) -> None:
    """Delete pieces whose part is there; a piece that stays is swept when the run is finished."""
    for name in names:
        with suppress(StorageError):
            output.directory.delete(name)


def piece_precision(output: Output) -> str | None:
    """The precision of the first piece that can be read; None if there is none."""
    for names in piece_names(output).values():
        for name in names:
            with suppress(StorageError, KeyError):
                return read_info(output.directory, name).values["precision"]
    return None


def sweep_pieces(output: Output) -> None:
    """Delete all pieces: of a finished run every part is there."""
    for item in list(output.directory.list(OPEN, recursive=True)):
        output.directory.delete(item.name)


def _read_piece(output: Output, name: str, rows: int) -> Piece | None:
    try:
        values = read_info(output.directory, name).values
        # 0.1.0 did not know copies.
        held, *copied = (rows_in(json.loads(values.get(key, "[]")), rows)
                         for key in (_ROWS, _REUSED, _DUPLICATES))  # fmt: skip
        fits = values["numerics_version"] == str(NUMERICS_VERSION)
        seconds = float(values["seconds"])
        return Piece(name, held, values["precision"], seconds, *copied) if fits else None
    except (StorageError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is not used: %s", name, error)
        return None


def _one_death(records: Sequence[Death]) -> Death:
    """The records of one attempt together: blocks that were in flight, and its order."""
    places = union(record.places for record in records)
    if any(rows.size for rows in places.values()):  # what was in flight explains the rest
        places = {shard: rows for shard, rows in places.items() if rows.size}
    return Death(places, next((record.reason for record in records if record.reason), ""))


def _death_json(death: Death) -> bytes:
    places = {shard: ranges_of(rows) for shard, rows in death.places.items()}
    return json.dumps({"places": places, "reason": death.reason}).encode()


def _read_death(data: bytes) -> Death:
    value = json.loads(data)
    limit = max((first + count for r in value["places"].values() for first, count in r), default=0)
    places = {str(shard): rows_in(r, limit) for shard, r in value["places"].items()}
    return Death(places, str(value["reason"]))

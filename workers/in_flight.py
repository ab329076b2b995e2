"""Which rows a device's process has in its hands, as its events tell."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.output.row_ranges import Places, Rows, union
from pipeline.shards import Shard
from pipeline.store.uris import redact


class InFlight:
    """The rows that a process has in its hands. Holds rows of open shards only."""

    def __init__(self) -> None:
        self._now: dict[str, Places] = {}
        self._begun: dict[str, list[Rows]] = {}  # shard → rows of its blocks

    def begin(self, key: str, places: Places) -> None:
        """Something is done to these rows from now on; `key` as in `pipeline.blocks.Watch`."""
        self._now[key] = places
        if key.startswith("block-"):
            for shard, rows in places.items():
                self._begun.setdefault(shard, []).append(rows)

    def end(self, key: str) -> None:
        """It is done."""
        self._now.pop(key, None)

    def ended(self, shard: str) -> None:
        """A shard has a result."""
        self._begun.pop(shard, None)

    def places(self) -> Places:
        """What is being tokenized or computed; without that, what is in no part yet."""
        now = union([places for places in self._now.values() if places])
        if now:
            return now
        return union({shard: rows} for shard, blocks in self._begun.items() for rows in blocks)


def in_words(places: Places, shards: Sequence[Shard]) -> str:
    """The rows of `places` for the log; `shards` are theirs, in the same order."""
    if not shards:
        return "something before or after the rows"
    rows = sum(numbers.size for numbers in places.values())
    first = shards[0]
    if rows == 1:
        if first.file.selects:
            return f"selected row {int(places[first.id][0])} of {first}, tried alone,"
        row = first.first_row + int(places[first.id][0])
        return f"row {row} of {redact(first.file.uri)}, tried alone,"
    others = len(shards) - 1
    more = f" and {others} more shard{'s' * (others > 1)}" if others else ""
    return f"one of {rows} rows of {first}{more}"

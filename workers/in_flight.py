"""Which rows a device's process has in its hands, as its events tell."""

from __future__ import annotations

from pipeline.output.open_shards import Places, union


class InFlight:
    """The rows that a process has in its hands."""

    def __init__(self) -> None:
        self._now: dict[str, Places] = {}
        self._blocks: list[Places] = []
        self._ended: set[str] = set()

    def begin(self, key: str, places: Places) -> None:
        self._now[key] = places
        if key.startswith("block-"):
            self._blocks.append(places)

    def end(self, key: str) -> None:
        self._now.pop(key, None)

    def ended(self, shard: str) -> None:
        """A shard has a result."""
        self._ended.add(shard)

    def places(self) -> Places:
        """What is being tokenized or computed; without that, what is in no part yet."""
        now = union([places for places in self._now.values() if places])
        if now:
            return now
        blocks = union(self._blocks)
        return {shard: rows for shard, rows in blocks.items() if shard not in self._ended}

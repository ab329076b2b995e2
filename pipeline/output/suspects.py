"""Which rows to compute next when processes die: a bisection that ends at the guilty rows.

A row that kills, hangs or breaks its process takes all rows down that were in flight with it. A row
is *suspect* once that happened to it twice. Suspects are left out at first, so that everything else
is committed. Then they are tried alone: half of the smallest group that died together. A half that
survives is saved and acquitted; one that dies is a smaller group. A row that died alone, twice, is
guilty: it is refused, with the reason, and never computed again.

Nothing here does I/O: what to do follows from the deaths and the saved rows alone, so any process
may continue where another was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.output.open_shards import Death, Piece
from pipeline.output.row_ranges import Mask, Rows
from pipeline.shards import Shard

# Deaths after which a row is suspect, and deaths alone after which it is guilty. One alone may be
# chance: a machine that was switched off.
SUSPECT_DEATHS = 2
_LONE_DEATHS = 2

_UNSEEN = "ended its process or its machine"


@dataclass(frozen=True, slots=True)
class ShardWork:
    """One shard, and what to do with each of its rows: compute it, unless it is in one of these."""

    shard: Shard
    pieces: tuple[Piece, ...] = ()  # computed before
    refused: Mapping[int, str] = field(default_factory=dict)  # row → why it is not computed
    held: Mask | None = None  # [rows] not computed in this attempt

    @property
    def plain(self) -> bool:
        """Whether every row is computed."""
        return not (self.pieces or self.refused) and self.held is None


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard without a part: what of it is saved, and what happened to its rows."""

    shard: Shard
    pieces: tuple[Piece, ...]
    groups: tuple[Rows, ...]  # rows of this shard that died together
    losses: int  # attempts that died before any of its rows was in flight
    alone: tuple[tuple[int, str], ...]  # rows that died with no other in flight, and why

    @classmethod
    def of(cls, shard: Shard, pieces: Iterable[Piece], deaths: Iterable[Death]) -> OpenShard:
        """What its pieces and the deaths of a run say about a shard."""
        own = [death for death in deaths if shard.id in death.places]
        groups = [death.places[shard.id] for death in own]
        return cls(
            shard,
            tuple(pieces),
            tuple(rows[rows < shard.rows] for rows in groups if rows.size),
            sum(not rows.size for rows in groups),
            tuple(
                (int(death.places[shard.id][0]), death.reason) for death in own if death.rows == 1
            ),
        )

    def refused(self) -> dict[int, str]:
        """The guilty rows, with the reason of their last death alone."""
        alone: dict[int, list[str]] = {}
        for row, reason in self.alone:
            if row < self.shard.rows:
                alone.setdefault(row, []).append(reason)
        return {
            row: next(filter(None, reversed(reasons)), _UNSEEN)
            for row, reasons in alone.items()
            if len(reasons) >= _LONE_DEATHS
        }

    def suspects(self) -> Mask:
        """[rows] which rows are suspect, and neither saved nor guilty."""
        times = np.zeros(self.shard.rows, dtype=np.int64)
        for rows in self.groups:
            times[rows] += 1
        mask: Mask = (times >= SUSPECT_DEATHS) & ~self._settled()
        return mask

    @property
    def only_suspects(self) -> bool:
        """Whether some rows are suspect, and all others are saved or guilty."""
        suspects = self.suspects()
        return bool(suspects.any() and (suspects | self._settled()).all())

    def without_suspects(self) -> ShardWork:
        """Everything but the suspects."""
        suspects = self.suspects()
        held = suspects if suspects.any() else None
        return ShardWork(self.shard, self.pieces, self.refused(), held)

    def trial(self) -> ShardWork | None:
        """Some suspects and nothing else; None if there are none."""
        suspects = self.suspects()
        if not suspects.any():
            return None
        groups = [rows[suspects[rows]] for rows in self.groups]
        group = min((rows for rows in groups if rows.size), key=lambda rows: rows.size)
        tried = group[: max(1, group.size // 2)]
        held = np.ones(self.shard.rows, dtype=np.bool_)
        held[tried] = False
        return ShardWork(self.shard, self.pieces, self.refused(), held)

    def _settled(self) -> Mask:
        settled = np.zeros(self.shard.rows, dtype=np.bool_)
        for piece in self.pieces:
            settled[piece.rows] = True
        settled[list(self.refused())] = True
        return settled

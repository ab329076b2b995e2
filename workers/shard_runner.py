"""Compute shards on a device whose process may die: find the rows at fault, keep everything else.

Who calls this survives the device's process. What was learnt is in the output
(`pipeline.output.open_shards`), so another process may continue where this one is killed.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.errors import BeiJobsError, EncodeError
from pipeline.output.open_shards import (
    AttemptLog,
    Death,
    Piece,
    piece_names,
    read_deaths,
    read_pieces,
    record_death,
)
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.repaired import good_rows, repaired_shards
from pipeline.output.run import Run
from pipeline.output.suspects import OpenShard, ShardWork
from pipeline.shards import ShardResult
from pipeline.spec import OnBatch, failure_budget
from workers.device_counters import DeviceCounters
from workers.device_main import Event, Order
from workers.device_process import DeviceDied
from workers.in_flight import InFlight, in_words

logger = logging.getLogger(__name__)

# How often the work may end without a row to blame and without a result.
_MAX_UNEXPLAINED = 3
# Deaths in a row without one computed batch: then the device is at fault, not its rows. A bisection
# may need log2 of the rows that a device holds.
_MAX_DEATHS = 20
# How often a process may die, with its parent, that was to compute a shard.
_MAX_LOSSES = 5
# The shards of an order are recorded if there are no more than a message of the queue may hold: a
# larger one is a job in the foreground, whose process counts the deaths itself.
_RECORDED_SHARDS = 64
# Earlier parts of repaired shards that are read at once: each is two small requests.
_READERS = 16
# Rows that may be guilty, if --max-failed-rows allows fewer: a job of few rows is worth it too.
_MIN_GUILTY = 10


class Device(Protocol):
    """What computes orders: `DeviceProcess` or `DeviceThread`."""

    device: str
    counters: DeviceCounters

    def run(self, order: Order, should_stop: Callable[[], bool]) -> Iterator[Event]: ...
    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Calls:
    """What the runner asks and tells its caller."""

    should_stop: Callable[[], bool]
    on_batch: OnBatch = lambda rows, tokens: None
    on_choices: Callable[[Choices], None] = lambda choices: None
    on_warning: Callable[[str], None] = logger.warning


class ShardRunner:
    """Computes shards of one run on one device.

    Args:
        device: computes them.
        output: of the run.
        run: of the shards.
        plan: of the run.
        calls: of the caller.
        card: of the model, if it was just read.
    """

    def __init__(
        self,
        device: Device,
        output: Output,
        run: Run,
        plan: Plan,
        calls: Calls,
        card: ModelCard | None = None,
    ) -> None:
        self._device = device
        self._output = output
        self._run = run
        self._plan = plan
        self._calls = calls
        self._card = card
        self._unexplained = 0
        self._deaths = 0  # since a batch was computed
        self._one_by_one = False
        self._good_rows: dict[int, list[Piece]] = {}  # of the shards that repair a part
        self._max_guilty = max(_MIN_GUILTY, failure_budget(run.spec.max_failed_rows, plan.rows))

    def compute(self, indexes: Sequence[int]) -> Generator[ShardResult, None, None]:
        """Compute shards and yield the result of each, unless it is told to stop.

        Raises:
            BeiJobsError: no shard can be computed here, such as for a model that cannot be loaded.
        """
        self._device.counters.take_up(self._run)
        index_of = dict(zip(self._ids(indexes), indexes, strict=True))
        before: object = None
        while index_of and not self._calls.should_stop():
            open_shards = self._survey(index_of)
            for hopeless in self._hopeless(open_shards):
                del index_of[hopeless.shard]
                yield hopeless
            if not index_of:
                return
            order = self._next_order(list(index_of.values()), open_shards)
            now = len(index_of), sum(_known(one) for one in open_shards.values())
            if now == before and (failure := self._no_progress(order)):
                del index_of[failure.shard]
                yield failure
                continue
            before = now
            for result in self._attempt(order):
                index_of.pop(result.shard, None)
                self._unexplained = 0
                yield result

    def _ids(self, indexes: Sequence[int]) -> list[str]:
        ids: list[str] = self._plan.table["shard"].take(pa.array(indexes, pa.int64())).to_pylist()
        return ids

    def _survey(self, index_of: dict[str, int]) -> dict[int, OpenShard]:
        """Index → shard, for those of which something is saved, or rows died."""
        names, deaths = piece_names(self._output), read_deaths(self._output, self._run)
        ids = names.keys() | {shard for death in deaths for shard in death.places}
        repaired = self._repaired(list(index_of.values()))
        found = {}
        for index in {index_of[one] for one in ids if one in index_of} | repaired.keys():
            shard = self._plan.shard(index)
            pieces = read_pieces(self._output, names.get(shard.id, ()), shard.rows)
            pieces += repaired.get(index, ())
            found[index] = OpenShard.of(shard, pieces, deaths)
        return found

    def _repaired(self, indexes: list[int]) -> dict[int, list[Piece]]:
        """Index → what an earlier part holds of the shard, for those that repair one."""

        def read(index: int) -> list[Piece]:
            piece = good_rows(self._output, self._run, self._plan.shard(index))
            return [] if piece is None else [piece]

        found = repaired_shards(self._plan, indexes)
        if new := [index for index in found if index not in self._good_rows]:
            with ThreadPoolExecutor(_READERS) as pool:
                self._good_rows |= zip(new, pool.map(read, new), strict=True)
        return {index: self._good_rows[index] for index in found}

    def _next_order(self, indexes: list[int], open_shards: dict[int, OpenShard]) -> Order:
        """Everything but the suspects; if nothing else is left, the next trial."""
        works = {i: one.without_suspects() for i, one in open_shards.items()}
        todo = [i for i in indexes if i not in works or not open_shards[i].only_suspects]
        if not todo:
            index = next(i for i in indexes if i in open_shards)
            trial = open_shards[index].trial()
            assert trial is not None
            logger.info("trying %s of %s", _amount(trial), trial.shard)
            return self._order([index], {index: trial})
        if alone := [i for i in todo if i in open_shards and open_shards[i].losses]:
            return self._order(alone[:1], works)
        return self._order(todo[:1] if self._one_by_one else todo, works)

    def _order(self, indexes: list[int], works: dict[int, ShardWork]) -> Order:
        special = {works[i].shard.id: works[i] for i in indexes if i in works}
        special = {shard: work for shard, work in special.items() if not work.plain}
        card, self._card = self._card, None  # its files may have changed by the next load
        return Order(self._output.uri, self._run.n, indexes, special, uuid.uuid4().hex, card)

    def _attempt(self, order: Order) -> Iterator[ShardResult]:
        """Run an order; if it ends badly, record which rows were in flight."""
        in_flight = InFlight()
        log = AttemptLog(self._output, self._run, order.attempt)
        if len(order.indexes) <= _RECORDED_SHARDS:
            nothing = np.zeros(0, dtype=np.int64)
            log.begin("order", dict.fromkeys(self._ids(order.indexes), nothing))
        try:
            for kind, value in self._device.run(order, self._calls.should_stop):
                if kind == "result":
                    in_flight.ended(value.shard)
                    yield value
                elif kind == "over" and value is not None:
                    self._over(order, in_flight, value)
                else:
                    self._tell(kind, value, in_flight)
        except DeviceDied as died:
            if died.loading:
                raise EncodeError(
                    f"loading the model on {self._device.device} {died}",
                    hint="check that the machine has enough memory for the model",
                ) from died
            self._record(order, in_flight, str(died))
        finally:
            log.close()

    def _tell(self, kind: str, value: object, in_flight: InFlight) -> None:
        if kind == "begin":
            in_flight.begin(*value)  # type: ignore[misc]
        elif kind == "end":
            in_flight.end(str(value))
        elif kind == "batch":
            self._batch(*value)  # type: ignore[misc]
        elif kind == "loaded":
            self._calls.on_choices(value)  # type: ignore[arg-type]
        elif kind == "warning":
            self._calls.on_warning(str(value))

    def _batch(self, rows: int, tokens: int) -> None:
        if tokens:  # rows without are copied
            self._deaths = 0
        self._calls.on_batch(rows, tokens)

    def _over(self, order: Order, in_flight: InFlight, outcome: BeiJobsError | str) -> None:
        """An order ended early, by an error that is not a shard's."""
        if isinstance(outcome, BeiJobsError) and not isinstance(outcome, EncodeError):
            raise outcome
        if self._device.device.startswith("cuda"):
            self._device.kill()  # an error of the device stays with its process
        known = isinstance(outcome, BeiJobsError)
        self._record(order, in_flight, f"{'cannot be computed:' if known else 'raised'} {outcome}")

    def _record(self, order: Order, in_flight: InFlight, reason: str) -> None:
        places = in_flight.places()
        index_of = dict(zip(self._ids(order.indexes), order.indexes, strict=True))
        who = in_words(places, [self._plan.shard(index_of[shard]) for shard in places])
        shards, device = {"shard": " ".join(places)}, self._device.device
        logger.error("job %s: %s: %s %s", self._run.job, device, who, reason, extra=shards)
        self._device.counters.went_wrong(f"{who} {reason}")
        record_death(self._output, self._run, order.attempt, Death(places, reason))
        self._deaths += 1
        if self._deaths >= _MAX_DEATHS:
            raise EncodeError(
                f"{self._device.device} computes nothing: the last attempt {reason}",
                hint="check the device and the machine's memory; see the log",
            )

    def _hopeless(self, open_shards: dict[int, OpenShard]) -> list[ShardResult]:
        """The failures of shards that keep ending their processes, or have too many guilty rows."""
        lost = [
            self._failure(
                index, f"its process died {one.losses} times, with its parent or its machine",
                "check the worker's log and memory, then run `bei-jobs retry`",
            )
            for index, one in open_shards.items()
            if one.losses >= _MAX_LOSSES
        ]  # fmt: skip
        guilty = [reason for one in open_shards.values() for reason in one.refused().values()]
        if len(guilty) <= self._max_guilty:
            return lost
        message = f"{len(guilty)} rows cannot be computed; the last one {guilty[-1]}"
        hint = "see the log for the cause; if the rows are at fault, raise --max-failed-rows"
        return [
            self._failure(index, message, hint)
            for index, one in open_shards.items()
            if one.suspects().any()
        ]

    def _no_progress(self, order: Order) -> ShardResult | None:
        """The failure of a shard that ends without a result or a row to blame, each time."""
        self._one_by_one = True
        self._unexplained += 1
        if self._unexplained < _MAX_UNEXPLAINED:
            return None
        self._unexplained = 0
        message = "computing it ends without a result, and no row of it is to blame"
        return self._failure(order.indexes[0], message, "see the log for the cause")

    def _failure(self, index: int, message: str, hint: str) -> ShardResult:
        shard = self._plan.shard(index)
        return ShardResult(
            shard.id, shard.part, shard.rows,
            computed=False, error=f"{shard}: {message}", hint=hint, kind=EncodeError.__name__,
        )  # fmt: skip


def _known(shard: OpenShard) -> int:
    """A number that grows with what is known of a shard."""
    return len(shard.groups) + shard.losses + sum(piece.rows.size for piece in shard.pieces)


def _amount(work: ShardWork) -> str:
    rows = 0 if work.held is None else int((~work.held).sum())
    return "one row" if rows == 1 else f"{rows} rows"

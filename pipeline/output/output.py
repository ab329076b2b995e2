"""An output prefix: its identity, its runs and its parts. This is the only source of truth.

    <output>/part-….arrow or .parquet         data; creating one commits a shard
    <output>/_bei/spec.json                   the output's identity, create-only
    <output>/_bei/runs/<n>/run.json           one run, create-only: its creator owns the number n
    <output>/_bei/runs/<n>/plan-<digest>      the run's plan, written before run.json
    <output>/_bei/runs/<n>/canary-….json      what its first device computed of fixed texts
    <output>/_bei/runs/<n>/choices.json       what was chosen for the user, and why
    <output>/_bei/runs/<n>/failures/…         one object per failed attempt of a shard
    <output>/_bei/runs/<n>/cancelled.json     the run was cancelled; create-only
    <output>/_bei/runs/<n>/failed.json        the run cannot finish, and why; create-only
    <output>/_bei/runs/<n>/running/, queued.json  who runs it, see `leases` and `state`
    <output>/_bei/runs/<n>/parts, manifest.json   see `pipeline.output.manifest`
    <output>/_bei/failed/…                    the last failures, also of submits without a run
    <output>/_bei/quarantine/…                rows that could not be computed, replayable

Redis may lose everything: nothing that it holds decides anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from pipeline.errors import NotFound, OutputConflict, StorageError
from pipeline.output.begun import SPEC
from pipeline.output.failures import note_failure
from pipeline.output.identity import difference, format_in, identity_of, refuse_other
from pipeline.output.plan import Plan
from pipeline.output.run import FORMAT_VERSION, KEYED_FORMAT, RUNS, Run, kept_schema, now
from pipeline.output.shard_failures import read_shard_failures
from pipeline.shards import ShardResult, part_format
from pipeline.spec import JobSpec, OutputFormat
from pipeline.store.directory import Directory, ObjectInfo
from pipeline.store.uris import redact, refuse_credentials

# A shard counts as failed after this many transient failures.
MAX_ATTEMPTS = 3

QUARANTINE = "_bei/quarantine/"
# What parsing raises where the content is not what bei-jobs wrote.
_OF_CONTENT = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
    pa.ArrowException,
)  # fmt: skip
# Not what a copy of a run's directory is called.
_RUN = re.compile(rf"{RUNS}([1-9][0-9]{{0,8}})/run\.json")
# Names that `Shard.part` makes. Other objects in an output are never counted nor deleted.
_PART = re.compile(r"part-.+-[0-9a-f]{8}-\d{12,}-[0-9a-f]{16}\.(arrow|parquet)")


class Output:
    """Reads and writes the objects under one output prefix.

    Raises:
        UsageError: its URI holds a password or a signature.
    """

    def __init__(self, uri: str) -> None:
        refuse_credentials(uri)
        self.directory = Directory(uri)
        self.uri = self.directory.uri

    def claim(self, spec: JobSpec, columns: pa.Schema) -> int:
        """Write the output's identity, or check that it is that of `spec`.

        Other kept columns are fine where parts have row keys: then they are written anew, and
        their rows copied.

        Returns:
            The format of the output.

        Raises:
            OutputConflict: it has another space, or other kept columns and no row keys; the
                message names them. Or its parts have another format.
        """
        identity = identity_of(spec, kept_schema(spec, columns))
        self._refuse_foreign_files(spec.output_format)
        if self.directory.create(SPEC, _json(identity)):
            return FORMAT_VERSION
        return self._fits(identity)

    def could_claim(self, spec: JobSpec, columns: pa.Schema) -> int:
        """As `claim`, but nothing is written."""
        self._refuse_foreign_files(spec.output_format)
        if not self.directory.exists(SPEC):
            return FORMAT_VERSION
        return self._fits(identity_of(spec, kept_schema(spec, columns)))

    def output_format(self) -> str:
        """The format of its parts.

        Raises:
            NotFound: it holds no job.
        """
        stored = self.read_json(SPEC)
        with self.intact(SPEC):
            return format_in(stored)

    def _fits(self, identity: dict[str, Any]) -> int:
        """The format of the output, whose identity must go with that of a job."""
        stored = self.read_json(SPEC)
        with self.intact(SPEC):
            refuse_other(self.uri, stored, identity)
            return int(stored.get("format", 1))

    def require_space(self, spec: JobSpec, columns: pa.Schema) -> None:
        """Check that the rows of this output can be copied into one of `spec`.

        Raises:
            NotFound: it holds no job.
            OutputConflict: it has another space, or no row keys.
        """
        uri = redact(self.uri)
        if not self.directory.exists(SPEC):
            raise NotFound(f"--reuse-from {uri} holds no job", hint="give the output of a job")
        stored = self.read_json(SPEC)
        wanted = identity_of(spec, kept_schema(spec, columns))
        with self.intact(SPEC):
            other = difference(stored, wanted) if stored["space"] != wanted["space"] else ""
            keyed = int(stored.get("format", 1)) >= KEYED_FORMAT
        if other:
            raise OutputConflict(
                f"--reuse-from {uri} holds other values: {other}",
                hint="give an output of the same model and options, or omit --reuse-from",
            )
        if not keyed:
            raise OutputConflict(
                f"--reuse-from {uri} was begun by bei-jobs 0.1.0: its parts have no row keys",
                hint="omit --reuse-from",
            )

    def _refuse_foreign_files(self, output_format: OutputFormat) -> None:
        """Refuse a directory with files like parts that is not an output: a glob would mix them.

        Raises:
            OutputConflict: the message names one of the files.
        """
        if self.directory.exists(SPEC):
            return
        for item in self.directory.list():
            if item.name.endswith(f".{output_format}"):
                raise OutputConflict(
                    f"{redact(self.uri)} holds {item.name}, which no job wrote",
                    hint="give an --output that is empty or does not exist",
                )

    def begun(self) -> bool:
        """Whether a job has claimed it."""
        return self.directory.exists(SPEC)

    def latest(self) -> Run | None:
        """The highest run; None if there is none."""
        numbers = self.run_numbers()
        return self.run(numbers[-1]) if numbers else None

    def run_numbers(self) -> list[int]:
        """The numbers of all runs, ascending."""
        items = self.directory.list(RUNS, recursive=True)
        return sorted(int(match[1]) for item in items if (match := _RUN.fullmatch(item.name)))

    def run(self, n: int) -> Run:
        """The run with number `n`.

        Raises:
            NotFound: there is no such run.
        """
        name = f"{RUNS}{n}/run.json"
        data = self.read_json(name)
        with self.intact(name):
            return Run.from_json(self.uri, data)

    def superseded(self, run: Run) -> int:
        """The highest run above `run`, or 0. Costs one small request if there is none."""
        n = run.n
        while self.directory.exists(f"{RUNS}{n + 1}/run.json"):
            n += 1
        return n if n > run.n else 0

    def start(self, run: Run, plan: Plan) -> Run | None:
        """Create `run` under the number `run.n`; None if the number is already taken.

        The plan is written before run.json, so that every visible run has its plan.
        """
        self.directory.create(run.path(f"plan-{plan.digest}"), plan.to_bytes())
        return run if self.directory.create(run.path("run.json"), _json(run.to_json())) else None

    def plan(self, run: Run) -> Plan:
        """The plan of a run."""
        name = run.path(f"plan-{run.plan}")
        data = self.directory.read(name)
        with self.intact(name):
            return Plan.from_bytes(data)

    def committed(self) -> dict[str, ObjectInfo]:
        """Part name → object, for every part in the output, of any run."""
        return {item.name: item for item in self.directory.list() if is_part(item.name)}

    def commit(self, part: str, data: memoryview) -> bool:
        """Commit a shard by creating its part. Returns whether this attempt did, or another.

        `data` contains the attempt's id. So even a write whose response was lost, or that the
        client library retried, is distinguished from another attempt's (see `Directory.create`).
        """
        return self.directory.create(part, data)

    def drop(self, part: str) -> None:
        """Delete a part and its quarantine."""
        # The part goes last: as long as it exists, the next sweep repeats an interrupted one.
        self.directory.delete(quarantine_name(part))
        self.directory.delete(part)

    def cancel(self, run: Run) -> bool:
        """Mark a run as cancelled; False if it already was."""
        return self.directory.create(run.path("cancelled.json"), _json({"at": now()}))

    def cancelled(self, run: Run) -> bool:
        """Whether the run was cancelled."""
        return self.directory.exists(run.path("cancelled.json"))

    def fail(
        self, run: Run, reason: str, hint: str = "", totals: Mapping[str, Any] | None = None
    ) -> bool:
        """Mark a run as failed, with the reason; False if it already was.

        `totals` are those of a run whose shards are all committed.
        """
        data: dict[str, Any] = {"at": now(), "reason": reason, "hint": hint}
        data |= {} if totals is None else {"totals": totals}
        created = self.directory.create(run.path("failed.json"), _json(data))
        if created:
            note_failure(self.directory, reason, hint, run.n)
        return created

    def failed(self, run: Run) -> dict[str, Any] | None:
        """`at`, `reason`, `hint` and maybe `totals` of a failed run; None if it did not fail."""
        name = run.path("failed.json")
        if not self.directory.exists(name):
            return None
        data = self.read_json(name)
        with self.intact(name):
            return {**data, **{key: str(data[key]) for key in ("at", "reason", "hint")}}

    def record_failure(self, run: Run, result: ShardResult, attempt: str) -> None:
        """Store the failed `result` of an attempt of a shard."""
        name = run.path(f"failures/{result.shard}-{attempt}.json")
        self.directory.put(name, _json({**asdict(result), "at": now(), "attempt": attempt}))

    def failures(self, run: Run) -> dict[str, ShardResult]:
        """Shard id → its last failure, for the shards that will not be retried."""
        by_shard = read_shard_failures(self.directory, run.path("failures/"))
        return {
            shard: results[-1]
            for shard, results in by_shard.items()
            if len(results) >= MAX_ATTEMPTS or not all(r.transient for r in results)
        }

    def forget_failures(self, run: Run) -> int:
        """Reset the attempts of failed shards; returns how many failure records were deleted."""
        items = list(self.directory.list(run.path("failures/")))
        for item in (*items, *self.directory.list(run.path("attempts/"))):
            self.directory.delete(item.name)
        self.directory.delete(run.path("failed.json"))
        self.directory.delete(run.path("cancelled.json"))
        return len(items)

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in the file `name`.

        Raises:
            StorageError: the file is damaged.
        """
        data = self.directory.read(name)
        with self.intact(name):
            value = json.loads(data)
            if not isinstance(value, dict):
                raise TypeError("it is not a JSON object")
        return value

    @contextmanager
    def intact(self, name: str) -> Iterator[None]:
        """Parse the file `name` inside the block: an error there means that the file is damaged."""
        try:
            yield
        except _OF_CONTENT as error:
            raise StorageError(
                f"{redact(self.uri)}/{name} is damaged: {' '.join(str(error).split())}",
                hint="restore the file from a copy, or start over with another --output",
            ) from error


def is_part(name: str) -> bool:
    """Whether a name is one that parts have."""
    return _PART.fullmatch(name) is not None and "/" not in name


def quarantine_name(part: str) -> str:
    """The name of the file with the failed input rows of a part."""
    return f"{QUARANTINE}{part.removesuffix(f'.{part_format(part)}')}.parquet"


def find_run(uri: str) -> tuple[Output, Run]:
    """The output at `uri` and its highest run.

    Raises:
        NotFound: no job has written there.
    """
    output = Output(uri)
    run = output.latest()
    if run is None:
        raise NotFound(
            f"{redact(uri)} holds no job",
            hint="give the output of a job, or a job id that `bei-jobs list` shows",
        )
    return output, run


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()

"""An output prefix: its identity, its runs, its parts. What is written here is the only truth.

    <output>/part-….arrow                     data; creating one commits a shard
    <output>/_bei/spec.json                   the output's identity, create-only
    <output>/_bei/runs/<n>/run.json           one run, create-only: whoever creates it owns n
    <output>/_bei/runs/<n>/plan-<digest>      its frozen cut, written before run.json
    <output>/_bei/runs/<n>/failures/…         one object a failed attempt of a shard
    <output>/_bei/runs/<n>/cancelled.json     stop; create-only
    <output>/_bei/runs/<n>/failed.json        it cannot be finished, and why; create-only
    <output>/_bei/runs/<n>/parts, manifest.json   see `pipeline.output.manifest`
    <output>/_bei/quarantine/…                rows that could not be computed, replayable

Redis may forget all it knows: every question that decides anything is asked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from pipeline.errors import NotFound, OutputConflict, StorageError
from pipeline.output.plan import Plan
from pipeline.output.run import FORMAT_VERSION, RUNS, Run, kept_schema, now
from pipeline.spec import NOT_IDENTITY, NUMERICS_VERSION, JobSpec, ShardResult, schema_hash
from pipeline.store.directory import Directory, ObjectInfo
from pipeline.store.uris import redact

#: Attempts of a shard whose failures may pass before the shard counts as failed.
MAX_ATTEMPTS = 3

QUARANTINE = "_bei/quarantine/"
# What `Shard.part` makes. Nothing else in an output is ours to count, or to delete.
_PART = re.compile(r"part-.+-[0-9a-f]{8}-\d{12,}-[0-9a-f]{16}\.arrow")


class Output:
    """The objects under one output prefix, by what they mean."""

    def __init__(self, uri: str) -> None:
        self.directory = Directory(uri)
        self.uri = self.directory.uri

    def claim(self, spec: JobSpec, columns: pa.Schema) -> None:
        """Make this output `spec`'s, or prove that it already is.

        Raises:
            OutputConflict: it belongs to another space, or keeps other columns; both named.
        """
        kept = kept_schema(spec, columns)
        mine = {
            "space": spec.space,
            "schema": schema_hash(kept),
            "numerics": NUMERICS_VERSION,
            "format": FORMAT_VERSION,
            "kept": {f.name: str(f.type) for f in kept},
            "spec": spec.to_json(),
        }
        self._refuse_strangers()
        if self.directory.create("_bei/spec.json", _json(mine)):
            return
        theirs = self.read_json("_bei/spec.json")
        if (theirs["space"], theirs["schema"]) != (mine["space"], mine["schema"]):
            raise OutputConflict(
                f"{redact(self.uri)} holds another job's results: {_difference(theirs, mine)}",
                hint="give another --output, or the same options as before",
            )

    def _refuse_strangers(self) -> None:
        """Refuse a place that holds Arrow files but no output: a reader would mix the two.

        Raises:
            OutputConflict: naming one of them.
        """
        if self.directory.exists("_bei/spec.json"):
            return
        for item in self.directory.list():
            if item.name.endswith(".arrow"):
                raise OutputConflict(
                    f"{redact(self.uri)} holds {item.name}, which no job wrote there",
                    hint="give an --output that is empty or does not exist",
                )

    def latest(self) -> Run | None:
        """The highest run, or None where none was made."""
        numbers = self.run_numbers()
        return self.run(numbers[-1]) if numbers else None

    def run_numbers(self) -> list[int]:
        """The n of every run, ascending."""
        names = (item.name for item in self.directory.list(RUNS, recursive=True))
        return sorted(int(n.split("/")[2]) for n in names if n.endswith("/run.json"))

    def run(self, n: int) -> Run:
        """Run `n`.

        Raises:
            NotFound: there is no such run.
        """
        name = f"{RUNS}{n}/run.json"
        data = self.read_json(name)
        with self.intact(name):
            return Run.from_json(self.uri, data)

    def superseded(self, run: Run) -> int:
        """The highest run above `run`, or 0: one small request where there is none."""
        n = run.n
        while self.directory.exists(f"{RUNS}{n + 1}/run.json"):
            n += 1
        return n if n > run.n else 0

    def start(self, run: Run, plan: Plan) -> Run | None:
        """Create `run` as number `run.n`; None where somebody else was first.

        The plan is written before run.json, so that a run that can be seen can be carried out.
        """
        self.directory.create(run.path(f"plan-{plan.digest}"), plan.to_bytes())
        return run if self.directory.create(run.path("run.json"), _json(run.to_json())) else None

    def plan(self, run: Run) -> Plan:
        """The frozen cut of a run."""
        name = run.path(f"plan-{run.plan}")
        data = self.directory.read(name)
        with self.intact(name):
            return Plan.from_bytes(data)

    def committed(self) -> dict[str, ObjectInfo]:
        """Part name → object, of every part in the output whichever run made it."""
        return {item.name: item for item in self.directory.list() if _PART.fullmatch(item.name)}

    def commit(self, part: str, data: memoryview) -> bool:
        """Commit a shard by creating its part. True: this attempt's; False: another was first.

        `data` carries the attempt's id, so that even a write whose answer was lost, or that a
        client library repeated by itself, is told from another attempt's (see
        `Directory.create`).
        """
        return self.directory.create(part, data)

    def drop(self, part: str) -> None:
        """Delete a part and its quarantine."""
        # The part last: while it is there, a sweep that was cut short is done again.
        self.directory.delete(quarantine_name(part))
        self.directory.delete(part)

    def cancel(self, run: Run) -> bool:
        """Mark a run as cancelled; False where it already was."""
        return self.directory.create(run.path("cancelled.json"), _json({"at": now()}))

    def cancelled(self, run: Run) -> bool:
        """Whether the run was cancelled."""
        return self.directory.exists(run.path("cancelled.json"))

    def fail(self, run: Run, reason: str, hint: str = "") -> bool:
        """Mark a run as failed for good, with the reason; False where it already was."""
        data = {"at": now(), "reason": reason, "hint": hint}
        return self.directory.create(run.path("failed.json"), _json(data))

    def failed(self, run: Run) -> dict[str, str] | None:
        """`reason` and `hint` of a failed run; None where it did not fail."""
        name = run.path("failed.json")
        return self.read_json(name) if self.directory.exists(name) else None

    def record_failure(self, run: Run, result: ShardResult, attempt: str) -> None:
        """Write down why an attempt of a shard failed."""
        name = run.path(f"failures/{result.shard}-{attempt}.json")
        self.directory.put(name, _json({**asdict(result), "at": now(), "attempt": attempt}))

    def failures(self, run: Run) -> dict[str, ShardResult]:
        """Shard id → the last failure, of the shards that are not to be tried again."""
        found: dict[str, list[ShardResult]] = {}
        for item in self.directory.list(run.path("failures/")):
            data = self.read_json(item.name)
            result = ShardResult(**{k: data[k] for k in ShardResult.__slots__})
            found.setdefault(result.shard, []).append(result)
        return {
            shard: results[-1]
            for shard, results in found.items()
            if len(results) >= MAX_ATTEMPTS or not all(r.transient for r in results)
        }

    def forget_failures(self, run: Run) -> int:
        """Give failed shards their attempts back; how many records went."""
        items = list(self.directory.list(run.path("failures/")))
        for item in items:
            self.directory.delete(item.name)
        self.directory.delete(run.path("failed.json"))
        self.directory.delete(run.path("cancelled.json"))
        return len(items)

    def read_json(self, name: str) -> dict[str, Any]:
        """A record of ours.

        Raises:
            StorageError: it is damaged.
        """
        data = self.directory.read(name)
        with self.intact(name):
            value: dict[str, Any] = json.loads(data)
        return value

    @contextmanager
    def intact(self, name: str) -> Iterator[None]:
        """Parse the record `name` inside the block: what fails there means that it is damaged."""
        try:
            yield
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise StorageError(
                f"{redact(self.uri)}/{name} is damaged: {' '.join(str(error).split())}",
                hint="restore the file from a copy, or start anew with another --output",
            ) from error


def quarantine_name(part: str) -> str:
    """Where the failed input rows of a part are kept."""
    return f"{QUARANTINE}{part.removesuffix('.arrow')}.parquet"


def find_run(uri: str) -> tuple[Output, Run]:
    """The output at `uri` and its highest run.

    Raises:
        NotFound: no job ever wrote there.
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


def _difference(theirs: dict[str, Any], mine: dict[str, Any]) -> str:
    """Name what differs between two identities, in the words of the options."""
    if theirs["space"] == mine["space"]:
        return f"kept columns {theirs['kept']} there, {mine['kept']} here"
    there, here = (_flat(json.loads(json.dumps(side["spec"]))) for side in (theirs, mine))
    names = sorted(
        k
        for k in there.keys() | here.keys()
        if there.get(k) != here.get(k) and k.split(".")[0] not in NOT_IDENTITY
    )
    # How a checkpoint was read matters only where the checkpoint itself is the same.
    names = [k for k in names if not k.startswith("encoder.")] or names
    said = [f"{k} is {there.get(k)!r} there, {here.get(k)!r} here" for k in names[:6]]
    if theirs["numerics"] != mine["numerics"]:
        said.append(f"numerics version {theirs['numerics']} there, {mine['numerics']} here")
    return "; ".join(said) or f"space {theirs['space']} there, {mine['space']} here"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(_flat(inner, f"{prefix}.{key}" if prefix else key))
    return found

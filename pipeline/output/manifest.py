"""Parts → manifest: the list that makes a run's output final, and the newest list is the contract.

    _bei/runs/<n>/parts           Parquet, one row a part, in input order
    _bei/runs/<n>/manifest.json   totals only, create-only, written last

Only ends of files are read here, and of parts that the last manifest already listed not even
those: finishing a nightly run costs what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

from pipeline.errors import JobFailed
from pipeline.output.output import Output
from pipeline.output.part_file import PartInfo, read_info
from pipeline.output.plan import Plan
from pipeline.output.run import Run, now
from pipeline.spec import failure_budget
from pipeline.store.directory import ObjectInfo
from pipeline.store.parquet_bytes import from_parquet, to_parquet

#: Ends of parts read at the same time: each is a few small requests to a distant store.
_READERS = 16

PARTS_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("rows", pa.int64()),
        ("tokens", pa.int64()),
        ("truncated", pa.int64()),
        ("failed", pa.int64()),
        ("seconds", pa.float64()),
        ("bytes", pa.int64()),
        ("version", pa.string()),
        ("checksum", pa.string()),
        ("attempt", pa.string()),
        ("job", pa.string()),  # the job that computed it
        ("precision", pa.string()),
        ("device", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Totals of a finished run."""

    job: str
    run: int
    parts: int
    rows: int
    computed: int  # rows whose part this run made
    reused: int  # rows found committed
    failed: int
    tokens: int
    truncated: int
    seconds: float  # of computing, summed over parts
    bytes: int
    precisions: tuple[str, ...]
    space: str
    finished: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "precisions": tuple(data["precisions"])})


def read_manifest(output: Output, run: Run) -> Manifest | None:
    """The manifest of a run, or None while it is not finished."""
    name = run.path("manifest.json")
    if not output.directory.exists(name):
        return None
    data = output.read_json(name)
    with output.intact(name):
        return Manifest.from_json(data)


def newest(output: Output) -> tuple[Run, Manifest] | None:
    """The highest finished run: what a reader of the output reads."""
    for n in reversed(output.run_numbers()):
        run = output.run(n)
        if manifest := read_manifest(output, run):
            return run, manifest
    return None


def read_parts(output: Output, run: Run) -> pa.Table:
    """One row a part of a finished run, in input order, with the columns of PARTS_SCHEMA."""
    name = run.path("parts")
    data = output.directory.read(name)
    with output.intact(name):
        return from_parquet(data)


def sweep(output: Output) -> None:
    """Delete the parts that neither the highest run nor the newest manifest asks for.

    What is wanted is read after what is there, so that parts of a run that began meanwhile stay.
    """
    there = output.committed()
    latest = output.latest()
    if latest is None:
        return
    wanted = _wanted(output, latest)
    if output.superseded(latest):
        return  # whoever replaced it sweeps
    for name in there:
        if name not in wanted:
            output.drop(name)


def retract_if_unwanted(output: Output, run: Run, part: str) -> None:
    """Delete a part just committed for `run` if a higher run does not plan it.

    A run started meanwhile may have listed the parts before this one was there; the flat glob
    would show a part that no manifest names.
    """
    if (n := output.superseded(run)) and part not in _wanted(output, output.run(n)):
        output.drop(part)


def _wanted(output: Output, latest: Run) -> frozenset[str]:
    done = newest(output)
    return output.plan(latest).parts | (output.plan(done[0]).parts if done else frozenset())


def finalise(output: Output, run: Run, plan: Plan, *, max_failed: str) -> Manifest | None:
    """Write the manifest once every shard is committed, then sweep what it does not list.

    Safe to call from anywhere at any time, by several at once: the first manifest stands.

    `max_failed` is how many rows may have failed, see `failure_budget`.

    Returns:
        The manifest; None while shards are missing, or where a higher run exists.

    Raises:
        JobFailed: more rows failed than may; no manifest is written, the parts stay.
    """
    if done := read_manifest(output, run):
        return done
    committed = output.committed()
    if plan.missing(committed) or output.superseded(run):
        return None
    parts = _list_parts(output, plan, committed)
    manifest = _totals(run, parts)
    try:
        _check_budget(manifest, max_failed)
    except JobFailed as error:
        output.fail(run, error.message, error.hint)
        raise
    output.directory.put(run.path("parts"), to_parquet(parts))
    data = json.dumps(asdict(manifest), indent=1).encode()
    if not output.directory.create(run.path("manifest.json"), data):
        return read_manifest(output, run)
    sweep(output)
    return manifest


def _list_parts(output: Output, plan: Plan, committed: dict[str, ObjectInfo]) -> pa.Table:
    known = _known_parts(output)
    rows: dict[str, dict[str, Any]] = {}
    unread: list[ObjectInfo] = []
    for name in plan.table["part"].to_pylist():
        item, old = committed[name], known.get(name)
        if old is not None and (old["version"], old["bytes"]) == (item.version, item.size):
            rows[name] = old
        else:
            rows[name] = {}  # holds the place, so that input order stays
            unread.append(item)
    with ThreadPoolExecutor(_READERS) as pool:
        infos = pool.map(lambda item: read_info(output.directory, item.name), unread)
        for item, info in zip(unread, infos, strict=True):
            rows[item.name] = _part_row(item, info)
    return pa.Table.from_pylist(list(rows.values()), PARTS_SCHEMA)


def _known_parts(output: Output) -> dict[str, dict[str, Any]]:
    last = newest(output)
    if last is None:
        return {}
    return {row["part"]: row for row in read_parts(output, last[0]).to_pylist()}


def _part_row(item: ObjectInfo, info: PartInfo) -> dict[str, Any]:
    counts = {key: info.count(key) for key in ("rows", "tokens", "truncated", "failed")}
    texts = {key: info.values[key] for key in ("checksum", "attempt", "job", "precision", "device")}
    return {
        "part": item.name,
        "bytes": item.size,
        "version": item.version,
        "seconds": float(info.values["seconds"]),
        **counts,
        **texts,
    }


def _totals(run: Run, parts: pa.Table) -> Manifest:
    def total(name: str, table: pa.Table = parts) -> int:
        return int(sum(table[name].to_pylist()))

    mine = parts.filter([job == run.job for job in parts["job"].to_pylist()])
    return Manifest(
        job=run.job,
        run=run.n,
        parts=parts.num_rows,
        rows=total("rows"),
        computed=total("rows", mine),
        reused=total("rows") - total("rows", mine),
        failed=total("failed"),
        tokens=total("tokens"),
        truncated=total("truncated"),
        seconds=round(float(sum(mine["seconds"].to_pylist())), 3),
        bytes=total("bytes"),
        precisions=_distinct(parts["precision"].to_pylist()),
        space=run.spec.space,
        finished=now(),
    )


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _check_budget(manifest: Manifest, limit: str) -> None:
    allowed = failure_budget(limit, manifest.rows)
    if manifest.failed > allowed:
        raise JobFailed(
            f"{manifest.failed} of {manifest.rows} rows failed, more than "
            f"--max-failed-rows {limit} allows ({allowed})",
            hint="the rows and reasons are under _bei/quarantine/ in the output; mend the input, "
            "or run the same command with a higher --max-failed-rows",
        )

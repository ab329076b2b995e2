"""Parts → manifest: a run's final part list. Readers of an output go by its newest manifest.

    _bei/runs/<n>/parts           Parquet, one row per part, in input order
    _bei/runs/<n>/manifest.json   totals only, create-only, written last

Only the ends of parts are read here, and only of parts that the last manifest does not list:
finishing a nightly run costs as much as its new parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

from pipeline.errors import JobFailed, NotFound
from pipeline.output.open_shards import forget_deaths, sweep_pieces
from pipeline.output.output import Output
from pipeline.output.part_file import PartInfo, read_info
from pipeline.output.plan import Plan
from pipeline.output.run import Run, now
from pipeline.spec import failure_budget
from pipeline.store.directory import ObjectInfo
from pipeline.store.parquet_bytes import from_parquet, to_parquet
from pipeline.store.uris import redact

# Parts whose ends are read concurrently: each is a few small requests to a remote store.
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
    computed: int  # rows of parts that this run computed
    reused: int  # rows of parts that were already committed
    failed: int
    tokens: int
    truncated: int
    seconds: float  # spent computing, summed over parts
    bytes: int
    precisions: tuple[str, ...]
    space: str
    finished: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "precisions": tuple(data["precisions"])})


def read_manifest(output: Output, run: Run) -> Manifest | None:
    """The manifest of a run; None if the run is not finished."""
    name = run.path("manifest.json")
    if not output.directory.exists(name):
        return None
    data = output.read_json(name)
    with output.intact(name):
        return Manifest.from_json(data)


def newest_finished(output: Output) -> tuple[Run, Manifest] | None:
    """The highest finished run, which is the one that readers of the output use."""
    for n in reversed(output.run_numbers()):
        run = output.run(n)
        if manifest := read_manifest(output, run):
            return run, manifest
    return None


def require_finished(output: Output) -> tuple[Run, Manifest]:
    """The highest finished run.

    Raises:
        NotFound: there is none.
    """
    if (finished := newest_finished(output)) is None:
        uri = redact(output.uri)
        raise NotFound(
            f"{uri} holds no finished job", hint=f"see its status with `bei-jobs status {uri}`"
        )
    return finished


def read_parts(output: Output, run: Run) -> pa.Table:
    """One row per part of a finished run, in input order, with the columns of PARTS_SCHEMA."""
    name = run.path("parts")
    data = output.directory.read(name)
    with output.intact(name):
        return from_parquet(data)


def sweep(output: Output) -> None:
    """Delete the parts that belong neither to the highest run nor to the newest manifest.

    The parts are listed before the plans are read, so that parts of a run that started meanwhile
    are kept.
    """
    committed = output.committed()
    latest = output.latest()
    if latest is None:
        return
    current = _current_parts(output, latest)
    if output.superseded(latest):
        return  # the newer run sweeps
    for name in committed:
        if name not in current:
            output.drop(name)


def retract_if_unwanted(output: Output, run: Run, part: str) -> None:
    """Delete a part just committed for `run` if there is a higher run that does not plan it.

    That run may have listed the parts before this one was committed. Without this, the flat glob
    would find a part that no manifest lists.
    """
    if (n := output.superseded(run)) and part not in _current_parts(output, output.run(n)):
        output.drop(part)


def _current_parts(output: Output, latest: Run) -> frozenset[str]:
    finished = newest_finished(output)
    return output.plan(latest).parts | (output.plan(finished[0]).parts if finished else frozenset())


def finalise(output: Output, run: Run, plan: Plan, *, max_failed: str) -> Manifest | None:
    """Write the manifest once every shard is committed, then sweep what it does not list.

    Safe to call at any time, from several processes at once: the first manifest wins.

    `max_failed` is the number or share of rows that may fail, see `failure_budget`.

    Returns:
        The manifest; None if shards are missing or a higher run exists.

    Raises:
        JobFailed: more rows failed than allowed; no manifest is written, parts are kept.
    """
    if manifest := read_manifest(output, run):
        return manifest
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
    sweep_pieces(output)
    forget_deaths(output, run)
    return manifest


def _list_parts(output: Output, plan: Plan, committed: dict[str, ObjectInfo]) -> pa.Table:
    listed = _listed_parts(output)
    rows: dict[str, dict[str, Any]] = {}
    unread: list[ObjectInfo] = []
    for name in plan.table["part"].to_pylist():
        item, row = committed[name], listed.get(name)
        if row is not None and (row["version"], row["bytes"]) == (item.version, item.size):
            rows[name] = row
        else:
            rows[name] = {}  # a placeholder that keeps input order
            unread.append(item)
    with ThreadPoolExecutor(_READERS) as pool:
        infos = pool.map(lambda item: read_info(output.directory, item.name), unread)
        for item, info in zip(unread, infos, strict=True):
            rows[item.name] = _part_row(item, info)
    return pa.Table.from_pylist(list(rows.values()), PARTS_SCHEMA)


def _listed_parts(output: Output) -> dict[str, dict[str, Any]]:
    """Part name → its row in the newest manifest's part list."""
    last = newest_finished(output)
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

    computed = parts.filter([job == run.job for job in parts["job"].to_pylist()])
    return Manifest(
        job=run.job,
        run=run.n,
        parts=parts.num_rows,
        rows=total("rows"),
        computed=total("rows", computed),
        reused=total("rows") - total("rows", computed),
        failed=total("failed"),
        tokens=total("tokens"),
        truncated=total("truncated"),
        seconds=round(float(sum(computed["seconds"].to_pylist())), 3),
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
            hint="fix the input (rows and reasons are in _bei/quarantine/ of the output), or run "
            "the same command with a higher --max-failed-rows",
        )

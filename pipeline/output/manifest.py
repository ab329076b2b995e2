"""Parts → manifest: a run's final part list. Readers of an output go by its newest manifest.

    _bei/runs/<n>/parts           Parquet, one row per part, in input order
    _bei/runs/<n>/manifest.json   totals only, create-only, written last

Only the ends of parts are read here, and only of parts that the last manifest does not list:
finishing a nightly run costs as much as its new parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import JobFailed, NotFound
from pipeline.output.changed_rows import changed_rows
from pipeline.output.copies import delete_copies
from pipeline.output.open_shards import forget_deaths, sweep_pieces
from pipeline.output.output import Output
from pipeline.output.part_file import PartInfo, read_info
from pipeline.output.plan import Plan, row_values, table_of
from pipeline.output.run import Run
from pipeline.output.totals import LATER, Manifest, totals
from pipeline.shards import part_format
from pipeline.spec import failure_budget
from pipeline.store.directory import ObjectInfo
from pipeline.store.parquet_bytes import from_parquet, to_parquet
from pipeline.store.uris import redact

# Parts whose ends are read concurrently: each is a few small requests to a remote store.
_READERS = 16
# Parts whose metadata is held at once.
_READ_AT_ONCE = 1024

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
        ("reused", pa.int64()),  # rows that its run copied from earlier parts
        ("deduplicated", pa.int64()),  # rows that its run copied from others that it computed
        ("chunks", pa.int64()),  # rows of the part, where texts are in chunks
        ("cut", pa.int64()),  # tokens cut off truncated texts; null where that is not known
    ]
)


def read_manifest(output: Output, run: Run) -> Manifest | None:
    """The manifest of a run; None if the run is not finished."""
    name = run.path("manifest.json")
    if not output.directory.exists(name):
        return None
    data = output.read_json(name)
    with output.intact(name):
        return Manifest.from_json(data)


def failed_totals(output: Output, run: Run) -> Manifest | None:
    """The totals of a run that failed when all of its shards were committed; None of others."""
    failed = output.failed(run)
    if failed is None or "totals" not in failed:
        return None
    with output.intact(run.path("failed.json")):
        return Manifest.from_json(failed["totals"])


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
        hint = f"check the path, and see its status with `bei-jobs status {uri}`"
        raise NotFound(f"{uri} holds no finished job", hint=hint)
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
    unplanned = set(output.committed())
    latest = output.latest()
    if latest is None or not unplanned:
        return
    # A part that someone made another format of, beside it, is none of ours.
    unplanned = {name for name in unplanned if part_format(name) == latest.spec.output_format}
    if latest.matched and read_manifest(output, latest) is None:
        return  # its rows may be copied from any part
    for plan in _current_plans(output, latest):
        unplanned.difference_update(part for (part,) in plan.values("part"))
    if output.superseded(latest):
        return  # the newer run sweeps
    for name in sorted(unplanned):
        output.drop(name)


def retract_if_unwanted(output: Output, run: Run, part: str) -> None:
    """Delete a part just committed for `run` if there is a higher run that does not plan it.

    That run may have listed the parts before this one was committed. Without this, the flat glob
    would find a part that no manifest lists.
    """
    n = output.superseded(run)
    if n and not any(part in plan.parts for plan in _current_plans(output, output.run(n))):
        output.drop(part)


def _current_plans(output: Output, latest: Run) -> Iterator[Plan]:
    """The plans of the highest run and of the newest finished one, one at a time."""
    yield output.plan(latest)
    finished = newest_finished(output)
    if finished and finished[0].n != latest.n:
        yield output.plan(finished[0])


def finalise(output: Output, run: Run, plan: Plan, *, max_failed: str) -> Manifest | None:
    """Write the manifest once every shard is committed, then sweep what it does not list.

    Safe to call at any time, from several processes at once: the first manifest wins.

    `max_failed` is the number or share of rows that may fail, see `failure_budget`.

    Returns:
        The manifest; None if shards are missing, a higher run exists, or the output was deleted
        and its run with this number has another plan.

    Raises:
        JobFailed: more rows failed than allowed; the run is marked as failed, with its totals, no
            manifest is written, parts are kept.
    """
    if manifest := read_manifest(output, run):
        return manifest
    committed = output.committed()
    if plan.missing(committed) or output.superseded(run):
        return None
    parts = list_parts(output, plan, committed)
    if output.run(run.n).plan != plan.digest:  # whoever called it has an earlier one
        return None
    manifest = totals(run, parts)
    try:
        _check_budget(manifest, max_failed)
    except JobFailed as error:
        output.fail(run, error.message, error.hint, manifest.to_json())
        raise
    manifest = replace(manifest, changed=changed_rows(output, run, plan, parts))
    output.directory.put(run.path("parts"), to_parquet(_without_zeros(parts)))
    data = json.dumps(manifest.to_json(), indent=1).encode()
    if not output.directory.create(run.path("manifest.json"), data):
        return read_manifest(output, run)
    sweep(output)
    sweep_pieces(output)
    delete_copies(output)
    forget_deaths(output, run)
    return manifest


def _without_zeros(parts: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    zero = [name for name in LATER if not pc.any(pc.not_equal(parts[name].fill_null(1), 0)).as_py()]
    return parts.drop_columns(zero)


def list_parts(output: Output, plan: Plan, committed: dict[str, ObjectInfo]) -> pa.Table:
    """One row per part of a plan, all of them committed, with the columns of PARTS_SCHEMA."""
    return table_of(_part_rows(output, plan, committed), PARTS_SCHEMA)


def _part_rows(
    output: Output, plan: Plan, committed: dict[str, ObjectInfo]
) -> Iterator[tuple[Any, ...]]:
    rows = zip(plan.values("part"), row_values(_listed_parts(output, plan)), strict=True)
    version, size = (PARTS_SCHEMA.get_field_index(name) for name in ("version", "bytes"))
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := [(committed[part], row) for (part,), row in islice(rows, _READ_AT_ONCE)]:
            unread = [
                item.name
                for item, row in batch
                if (row[version], row[size]) != (item.version, item.size)
            ]
            infos = pool.map(lambda name: read_info(output.directory, name), unread)
            read = dict(zip(unread, infos, strict=True))
            for item, row in batch:
                yield _part_values(item, read[item.name]) if item.name in read else row


def _listed_parts(output: Output, plan: Plan) -> pa.Table:
    """What the newest manifest says about each part of the plan; nulls where it lists none."""
    last = newest_finished(output)
    listed = PARTS_SCHEMA.empty_table() if last is None else read_parts(output, last[0])
    for name in PARTS_SCHEMA.names:
        if name not in listed.column_names:  # 0.1.0 copied no rows
            values = np.zeros(len(listed), dtype=np.int64)
            unknown = None if name != "cut" else listed["truncated"].to_numpy() > 0
            listed = listed.append_column(name, pa.array(values, mask=unknown))
    return listed_for(plan, listed.select(PARTS_SCHEMA.names))


def listed_for(plan: Plan, listed: pa.Table) -> pa.Table:
    """The rows of a part list in the order of a plan's shards; nulls where a part is not listed."""
    import pyarrow.compute as pc  # what only reads totals does without

    return listed.take(pc.index_in(plan.table["part"], value_set=listed["part"]))


def _part_values(item: ObjectInfo, info: PartInfo) -> tuple[Any, ...]:
    values = {
        **info.values,
        **{key: info.count(key) for key in ("rows", "tokens", "truncated", "failed")},
        **{key: int(info.values.get(key, "0")) for key in ("reused", "deduplicated", "chunks")},
        "cut": _cut(info),
        "seconds": float(info.values["seconds"]),
        "part": item.name,
        "bytes": item.size,
        "version": item.version,
    }
    return tuple(values[name] for name in PARTS_SCHEMA.names)


def _cut(info: PartInfo) -> int | None:
    if not info.count("truncated"):
        return 0
    return int(info.values["cut"]) if "cut" in info.values else None


def _check_budget(manifest: Manifest, limit: str) -> None:
    allowed = failure_budget(limit, manifest.rows)
    if manifest.failed > allowed:
        raise JobFailed(
            f"{manifest.failed} of {manifest.rows} rows failed, more than "
            f"--max-failed-rows {limit} allows ({allowed})",
            hint="fix the input (rows and reasons are in _bei/quarantine/ of the output), or run "
            "the same command with a higher --max-failed-rows",
        )

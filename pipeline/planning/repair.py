"""Replay the quarantined rows of a finished run in place: the next run computes their shards again.

A part is never overwritten, so a repaired shard has another name: its cut counts the repairs. The
old part stays in the manifest that readers use until the next run is finished, and is swept then.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import pyarrow.compute as pc

from pipeline.errors import OutputConflict
from pipeline.output.manifest import read_parts
from pipeline.output.output import QUARANTINE, Output, quarantine_name
from pipeline.output.plan import Plan, make_plan
from pipeline.output.run import Run, now
from pipeline.planning.changes import record_of
from pipeline.shards import Cut
from pipeline.spec import schema_hash
from pipeline.store.uris import redact


def start_repair(output: Output, run: Run) -> tuple[Run, Plan] | None:
    """Start the run after `run`, which computes the shards that have quarantined rows again.

    Args:
        output: of the run.
        run: finished, and the highest of its output.

    Returns:
        The new run and its plan; None if no row is quarantined.

    Raises:
        OutputConflict: this version computes other values, or another run started meanwhile.
    """
    listed = read_parts(output, run)
    failed = set(listed.filter(pc.greater(listed["failed"], 0))["part"].to_pylist())
    plan, skipped = output.plan(run), dict(run.skipped)
    # Of a skipped file, the rows of an earlier version are kept: there is nothing to read.
    failed -= {shard.part for shard in plan.shards() if shard.file.uri in skipped}
    if not failed:
        return None
    output.claim(run.spec, run.columns)
    repaired = _repaired(plan, failed, run)
    record = record_of(output, run, plan, repaired)
    repair = replace(run, n=run.n + 1, plan=repaired.digest, created=now(), record=record)
    if output.start(repair, repaired) is None:
        raise OutputConflict(
            f"another run of {redact(output.uri)} started meanwhile",
            hint=f"see its status with `bei-jobs status {redact(output.uri)}`, then retry again",
        )
    return repair, repaired


def quarantined_parts(output: Output, plan: Plan) -> int:
    """How many committed parts of a plan have quarantined rows."""
    stored = {item.name for item in output.directory.list(QUARANTINE)}
    if not stored:
        return 0
    committed = output.committed()
    parts = (part for (part,) in plan.values("part") if part in committed)
    return sum(quarantine_name(part) in stored for part in parts)


def _repaired(plan: Plan, failed: Container[str], run: Run) -> Plan:
    """The plan with one more repair of each shard whose part is among `failed`."""
    cuts: dict[str, list[Cut]] = {file.uri: [] for file in plan.files}
    for shard, (part,) in zip(plan.shards(), plan.values("part"), strict=True):
        repairs = shard.cut.repair + (part in failed)
        cuts[shard.file.uri].append(replace(shard.cut, repair=repairs))
    files = ((file, cuts[file.uri]) for file in plan.files)
    return make_plan(
        files,
        space=run.spec.space,
        schema=schema_hash(run.kept),
        output_format=run.spec.output_format,
    )

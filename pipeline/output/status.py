"""The status of a job, read from the store alone; anyone may ask at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.output.manifest import Manifest, newest_finished, read_manifest
from pipeline.output.open_shards import rows_kept
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.spec import ShardResult

_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class JobStatus:
    """State and counts of one run.

    `failed_rows`, tokens, seconds and `skipped` are 0 until it is finished.
    """

    state: str  # queued, running, done, failed or cancelled
    shards: int
    shards_done: int
    shards_failed: int
    rows: int
    rows_done: int
    computed: int  # rows whose texts were computed
    reused: int  # rows of parts that were already committed, or copied from such parts
    deduplicated: int = 0  # rows that share the result of another row that was computed
    kept: int = 0  # rows that are computed, of shards that are not done
    failed_rows: int = 0
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0
    skipped: int = 0  # files
    reason: str = ""
    hint: str = ""

    @property
    def final(self) -> bool:
        """Whether the run has ended."""
        return self.state in ("done", "failed", "cancelled")


def job_status(output: Output, run: Run) -> JobStatus:
    """The status of a run.

    That of a finished run comes from its totals, whatever its number of parts; that of any other
    run needs one listing of the output.
    """
    if manifest := read_manifest(output, run):
        return _finished(run, manifest)
    plan = output.plan(run)
    committed = output.committed()
    failures = output.failures(run)
    shards_done = done = reused = 0
    for (part, rows), earlier in zip(
        plan.values("part", "rows"), _in_finished(output, plan), strict=True
    ):
        if part in committed:
            shards_done += 1
            done += rows
            reused += rows if earlier else 0
    state, reason, hint = _ended(output, run) or (
        "running" if done > reused else "queued",
        "",
        "",
    )
    return JobStatus(
        state=state,
        shards=len(plan),
        shards_done=shards_done,
        shards_failed=len(failures),
        rows=plan.rows,
        rows_done=done,
        computed=done - reused,
        reused=reused,
        kept=rows_kept(output, plan),
        reason=reason,
        hint=hint,
    )


def failure_reason(failures: Sequence[ShardResult], shards: int) -> str:
    """The number of failed shards of a run, and the errors of the first few."""
    lines = [failure.error for failure in failures[:_REASONS_SHOWN]]
    if len(failures) > _REASONS_SHOWN:
        lines.append(f"… and {len(failures) - _REASONS_SHOWN} more")
    return f"{len(failures)} of {shards} shards failed:\n  " + "\n  ".join(lines)


def _ended(output: Output, run: Run) -> tuple[str, str, str] | None:
    """State, reason and hint of a run that ended without finishing; None for others."""
    if failed := output.failed(run):
        return "failed", failed["reason"], failed["hint"]
    if n := output.superseded(run):
        return "cancelled", f"run {n} of this output superseded it", ""
    return ("cancelled", "", "") if output.cancelled(run) else None


def _finished(run: Run, manifest: Manifest) -> JobStatus:
    return JobStatus(
        state="done",
        shards=run.shards,
        shards_done=run.shards,
        shards_failed=0,
        rows=run.rows,
        rows_done=manifest.rows,
        computed=manifest.computed,
        reused=manifest.reused,
        deduplicated=manifest.deduplicated,
        failed_rows=manifest.failed,
        tokens=manifest.tokens,
        truncated=manifest.truncated,
        seconds=manifest.seconds,
        skipped=len(run.skipped),
    )


def _in_finished(output: Output, plan: Plan) -> list[bool]:
    """For each shard, whether its part is one of the newest finished run's, to be reused."""
    last = newest_finished(output)
    if last is None:
        return [False] * len(plan)
    earlier = output.plan(last[0]).table["part"]
    return [bool(value) for value in pc.is_in(plan.table["part"], value_set=earlier).to_numpy()]

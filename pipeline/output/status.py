"""How a job stands, read from the store alone: what anybody may ask at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.output.manifest import Manifest, newest, read_manifest
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.spec import ShardResult

_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class JobStatus:
    """State and counts of one run. `failed_rows`, tokens and seconds are known at the end."""

    state: str  # queued, running, done, failed or cancelled
    shards: int
    shards_done: int
    shards_failed: int
    rows: int
    rows_done: int
    computed: int
    reused: int
    failed_rows: int = 0
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0
    reason: str = ""
    hint: str = ""

    @property
    def final(self) -> bool:
        """Whether it will not change by itself."""
        return self.state in ("done", "failed", "cancelled")


def job_status(output: Output, run: Run) -> JobStatus:
    """How a run stands.

    A finished run is told from its totals, however many parts it has; any other is told from
    one listing of the output.
    """
    if manifest := read_manifest(output, run):
        return _finished(run, manifest)
    plan = output.plan(run)
    committed = output.committed()
    failures = output.failures(run)
    have = [part in committed for part in plan.table["part"].to_pylist()]
    known = _known_before(output)
    rows = plan.table["rows"].to_pylist()
    parts = plan.table["part"].to_pylist()
    done = sum(n for n, here in zip(rows, have, strict=True) if here)
    reused = sum(
        n for n, here, part in zip(rows, have, parts, strict=True) if here and part in known
    )
    state, reason, hint = _ended(output, run) or (
        "running" if done > reused else "queued",
        "",
        "",
    )
    return JobStatus(
        state=state,
        shards=len(plan),
        shards_done=sum(have),
        shards_failed=len(failures),
        rows=plan.rows,
        rows_done=done,
        computed=done - reused,
        reused=reused,
        reason=reason,
        hint=hint,
    )


def failure_reason(failures: Sequence[ShardResult], shards: int) -> str:
    """How many of a run's shards failed, and why the first of them did."""
    lines = [failure.error for failure in failures[:_REASONS_SHOWN]]
    if len(failures) > _REASONS_SHOWN:
        lines.append(f"… and {len(failures) - _REASONS_SHOWN} more")
    return f"{len(failures)} of {shards} shards failed:\n  " + "\n  ".join(lines)


def _ended(output: Output, run: Run) -> tuple[str, str, str] | None:
    """State, reason and hint of a run that ended unfinished."""
    if failed := output.failed(run):
        return "failed", failed["reason"], failed["hint"]
    if n := output.superseded(run):
        return "cancelled", f"run {n} of this output took its place", ""
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
        failed_rows=manifest.failed,
        tokens=manifest.tokens,
        truncated=manifest.truncated,
        seconds=manifest.seconds,
    )


def _known_before(output: Output) -> frozenset[str]:
    """The parts of the newest finished run: what a run that is under way found committed."""
    last = newest(output)
    return frozenset() if last is None else output.plan(last[0]).parts

"""The status of a job, read from the store alone; anyone may ask at any time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import StorageError
from pipeline.output.canary_file import Canary, read_canaries
from pipeline.output.failures import Failure, read_failures
from pipeline.output.manifest import failed_totals, newest_finished, read_manifest
from pipeline.output.open_shards import kept_by_shard
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.output.state import open_state, read_checked
from pipeline.output.totals import Manifest
from pipeline.shards import ShardResult

logger = logging.getLogger(__name__)

_REASONS_SHOWN = 3


# Marks of `JobStatus.strip`.
DONE, FAILED, BEGUN, OPEN = b"#", b"x", b"~", b"."


@dataclass(frozen=True, slots=True)
class JobStatus:
    """State and counts of one run.

    `failed_rows`, tokens, seconds and `skipped` are 0 until all of its shards are committed.
    """

    state: str  # queued, running, interrupted, done, failed or cancelled
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
    cut: int | None = None  # tokens cut off truncated texts; None: not known, or none is truncated
    chunks: int = 0  # rows of the output, where texts are in chunks
    seconds: float = 0.0
    skipped: int = 0  # files
    reason: str = ""
    hint: str = ""
    on_queue: bool = False  # of a run that has not ended: its broker knows the state better
    finished: str = ""  # when the run ended, ISO 8601; "" before, and where nobody said so
    checked: str = ""  # when a submit last found it complete and unchanged
    changed: int | None = None  # rows of changed files that were computed again
    last_failure: Failure | None = None  # of the output
    canaries: tuple[Canary, ...] = ()  # of the first device of each precision
    strip: bytes = b""  # a mark for each shard in the order of the plan; b"" once it is done
    errors: tuple[str, ...] = ()  # of the last shards that failed

    @property
    def final(self) -> bool:
        """Whether the run has ended."""
        return self.state in ("done", "failed", "cancelled")


def job_status(output: Output, run: Run) -> JobStatus:
    """The status of a run.

    That of a finished run comes from its totals, whatever its number of parts; that of any other
    run needs one listing of the output.
    """
    status = _status(output, run)
    if status.state == "interrupted":  # or it ended since its last object was looked for
        status = _status(output, run)
    return replace(
        status,
        last_failure=next(iter(read_failures(output.directory, 1)), None),
        canaries=_canaries(output, run),
    )


def _canaries(output: Output, run: Run) -> tuple[Canary, ...]:
    """The canaries of a run; a damaged one stops devices, but no status."""
    try:
        return tuple(read_canaries(output, run))
    except StorageError as error:
        logger.warning("%s", error)
        return ()


def past_status(output: Output, run: Run) -> JobStatus:
    """The status of a run that a later one follows; without counts where it was not finished."""
    if manifest := read_manifest(output, run):
        return _finished(run, manifest, read_checked(output, run))
    failed = output.failed(run)
    past = JobStatus(
        state="failed" if failed else "cancelled",
        shards=run.shards,
        shards_done=0,
        shards_failed=0,
        rows=run.rows,
        rows_done=0,
        computed=0,
        reused=0,
        reason=failed["reason"] if failed else f"run {run.n + 1} of this output superseded it",
        hint=failed["hint"] if failed else "",
        finished=failed["at"] if failed else "",
    )
    totals = failed_totals(output, run)
    return past if totals is None else replace(past, shards_done=run.shards, **_counts(totals))


def _status(output: Output, run: Run) -> JobStatus:
    if manifest := read_manifest(output, run):
        return _finished(run, manifest, read_checked(output, run))
    plan = output.plan(run)
    committed = output.committed()
    failures = output.failures(run)
    kept = kept_by_shard(output, plan)
    strip = bytearray()
    shards_done = done = reused = 0
    written = 0.0
    for (part, rows, shard), earlier in zip(
        plan.values("part", "rows", "shard"), _in_finished(output, plan), strict=True
    ):
        strip += _mark(part in committed, shard in failures, shard in kept)
        if part in committed:
            shards_done += 1
            done += rows
            reused += rows if earlier else 0
            written = written if earlier else max(written, committed[part].modified)
    counts = JobStatus(
        state="",
        shards=len(plan),
        shards_done=shards_done,
        shards_failed=len(failures),
        rows=plan.rows,
        rows_done=done,
        computed=done - reused,
        reused=reused,
        kept=sum(kept.values()),
        strip=bytes(strip),
        errors=tuple(one.error for one in failures.values())[-_REASONS_SHOWN:],
    )
    if ended := _ended(output, run):
        state, reason, hint, at = ended
        if totals := failed_totals(output, run):
            counts = replace(counts, **_counts(totals))
        return replace(counts, state=state, reason=reason, hint=hint, finished=at)
    open_ = open_state(output, run, computed=done - reused, written=written)
    return replace(counts, state=open_.state, on_queue=open_.on_queue)


def _mark(done: bool, failed: bool, begun: bool) -> bytes:
    if done:
        return DONE
    return FAILED if failed else BEGUN if begun else OPEN


def failure_reason(failures: Sequence[ShardResult], shards: int) -> str:
    """The number of failed shards of a run, and the errors of the first few."""
    lines = [failure.error for failure in failures[:_REASONS_SHOWN]]
    if len(failures) > _REASONS_SHOWN:
        lines.append(f"… and {len(failures) - _REASONS_SHOWN} more")
    return f"{len(failures)} of {shards} shards failed:\n  " + "\n  ".join(lines)


def _ended(output: Output, run: Run) -> tuple[str, str, str, str] | None:
    """State, reason, hint and time of a run that ended without finishing; None for others."""
    if failed := output.failed(run):
        return "failed", failed["reason"], failed["hint"], failed["at"]
    if n := output.superseded(run):
        return "cancelled", f"run {n} of this output superseded it", "", ""
    if not output.cancelled(run):
        return None
    return "cancelled", "", "", str(output.read_json(run.path("cancelled.json")).get("at", ""))


def _finished(run: Run, manifest: Manifest, checked: str) -> JobStatus:
    return JobStatus(
        state="done",
        shards=run.shards,
        shards_done=run.shards,
        shards_failed=0,
        rows=run.rows,
        **_counts(manifest),
        skipped=len(run.skipped),
        finished=manifest.finished,
        checked=checked,
        changed=manifest.changed,
    )


def _counts(totals: Manifest) -> dict[str, Any]:
    return {
        "rows_done": totals.rows,
        "computed": totals.computed,
        "reused": totals.reused,
        "deduplicated": totals.deduplicated,
        "failed_rows": totals.failed,
        "tokens": totals.tokens,
        "truncated": totals.truncated,
        "cut": totals.cut,
        "chunks": totals.chunks,
        "seconds": totals.seconds,
    }


def _in_finished(output: Output, plan: Plan) -> list[bool]:
    """For each shard, whether its part is one of the newest finished run's, to be reused."""
    import pyarrow.compute as pc

    last = newest_finished(output)
    if last is None:
        return [False] * len(plan)
    earlier = output.plan(last[0]).table["part"]
    return [bool(value) for value in pc.is_in(plan.table["part"], value_set=earlier).to_numpy()]

"""What one process did of a run, beside what was there before it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from pipeline.output.open_shards import rows_kept
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.status import JobStatus
from pipeline.shards import ShardResult
from workers.rates import Stopwatch


@dataclass(slots=True)
class Tally:
    """Counts of shards and rows, as this process saw them."""

    reused_rows: int
    shards_ended: int  # including those that were already committed
    kept_before: int  # rows that earlier attempts computed of open shards
    committed: int = 0  # rows of parts that this process committed
    computed: int = 0  # of these, rows whose texts were computed
    deduplicated: int = 0  # of these, rows that share the result of another one
    batched: int = 0  # rows that came back from a device
    tokens: int = 0
    truncated: int = 0
    failed_rows: int = 0
    failures: list[ShardResult] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)

    @classmethod
    def of(cls, output: Output, plan: Plan) -> Self:
        """Of a run that begins: what is committed already, or kept."""
        missing = set(plan.missing(output.committed()))
        rows = plan.table["rows"].to_pylist()
        return cls(
            reused_rows=sum(n for i, n in enumerate(rows) if i not in missing),
            shards_ended=len(plan) - len(missing),
            kept_before=rows_kept(output, plan),
        )

    def add(self, result: ShardResult) -> None:
        """Count a shard that ended; a failed one counts no rows."""
        self.shards_ended += 1
        if result.error:
            self.failures.append(result)
            return
        if result.computed:
            self.committed += result.rows
            self.deduplicated += result.deduplicated
            copied = result.reused + result.deduplicated
            self.computed += result.rows - result.failed - copied
        else:
            self.reused_rows += result.rows
        self.tokens += result.tokens
        self.truncated += result.truncated
        self.failed_rows += result.failed

    def applied_to(self, status: JobStatus, seconds: float) -> JobStatus:
        """A status with what this process computed separate from what it reused.

        A run without a manifest has no totals of its own, so it gets the counts of this process.

        Args:
            status: of the run, as its output says.
            seconds: that this process took.
        """
        failed = max(status.failed_rows, self.failed_rows)
        new = self.computed + self.deduplicated
        return replace(
            status,
            computed=self.computed,
            deduplicated=self.deduplicated,
            reused=max(0, status.rows_done - new - failed),
            failed_rows=failed,
            tokens=max(status.tokens, self.tokens),
            truncated=max(status.truncated, self.truncated),
            seconds=seconds,
        )

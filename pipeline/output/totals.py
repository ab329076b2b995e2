"""The totals of a finished run, which are its manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

from pipeline.output.run import Run, now

# Fields of Manifest that came later, and columns of the list of parts: left out where all are zero.
LATER = ("chunks", "cut")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Totals of a finished run."""

    job: str
    run: int
    parts: int
    rows: int
    computed: int  # rows whose texts this run computed
    reused: int  # rows of parts that were already committed, or copied from such parts
    failed: int  # computed + reused + deduplicated + failed = rows; of 0.1.0, computed + reused
    tokens: int
    truncated: int
    seconds: float  # spent computing, summed over parts
    bytes: int
    precisions: tuple[str, ...]
    space: str
    finished: str
    deduplicated: int = 0  # rows that share the result of another row that this run computed
    changed: int | None = None  # rows computed again in changed files; None: not known
    chunks: int = 0  # rows of the parts, where texts are in chunks; `rows` counts texts
    cut: int | None = None  # tokens cut off; None: not known of every truncated text, or none is

    @property
    def output_rows(self) -> int:
        """Rows of the parts."""
        return self.chunks or self.rows

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes an equal manifest."""
        values = asdict(self)
        return {key: value for key, value in values.items() if key not in LATER or value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "precisions": tuple(data["precisions"])})


def totals(run: Run, parts: pa.Table) -> Manifest:
    """Those of a run, given one row per part of its plan."""
    import pyarrow.compute as pc  # what only reads totals does without

    def total(name: str, table: pa.Table = parts) -> int:
        return int(pc.sum(table[name]).as_py() or 0)

    computed = parts.filter(pc.equal(parts["job"], run.job))
    deduplicated, failed = total("deduplicated", computed), total("failed")
    earlier = parts.filter(pc.not_equal(parts["job"], run.job))
    reused = total("reused", computed) + total("rows", earlier) - total("failed", earlier)
    return Manifest(
        job=run.job,
        run=run.n,
        parts=parts.num_rows,
        rows=total("rows"),
        computed=total("rows") - reused - deduplicated - failed,
        reused=reused,
        failed=failed,
        tokens=total("tokens"),
        truncated=total("truncated"),
        seconds=round(float(pc.sum(computed["seconds"]).as_py() or 0), 3),
        bytes=total("bytes"),
        precisions=tuple(sorted(parts["precision"].unique().to_pylist())),
        space=run.spec.space,
        finished=now(),
        deduplicated=deduplicated,
        chunks=total("chunks"),
        cut=None if parts["cut"].null_count else total("cut"),
    )

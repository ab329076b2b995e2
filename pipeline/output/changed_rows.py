"""How many rows of changed files a finished run computed again."""

from __future__ import annotations

import pyarrow as pa

from pipeline.errors import NotFound
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run


def changed_rows(output: Output, run: Run, plan: Plan, parts: pa.Table) -> int | None:
    """Rows that the run computed in changed files, beyond the rows that these files grew by.

    Args:
        output: of the run.
        run: whose parts are all there.
        plan: of the run.
        parts: one row per part of the plan, in its order, with the columns of PARTS_SCHEMA.

    Returns:
        The number; None where the run has no record, or the run before it is not there any more.
    """
    import pyarrow.compute as pc

    if run.record is None:
        return None
    changes = run.record.changes
    if not changes.changed:
        return 0
    try:
        before = {file.uri: file.version for file in output.plan(output.run(changes.since)).files}
    except NotFound:
        return None
    changed = [
        index
        for index, file in enumerate(plan.files)
        if before.get(file.uri, file.version) != file.version
    ]
    of_changed = pc.is_in(plan.table["file"], value_set=pa.array(changed, pa.int32()))
    computed = parts.filter(pc.and_(of_changed, pc.equal(parts["job"], run.job)))
    rows = pc.subtract(computed["rows"], computed["reused"])
    return max(0, int(pc.sum(rows).as_py() or 0) - changes.growth)

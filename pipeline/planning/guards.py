"""Plans that would destroy something by accident are refused."""

from __future__ import annotations

from pipeline.errors import OutputConflict
from pipeline.output.manifest import newest
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.store.uris import redact


def guard_output(output: Output, previous: Plan | None, plan: Plan, *, prune: bool) -> None:
    """Refuse an output that holds its own inputs, or would lose most of its rows.

    Args:
        output: where the plan would be carried out.
        previous: the plan of its last run.
        plan: the new one.
        prune: losing rows is meant.

    Raises:
        OutputConflict: naming the file, or the numbers.
    """
    _refuse_inputs_inside(output, plan)
    if not prune:
        for before in (previous, _finished_plan(output)):
            _guard_rows(before, plan)


def _finished_plan(output: Output) -> Plan | None:
    done = newest(output)
    return None if done is None else output.plan(done[0])


def _refuse_inputs_inside(output: Output, plan: Plan) -> None:
    """Refuse an output that holds its own inputs: the next run would read this one's parts.

    Raises:
        OutputConflict: naming the first such file.
    """
    for file in plan.files:
        if file.uri.startswith(output.uri.rstrip("/") + "/"):
            raise OutputConflict(
                f"the output {redact(output.uri)} holds the input {redact(file.uri)}",
                hint="give an --output beside the inputs, or a directory of its own among them",
            )


def _guard_rows(before: Plan | None, after: Plan) -> None:
    """Refuse to drop more than half of what is there without anything in its place.

    Raises:
        OutputConflict: with the numbers.
    """
    if before is None:
        return
    old = {file.uri: sum(c.rows for c in before.cuts()[file.uri]) for file in before.files}
    cuts = after.cuts()
    new = {uri: sum(c.rows for c in cuts[uri]) for uri in cuts}
    gone = sum(max(0, rows - new.get(uri, 0)) for uri, rows in old.items())
    fresh = sum(max(0, rows - old.get(uri, 0)) for uri, rows in new.items())
    if gone - fresh > before.rows / 2:
        raise OutputConflict(
            f"this run would drop {gone} of the {before.rows} rows that the output holds "
            f"and bring {fresh} new ones",
            hint="check that the inputs are all there; --prune drops the rows on purpose",
        )

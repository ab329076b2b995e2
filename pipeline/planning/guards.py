"""Refuse plans that would destroy rows by accident."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import OutputConflict
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.planning.previous import finished_plan
from pipeline.store.uris import redact


def guard_output(output: Output, previous: Plan | None, plan: Plan, *, prune: bool) -> None:
    """Refuse an output that holds its own inputs, or would lose most of its rows.

    Args:
        output: the output of the new run.
        previous: the plan of its last run.
        plan: the plan of the new run.
        prune: rows are dropped on purpose.

    Raises:
        OutputConflict: the message names the file, or the numbers.
    """
    _refuse_inputs_inside(output, plan)
    if not prune:
        committed = output.committed()
        for before in (previous, finished_plan(output)):
            if before is not None:
                # Planned rows without a part do not count.
                _guard_rows(before.rows_by_file(committed), plan.rows_by_file())


def _refuse_inputs_inside(output: Output, plan: Plan) -> None:
    """Refuse an output that holds its own inputs: the next run would read this run's parts.

    Raises:
        OutputConflict: the message names the first such file.
    """
    for file in plan.files:
        if file.uri.startswith(output.uri.rstrip("/") + "/"):
            raise OutputConflict(
                f"the output {redact(output.uri)} holds the input {redact(file.uri)}",
                hint="give an --output next to the inputs, or a new directory among them",
            )


def _guard_rows(held: Mapping[str, int], new: Mapping[str, int]) -> None:
    """Refuse to drop more than half of the rows that an output holds without replacing them.

    Args:
        held: file URI → its rows that the output holds.
        new: file URI → its rows in the new plan.

    Raises:
        OutputConflict: the message gives the numbers.
    """
    dropped = sum(max(0, rows - new.get(uri, 0)) for uri, rows in held.items())
    added = sum(max(0, rows - held.get(uri, 0)) for uri, rows in new.items())
    total = sum(held.values())
    if dropped - added > total / 2:
        raise OutputConflict(
            f"this run would drop {dropped} of the {total} rows that the output holds "
            f"and add {added} new ones",
            hint="check that no input is missing, or drop the rows on purpose with --prune",
        )

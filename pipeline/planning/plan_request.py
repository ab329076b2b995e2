"""Which files, rows and cuts the next run on an output has."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from pipeline.encoder.card import ModelCard
from pipeline.errors import InputError, OutputConflict
from pipeline.input.cutting import PlannedInputs, plan_inputs
from pipeline.input.wanted import Earlier, Sizing, Wanted, named_columns
from pipeline.input.where import canonical_where
from pipeline.output.manifest import newest_finished
from pipeline.output.output import Output
from pipeline.output.plan import Plan, make_plan
from pipeline.output.run import Run, kept_schema
from pipeline.planning.check_request import passing_columns
from pipeline.planning.long_texts import chunk_bytes
from pipeline.planning.previous import Previous, limited
from pipeline.request import Request
from pipeline.spec import JobSpec, schema_hash
from pipeline.store.uris import absolute, redact
from pipeline.tasks import find_task, reserved_columns


def all_inputs(request: Request, last: Run | None, output: Output) -> tuple[str, ...]:
    """The INPUT arguments of this run, after those of the last run with --add.

    Raises:
        OutputConflict: the output has other inputs, and neither --add nor --replace was given.
    """
    given = tuple(dict.fromkeys(absolute(uri) for uri in request.inputs))
    if last is None or set(given) == set(last.inputs) or request.replace:
        return given
    if request.add:
        return (*last.inputs, *(uri for uri in given if uri not in last.inputs))
    earlier = ", ".join(redact(uri) for uri in last.inputs)
    raise OutputConflict(
        f"{redact(output.uri)} holds the results of other inputs: {earlier}",
        hint="give --add to keep them, --replace to drop them, or another --output",
    )


def planned_inputs(
    request: Request, inputs: tuple[str, ...], card: ModelCard, output: Output, last: Run | None
) -> tuple[Previous, PlannedInputs]:
    """The inputs, and the run whose cuts and columns they keep."""
    previous = Previous.of(output, last)
    planned = _plan_inputs(request, inputs, card, previous, last)
    if not (previous.damaged and planned.skipped):
        return previous, planned
    # What the last run failed for had a say in its types: without it, they may be those before.
    finished = newest_finished(output)
    base = finished[0] if finished else None
    before = replace(Previous.of(output, base), damaged=previous.damaged)
    again = _plan_inputs(request, inputs, card, before, base)
    return (before, again) if again.schema != planned.schema else (previous, planned)


def plan_request(
    request: Request,
    spec: JobSpec,
    planned: PlannedInputs,
    output: Output,
    previous: Previous,
) -> Plan:
    """The shards of a job, with those of skipped files that earlier runs committed.

    Raises:
        InputError: there are no rows.
    """
    files = [(file, list(cuts)) for file, cuts in planned.files]
    reading = (where_of(request), request.csv_escape or "")
    if request.limit is not None:
        files = limited(files, request.limit, previous.done(output, *reading))
    kept = previous.kept(output, {uri for uri, _ in planned.skipped}, *reading)
    files = [*(item for item in files if item[0].uri not in kept), *kept.values()]
    schema = schema_hash(kept_schema(spec, planned.schema))
    plan = make_plan(files, space=spec.space, schema=schema, output_format=spec.output_format)
    if not len(plan):
        skipped = f", and {planned.skipped[0][1]}" if planned.skipped else ""
        raise InputError(
            f"no rows in {', '.join(redact(absolute(uri)) for uri in request.inputs)}{skipped}",
            hint="check that these are the intended files"
            + (", and that --where selects rows" if request.where else ""),
        )
    return plan


def where_of(request: Request) -> str:
    """The canonical expression of --where; "" where every row is taken."""
    return canonical_where(request.where) if request.where else ""


def _plan_inputs(
    request: Request,
    inputs: tuple[str, ...],
    card: ModelCard,
    previous: Previous,
    last: Run | None,
) -> PlannedInputs:
    task = find_task(request.task)
    wanted = Wanted(
        columns=passing_columns(request),
        text_columns=task.text_columns(request),
        list_columns=task.list_columns(request),
        output_columns=reserved_columns(request, card),
        optional=() if request.id_column else ("id",),
        free=[name for name in request.keep if name != request.id_column],
        where=where_of(request),
        file_format=request.format or "",
        csv_escape=request.csv_escape or "",
        max_bad_files=request.max_bad_files,
    )
    sizing = Sizing(
        rows_per_shard=request.rows_per_shard or 0,
        row_bytes=task.row_bytes(request, card),
        chunk_bytes=chunk_bytes(request, card),
        token_bytes=task.token_bytes(request, card),
        most_tokens=request.max_length or card.default_max_length,
    )
    earlier = Earlier(
        cuts=previous.cuts,
        schema=_fixed_schema(request, last),
        damaged=previous.damaged,
        # Parts without row keys cannot be copied, and a limit may keep rows of an earlier file.
        widen=last is not None and last.keyed and request.limit is None,
    )
    return plan_inputs(inputs, wanted, sizing, earlier)


def _fixed_schema(request: Request, last: Run | None) -> pa.Schema | None:
    """The schema that the output was planned with; None if this request needs other columns.

    Such a request is refused by name when the output is claimed.
    """
    task = find_task(request.task)
    if last is None:
        return None
    planned = replace(request, keep=named_columns(request.keep, last.columns.names))
    if not {*passing_columns(planned), *task.columns_read(request)} <= set(last.columns.names):
        return None
    return last.columns

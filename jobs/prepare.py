"""From what was typed to a run that can be carried out: resolve, plan, guard, claim, start."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from jobs.request import Request, default_output
from jobs.specify import bytes_per_row, make_spec, resolve_request
from jobs.task_options import check_request, list_columns, passing_columns, text_columns
from pipeline.errors import InputError, OutputConflict
from pipeline.manifest import newest
from pipeline.output import Output, Run, kept_schema
from pipeline.plan import Plan, make_plan
from pipeline.shards import PlannedInputs, plan_inputs
from pipeline.spec import OUTPUT_COLUMNS, Cut, InputFile, JobSpec, schema_hash
from pipeline.storage import absolute, redact
from workers.settings import Settings


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run on an output. `finished`: it was found complete, there is nothing to do."""

    output: Output
    run: Run
    plan: Plan
    finished: bool


def prepare(request: Request, settings: Settings) -> Prepared:
    """Resolve a request against its model, inputs and output, and start or join a run.

    Raises:
        UsageError: options that do not fit each other or the model.
        InputError: inputs that are missing, unreadable, empty or without the columns.
        CheckpointError: a model that is not to be had.
        OutputConflict: an output that holds something else.
        StorageError: an output that cannot be written.
    """
    check_request(request)
    output = Output(request.output or default_output(request.inputs, request.task))
    last = output.latest()
    inputs = _inputs(request, last, output)
    checkpoint, facts = resolve_request(request, settings.cache_dir)
    previous = _Previous.of(output, last)
    planned = plan_inputs(
        inputs,
        columns=passing_columns(request),
        optional=() if request.id_column else ("id",),
        text_columns=text_columns(request),
        list_columns=list_columns(request),
        output_columns=OUTPUT_COLUMNS,
        rows_per_shard=request.rows_per_shard or 0,
        output_width=bytes_per_row(request, facts),
        previous=previous.cuts,
        schema=_fixed_schema(request, last),
    )
    spec = make_spec(request, checkpoint, facts, planned)
    plan = _plan(request, spec, planned, previous)
    if not request.prune:
        _guard_rows(previous.plan, plan)
    output.directory.probe()
    output.claim(spec, planned.schema)
    return _start(output, spec, inputs, request, planned, plan)


@dataclass(frozen=True, slots=True)
class _Previous:
    """The last run's plan: unchanged files keep their cut, and nothing is dropped unnoticed."""

    plan: Plan | None
    cuts: dict[tuple[str, str], tuple[InputFile, list[Cut]]]

    @classmethod
    def of(cls, output: Output, last: Run | None) -> _Previous:
        if last is None:
            return cls(None, {})
        plan = output.plan(last)
        cuts = plan.cuts()
        return cls(plan, {(file.uri, file.version): (file, cuts[file.uri]) for file in plan.files})


def _inputs(request: Request, last: Run | None, output: Output) -> tuple[str, ...]:
    """The INPUT arguments of this run, with those of the last one where --add says so.

    Raises:
        OutputConflict: the output was made from other inputs and nobody said what to do.
    """
    given = tuple(dict.fromkeys(absolute(uri) for uri in request.inputs))
    if last is None or set(given) == set(last.inputs) or request.replace:
        return given
    if request.add:
        return (*last.inputs, *(uri for uri in given if uri not in last.inputs))
    there = ", ".join(redact(uri) for uri in last.inputs)
    raise OutputConflict(
        f"{redact(output.uri)} holds the results of other inputs: {there}",
        hint="--add puts the new inputs beside them, --replace in their place, "
        "another --output leaves them alone",
    )


def _fixed_schema(request: Request, last: Run | None) -> pa.Schema | None:
    """The schema the output was planned with; None where other columns are asked for now.

    Those that ask for other columns are refused when the output is claimed, by name.
    """
    needed = {*passing_columns(request), *text_columns(request), *list_columns(request)}
    if last is None or not needed <= set(last.columns.names):
        return None
    return last.columns


def _plan(request: Request, spec: JobSpec, planned: PlannedInputs, previous: _Previous) -> Plan:
    files = [(file, list(cuts)) for file, cuts in planned.files]
    if request.limit is not None:
        files = _limited(files, request.limit, previous)
    plan = make_plan(files, space=spec.space, schema=schema_hash(kept_schema(spec, planned.schema)))
    if not len(plan):
        raise InputError(
            f"no rows in {', '.join(redact(absolute(uri)) for uri in request.inputs)}",
            hint="check that these are the files you meant",
        )
    return plan


def _limited(
    files: list[tuple[InputFile, list[Cut]]], limit: int, previous: _Previous
) -> list[tuple[InputFile, list[Cut]]]:
    """The first `limit` rows, and whatever the last run had: a limit never removes."""
    chosen: dict[str, tuple[InputFile, list[Cut]]] = {}
    for file, cuts in files:
        kept: list[Cut] = []
        for cut in cuts:
            rows = min(cut.rows, limit)
            limit -= rows
            if rows:
                kept.append(Cut(cut.first_row, rows, cut.byte_offset))
        had = previous.cuts.get((file.uri, file.version))
        if had is not None and sum(c.rows for c in had[1]) >= sum(c.rows for c in kept):
            kept = had[1]
        if kept:
            chosen[file.uri] = (file, kept)
    for (uri, _), had in previous.cuts.items():
        chosen.setdefault(uri, had)
    return list(chosen.values())


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


def _start(
    output: Output,
    spec: JobSpec,
    inputs: tuple[str, ...],
    request: Request,
    planned: PlannedInputs,
    plan: Plan,
) -> Prepared:
    """Join the last run where it is this very plan and still good, else start the next."""
    while True:
        last = output.latest()
        if last is not None and (joined := _join(output, last, spec, plan)):
            _sweep(output, plan)
            return joined
        run = Run(
            output=output.uri,
            n=last.n + 1 if last else 1,
            spec=spec,
            inputs=inputs,
            columns=planned.schema,
            plan=plan.digest,
            files=len(plan.files),
            shards=len(plan),
            rows=plan.rows,
            limit=request.limit,
        )
        if output.start(run, plan) is not None:
            _sweep(output, plan)
            return Prepared(output, run, plan, finished=False)


def _join(output: Output, last: Run, spec: JobSpec, plan: Plan) -> Prepared | None:
    same = last.plan == plan.digest and last.spec.max_failed_rows == spec.max_failed_rows
    if not same or output.cancelled(last) or output.failed(last):
        return None
    done = newest(output)
    if done is not None and done[0].n == last.n:
        if plan.missing(output.committed()):
            return None  # somebody deleted parts: the next run brings them back
        return Prepared(output, last, plan, finished=True)
    return Prepared(output, last, plan, finished=False)


def _sweep(output: Output, plan: Plan) -> None:
    """Remove parts that neither this plan nor the newest manifest asks for."""
    done = newest(output)
    output.sweep(plan.parts | (output.plan(done[0]).parts if done else frozenset()))

"""From what was typed to a run that can be carried out: resolve, plan, guard, claim, start."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import InputError, OutputConflict
from pipeline.input.cutting import PlannedInputs, plan_inputs
from pipeline.output.manifest import newest, sweep
from pipeline.output.output import Output, Run, kept_schema
from pipeline.output.plan import Plan, make_plan
from pipeline.planning.check_request import (
    check_request,
    list_columns,
    passing_columns,
    text_columns,
)
from pipeline.planning.make_spec import bytes_per_row, make_spec, resolve_request
from pipeline.request import Request, default_output
from pipeline.spec import OUTPUT_COLUMNS, Cut, InputFile, JobSpec, schema_hash
from pipeline.store.directory import absolute, redact
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
    plan = _plan(request, spec, planned, output, previous)
    _refuse_inputs_inside(output, plan)
    if not request.prune:
        for before in (previous.plan, _finished_plan(output)):
            _guard_rows(before, plan)
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

    def done(self, output: Output) -> dict[str, tuple[InputFile, list[Cut]]]:
        """File URI → the file as it was, and those of its cuts that are committed."""
        found: dict[str, tuple[InputFile, list[Cut]]] = {}
        if self.plan is not None:
            missing = set(self.plan.missing(output.committed()))
            for shard in self.plan.shards(i for i in range(len(self.plan)) if i not in missing):
                found.setdefault(shard.file.uri, (shard.file, []))[1].append(shard.cut)
        return found


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


def _plan(
    request: Request,
    spec: JobSpec,
    planned: PlannedInputs,
    output: Output,
    previous: _Previous,
) -> Plan:
    files = [(file, list(cuts)) for file, cuts in planned.files]
    if request.limit is not None:
        files = _limited(files, request.limit, previous.done(output))
    plan = make_plan(files, space=spec.space, schema=schema_hash(kept_schema(spec, planned.schema)))
    if not len(plan):
        raise InputError(
            f"no rows in {', '.join(redact(absolute(uri)) for uri in request.inputs)}",
            hint="check that these are the files you meant",
        )
    return plan


def _limited(
    files: list[tuple[InputFile, list[Cut]]],
    limit: int,
    done: dict[str, tuple[InputFile, list[Cut]]],
) -> list[tuple[InputFile, list[Cut]]]:
    """The first `limit` rows, and what is committed already: a limit never removes.

    A file of which more rows are committed than the limit asks for stays as it is, even where
    it changed since.
    """
    chosen: dict[str, tuple[InputFile, list[Cut]]] = {}
    for file, cuts in files:
        kept: list[Cut] = []
        for cut in cuts:
            rows = min(cut.rows, limit)
            limit -= rows
            if rows:
                kept.append(Cut(cut.first_row, rows, cut.byte_offset))
        had = done.get(file.uri)
        if had is not None and sum(c.rows for c in had[1]) >= sum(c.rows for c in kept):
            chosen[file.uri] = had
        elif kept:
            chosen[file.uri] = (file, kept)
    for uri, had in done.items():
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
        if last is not None and (joined := _join(output, last, spec, inputs, plan)):
            sweep(output)
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
            sweep(output)
            return Prepared(output, run, plan, finished=False)


def _join(
    output: Output, last: Run, spec: JobSpec, inputs: tuple[str, ...], plan: Plan
) -> Prepared | None:
    same = (
        last.plan == plan.digest
        and set(last.inputs) == set(inputs)
        and last.spec.max_failed_rows == spec.max_failed_rows
        and last.spec.token_budget == spec.token_budget
    )
    if not same or output.cancelled(last) or output.failed(last):
        return None
    done = newest(output)
    if done is not None and done[0].n == last.n:
        if plan.missing(output.committed()):
            return None  # somebody deleted parts: the next run brings them back
        return Prepared(output, last, plan, finished=True)
    return Prepared(output, last, plan, finished=False)

"""What the next run on an output would be: resolved, planned and guarded, nothing written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipeline.choice import Choice, Choices
from pipeline.encoder.card import ModelCard
from pipeline.input.cutting import PlannedInputs
from pipeline.input.wanted import named_columns
from pipeline.input.where import where_columns
from pipeline.output.certificate import Certificate, find_certificate
from pipeline.output.kept_precision import kept_precision
from pipeline.output.manifest import newest_finished
from pipeline.output.output import Output
from pipeline.output.part_format import refuse_columns
from pipeline.output.plan import Plan
from pipeline.output.run import KEYED_FORMAT, Run, kept_schema
from pipeline.planning.changes import record_of
from pipeline.planning.check_request import check_request
from pipeline.planning.choices import planning_choices, table_choices, without_effect
from pipeline.planning.default_output import default_output
from pipeline.planning.guards import guard_output
from pipeline.planning.long_texts import check_kept, check_room
from pipeline.planning.make_spec import as_begun, make_spec, resolve_model
from pipeline.planning.plan_request import all_inputs, plan_request, planned_inputs, where_of
from pipeline.planning.previous import Previous
from pipeline.request import Request
from pipeline.spec import MAX_FAILED_ROWS, JobSpec
from pipeline.store.uris import absolute
from pipeline.tasks import find_task

# That of this version, and that of earlier ones, which allowed fewer failed rows.
_DEFAULT_BUDGETS = {MAX_FAILED_ROWS, "1%"}


@dataclass(frozen=True, slots=True)
class Draft:
    """What the next run on an output would be; nothing is written."""

    request: Request
    output: Output
    last: Run | None  # the highest run of the output
    previous: Previous
    inputs: tuple[str, ...]
    card: ModelCard
    planned: PlannedInputs
    spec: JobSpec
    plan: Plan
    certificate: Certificate | None = None  # of the model

    @property
    def schema(self) -> pa.Schema:
        """The columns of the input: id, kept and task columns, and those that select rows."""
        return self.planned.schema

    def run(self, stored_format: int, matched: int = 0) -> Run:
        """The run after the last one, not started.

        Args:
            stored_format: of the output.
            matched: rows that were found in earlier parts.
        """
        return Run(
            output=self.output.uri,
            n=self.last.n + 1 if self.last else 1,
            spec=self.spec,
            inputs=self.inputs,
            columns=self.schema,
            plan=self.plan.digest,
            files=len({file.uri for file in self.plan.files}.union(dict(self.planned.skipped))),
            shards=len(self.plan),
            rows=self.plan.rows,
            limit=self.request.limit,
            format=stored_format,
            matched=matched,
            reuse_from=absolute(self.request.reuse_from) if self.request.reuse_from else "",
            skipped=self.planned.skipped,
            tables=self.planned.tables,
            record=record_of(
                self.output, self.last, self.previous.plan, self.plan, self.certificate
            ),
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that the task reads, in its order."""
        return find_task(self.spec.task).columns_read(self.spec)

    @property
    def columns_read(self) -> pa.Schema:
        """The columns of texts, and those that select rows."""
        needed = {*self.texts, *where_columns(where_of(self.request))}
        return pa.schema([field for field in self.schema if field.name in needed])

    @property
    def choices(self) -> Choices:
        """What planning chose, by option."""
        chosen = planning_choices(self.request, self.spec, self.card, self.output.uri)
        unused = without_effect(self.request, self.planned)
        return {**table_choices(self.planned.tables), **chosen, **unused}

    def joined(self) -> tuple[Run, bool] | None:
        """The last run, if this is the same one, and whether it is finished."""
        output, last, plan = self.output, self.last, self.plan
        if last is None:
            return None
        same = (
            last.plan == plan.digest
            and last.skipped == self.planned.skipped
            and set(last.inputs) == set(self.inputs)
            and last.spec.token_budget == self.spec.token_budget
        )
        if not same or output.cancelled(last) or output.failed(last):
            return None
        budgets = {last.spec.max_failed_rows, self.spec.max_failed_rows}
        finished = newest_finished(output)
        if finished is not None and finished[0].n == last.n:
            if plan.missing(output.committed()):
                return None  # parts were deleted: the next run computes them again
            same = len(budgets) == 1 or budgets == _DEFAULT_BUDGETS
            return (last, True) if same else None
        return (last, False) if len(budgets) == 1 else None

    def kept_precision(self) -> Choice[str] | None:
        """The precision that the output keeps, where the user names none."""
        if self.spec.precision != "auto":
            return None
        other = self.request.reuse_from
        return kept_precision(self.output, absolute(other) if other else "")

    def reused_outputs(self, stored_format: int) -> list[Output] | None:
        """The other outputs whose rows may be copied; None where no row may be.

        Raises:
            NotFound, OutputConflict: --reuse-from has no job, or other values.
        """
        request = self.request
        others = [] if request.reuse_from is None else [Output(request.reuse_from)]
        for other in others:
            other.require_space(self.spec, self.schema)
        return None if stored_format < KEYED_FORMAT and not others else others


def draft(request: Request, cache_dir: Path, card: ModelCard | None = None) -> Draft:
    """Resolve a request against its model, inputs and output. Nothing is written.

    Args:
        request: the options of `submit`.
        cache_dir: where downloaded checkpoints are cached.
        card: of the model, if it was just read.

    Raises:
        BeiJobsError: as `prepare`, but that the output cannot be written is not noticed.
    """
    check_request(request)
    output = Output(request.output or default_output(request.inputs, request.task))
    last = output.latest()
    inputs = all_inputs(request, last, output)
    card = card or resolve_model(request, cache_dir)
    previous, planned = planned_inputs(request, inputs, card, output, last)
    request = replace(request, keep=named_columns(request.keep, planned.schema.names))
    spec = as_begun(make_spec(request, card, planned), request, last)
    check_kept(spec)
    if last is None:
        check_room(spec, card)
    refuse_columns(spec.output_format, kept_schema(spec, planned.schema))
    plan = plan_request(request, spec, planned, output, previous)
    guard_output(output, previous.plan, plan, prune=request.prune)
    drafted = Draft(request, output, last, previous, inputs, card, planned, spec, plan)
    return replace(drafted, certificate=_certificate(drafted, cache_dir))


def _certificate(drafted: Draft, cache_dir: Path) -> Certificate | None:
    """The certificate of the model, in the precision that the output keeps if that is known."""
    certificate = find_certificate(cache_dir, drafted.spec)
    kept = drafted.kept_precision() if certificate else None
    if certificate is None or kept is None or kept.value == certificate.precision:
        return certificate
    return find_certificate(cache_dir, drafted.spec.computed_in(kept.value))

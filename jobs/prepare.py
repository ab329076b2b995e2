"""From what was typed to a run that can be carried out: resolve, plan, guard, claim, start."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.task_options import check_task_options, list_columns, text_columns
from pipeline.encoder.checkpoint import Checkpoint, resolve
from pipeline.encoder.describe import describe
from pipeline.errors import InputError, OutputConflict, UsageError
from pipeline.manifest import newest
from pipeline.output import Output, Run, kept_schema
from pipeline.plan import Plan, make_plan
from pipeline.shards import PlannedInputs, plan_inputs
from pipeline.spec import (
    OUTPUT_COLUMNS,
    Cut,
    InputFile,
    JobSpec,
    ModelIdentity,
    schema_hash,
)
from pipeline.storage import absolute, redact
from workers.settings import Settings

_DATA_SUFFIXES = re.compile(
    r"(\.(parquet|pq|arrow|feather|ipc|jsonl|ndjson|json|csv|tsv))?(\.(gz|zst))?$", re.IGNORECASE
)
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was typed, unresolved: the options of `submit` by name."""

    inputs: tuple[str, ...]
    model: str
    output: str | None = None
    revision: str | None = None
    task: Any = "embed"
    text_column: str = "text"
    query_column: str = "query"
    documents_column: str = "documents"
    document_column: str | None = None
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    prompt_name: str | None = None
    prompt: str | None = None
    max_length: int | None = None
    truncate: Any = "right"
    dimensions: int | None = None
    output_dtype: Any = "float32"
    normalize: bool | None = None
    top_k: int | None = None
    raw_scores: bool = False
    aggregation: Any = "simple"
    precision: Any = "auto"
    token_budget: int | None = None
    rows_per_shard: int | None = None
    limit: int | None = None
    add: bool = False
    replace: bool = False
    prune: bool = False
    max_failed_rows: str = "1%"


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
    _check(request)
    output = Output(request.output or default_output(request.inputs, request.task))
    last = output.latest()
    inputs = _inputs(request, last, output)
    # A fleet's workers, and this command elsewhere, do not share our working directory.
    model = os.path.abspath(request.model) if os.path.isdir(request.model) else request.model
    checkpoint = resolve(model, request.revision, cache_dir=settings.cache_dir)
    facts = describe(checkpoint, request.task)
    _check_dimensions(request, facts)
    previous = _Previous.of(output, last)
    planned = plan_inputs(
        inputs,
        columns=_passing(request),
        optional=() if request.id_column else ("id",),
        text_columns=text_columns(request),
        list_columns=list_columns(request),
        output_columns=OUTPUT_COLUMNS,
        rows_per_shard=request.rows_per_shard or 0,
        output_width=_bytes_per_row(request, facts),
        previous=previous.cuts,
        schema=_fixed_schema(request, last),
    )
    spec = _spec(request, checkpoint, facts, planned)
    plan = _plan(request, spec, planned, previous)
    if not request.prune:
        _guard_rows(previous.plan, plan)
    output.directory.probe()
    output.claim(spec, planned.schema)
    return _start(output, spec, inputs, request, planned, plan)


def default_output(inputs: Sequence[str], task: str) -> str:
    """Beside the input: `corpus.parquet` → `corpus.embed`, `data/` and `data/*.csv` → `data.embed`.

    Named after the task, so that one corpus can be embedded and classified side by side.

    Raises:
        UsageError: there are several inputs, so that no place is beside them all.
    """
    if len(inputs) != 1:
        raise UsageError(
            "several inputs need an --output", hint="give one, such as --output vectors/"
        )
    uri = absolute(inputs[0])
    while _MAGIC.search(uri):
        uri = uri.rstrip("/").rpartition("/")[0]
    return _DATA_SUFFIXES.sub("", uri.rstrip("/")) + f".{task}"


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


def _check(request: Request) -> None:
    if not request.inputs:
        raise UsageError("no INPUT", hint="bei-jobs submit corpus.parquet")
    if request.prompt is not None and request.prompt_name is not None:
        raise UsageError("--prompt and --prompt-name exclude each other", hint="give one of them")
    if request.add and request.replace:
        raise UsageError("--add and --replace exclude each other", hint="give one of them")
    check_task_options(request)


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


def _passing(request: Request) -> tuple[str, ...]:
    """The columns that were asked to pass through, the id first."""
    names = [request.id_column] if request.id_column else []
    return tuple(dict.fromkeys([*names, *request.keep]))


def _fixed_schema(request: Request, last: Run | None) -> pa.Schema | None:
    """The schema the output was planned with; None where other columns are asked for now.

    Those that ask for other columns are refused when the output is claimed, by name.
    """
    needed = {*_passing(request), *text_columns(request), *list_columns(request)}
    if last is None or not needed <= set(last.columns.names):
        return None
    return last.columns


def _bytes_per_row(request: Request, facts: dict[str, Any]) -> int:
    """Estimated size of an output row, which bounds the rows of a shard."""
    value = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 1 / 8}[request.output_dtype]
    return int((request.dimensions or facts.get("dimensions", 64)) * value) + 64


def _spec(
    request: Request, checkpoint: Checkpoint, facts: dict[str, Any], planned: PlannedInputs
) -> JobSpec:
    columns = planned.schema.names
    identity = ("name", "revision", "sha256", "fingerprint", "task", "max_length", "prompts")
    return JobSpec(
        task=request.task,
        model=ModelIdentity(
            checkpoint.name, checkpoint.revision, checkpoint.sha256, checkpoint.fingerprint
        ),
        # Through JSON, so that it equals what is read back from where it is written.
        encoder=json.loads(json.dumps({k: v for k, v in facts.items() if k not in identity})),
        text_column=request.text_column,
        query_column=request.query_column,
        documents_column=request.documents_column,
        document_column=request.document_column,
        id_column=request.id_column or ("id" if "id" in columns else None),
        keep=(*request.keep, *(k for k in planned.partition if k not in request.keep)),
        prompt=_prompt(request, facts),
        max_length=_max_length(request, facts),
        truncate=request.truncate,
        dimensions=request.dimensions,
        output_dtype=request.output_dtype,
        normalize=request.normalize,
        top_k=request.top_k,
        raw_scores=request.raw_scores,
        aggregation=request.aggregation,
        precision=request.precision,
        token_budget=request.token_budget,
        rows_per_shard=request.rows_per_shard,
        max_failed_rows=request.max_failed_rows,
    )


def _prompt(request: Request, facts: dict[str, Any]) -> str:
    """The literal prompt: as given, by name, or the model's default."""
    prompts: dict[str, str] = facts.get("prompts") or {}
    if request.prompt is not None:
        return request.prompt
    name = request.prompt_name or facts.get("default_prompt_name")
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(sorted(prompts)) or "none"
        raise UsageError(
            f"{request.model} has no prompt named {name!r}",
            hint=f"its prompts are: {known}; or give the text itself with --prompt",
        )
    return prompts[name]


def _max_length(request: Request, facts: dict[str, Any]) -> int:
    limit: int | None = facts.get("max_length")
    positions = (facts.get("encoder") or {}).get("max_length")
    if request.max_length is None:
        return limit or 512
    if positions is not None and request.max_length > positions:
        raise UsageError(
            f"--max-length {request.max_length} is more than the {positions} tokens that "
            f"{request.model} has positions for",
            hint=f"give at most {positions}",
        )
    return request.max_length


def _check_dimensions(request: Request, facts: dict[str, Any]) -> None:
    """Refuse what no vector of the model can become, before the output is claimed for it."""
    size: int | None = facts.get("dimensions")
    if size is None:
        return
    if request.dimensions is not None and request.dimensions > size:
        raise UsageError(
            f"--dimensions {request.dimensions} is more than the {size} of {request.model}",
            hint=f"give at most {size}",
        )
    width = request.dimensions or size
    if request.output_dtype == "binary" and width % 8:
        raise UsageError(
            f"--output-dtype binary packs 8 dimensions a byte, and {width} is no multiple of 8",
            hint="choose --dimensions as a multiple of 8",
        )


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

"""A request and a model → the frozen spec of the job."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pipeline.encoder.card import ModelCard, open_card
from pipeline.errors import UsageError
from pipeline.input.cutting import PlannedInputs
from pipeline.output.run import Run
from pipeline.output.source_columns import SOURCE_NAMES
from pipeline.planning.long_texts import check_chunks, chunk_fields
from pipeline.request import Request
from pipeline.spec import JobSpec, Kind, ModelIdentity, Precision
from pipeline.tasks import Task, encoder_identity, find_task, task_of


def resolve_model(request: Request, cache_dir: Path) -> ModelCard:
    """The model of a request, checked against its task and options.

    Raises:
        CheckpointError: it cannot be found, or cannot do the task.
        UsageError: an option does not fit the model.
    """
    # Workers, and later runs of this command, may have another working directory.
    model = os.path.abspath(request.model) if os.path.isdir(request.model) else request.model
    card = open_card(model, request.revision, cache_dir=cache_dir, kind=request.kind or "")
    task_of(card, request.task).check_model(request, card)
    check_chunks(request, card)
    return card


def make_spec(request: Request, card: ModelCard, planned: PlannedInputs) -> JobSpec:
    """The spec of a request, given its model and planned inputs.

    Raises:
        UsageError: the model has no prompt of that name, would lose the prompt by truncation, or
            has fewer positions than --max-length.
    """
    id_column = request.id_column or ("id" if "id" in planned.schema.names else None)
    task = find_task(request.task)
    vectors = task.vectors(request, card)
    keep = (*request.keep, *(k for k in planned.partition if k not in request.keep))
    max_length = _max_length(request, card)
    return JobSpec(
        task=request.task,
        model=model_identity(card),
        encoder=encoder_identity(task, card, vectors),
        text_column=request.text_column,
        query_column=request.query_column,
        documents_column=request.documents_column,
        document_column=request.document_column,
        id_column=id_column,
        keep=keep,
        source_columns=id_column is None and not set(keep).intersection(SOURCE_NAMES),
        prompt=task.prompt(request, card),
        max_length=max_length,
        truncate=task.truncate(request, card),
        **chunk_fields(request, max_length),
        vectors=vectors,
        kind=kind_of(card, task),
        dimensions=request.dimensions[0] if request.dimensions else None,
        more_dimensions=request.dimensions[1:],
        output_dtype=request.output_dtype[0],
        more_output_dtypes=request.output_dtype[1:],
        sparse_top_k=request.sparse_top_k,
        sparse_terms=request.sparse_terms,
        token_offsets=request.token_offsets,
        output_format=request.output_format or "arrow",
        normalize=request.normalize,
        top_k=request.top_k,
        raw_scores=request.raw_scores,
        aggregation=request.aggregation,
        all_labels=request.raw_scores and request.aggregation == "none",
        precision=request.precision,
        token_budget=request.token_budget,
        rows_per_shard=request.rows_per_shard,
        max_failed_rows=request.max_failed_rows,
    )


def as_begun(spec: JobSpec, request: Request, last: Run | None) -> JobSpec:
    """A spec, but that an output keeps its format, and its columns if an earlier version began it.

    Args:
        spec: of the request.
        request: where it names no format, that of the output is taken.
        last: the highest run of its output.
    """
    if last is None:
        return spec
    if request.output_format is None:
        spec = replace(spec, output_format=last.spec.output_format)
    if _without_key(last.spec):
        spec = replace(spec, source_columns=False)
    begun = replace(spec, all_labels=False)
    return begun if last.spec.space == begun.space else spec


def _without_key(spec: JobSpec) -> bool:
    """Whether rows have neither an id nor a source, as in earlier versions."""
    taken = set(spec.keep).intersection(SOURCE_NAMES)
    return spec.id_column is None and not spec.source_columns and not taken


def sample_spec(
    card: ModelCard, task: str, *, precision: Precision, max_length: int | None
) -> JobSpec:
    """A spec for a sample with the model's own settings; without a prompt before single texts."""
    found = find_task(task)
    request = Request(inputs=(), model=card.name, task=task)
    pairs = card.head == "sequence_classifier"
    vectors = found.vectors(request, card)
    prompted = pairs or "multi" in vectors  # a ColBERT's markers are prompts
    return JobSpec(
        task=task,
        model=model_identity(card),
        encoder=encoder_identity(found, card, vectors),
        vectors=vectors,
        kind=kind_of(card, found),
        prompt=found.prompt(request, card) if prompted else "",
        truncate=found.truncate(request, card),
        max_length=max_length or card.default_max_length,
        precision=precision,
    )


def kind_of(card: ModelCard, task: type[Task]) -> Kind | None:
    """The kind of text that a card was read for; None where the model, or the task, does not tell
    them apart.
    """
    kind = card.kind if task.head == card.head else card.checkpoint.files.kind
    return next((known for known in get_args(Kind) if known == kind), None)


def model_identity(card: ModelCard) -> ModelIdentity:
    """Which weights, exactly, for a spec."""
    checkpoint = card.checkpoint
    return ModelIdentity(
        checkpoint.name, checkpoint.revision, checkpoint.sha256, checkpoint.fingerprint
    )


def _max_length(request: Request, card: ModelCard) -> int:
    if request.max_length is None:
        return card.default_max_length
    positions = card.positions
    if positions is not None and request.max_length > positions:
        raise UsageError(
            f"--max-length {request.max_length} is more than the {positions} tokens that "
            f"{request.model} has positions for",
            hint=f"give at most {positions}",
        )
    return request.max_length

"""A request and a model → the frozen spec of the job."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.encoder.card import describe
from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.errors import UsageError
from pipeline.input.cutting import PlannedInputs
from pipeline.planning.resolve_model import identity
from pipeline.request import Request
from pipeline.spec import JobSpec

#: Facts of a model that the spec holds elsewhere, or that decide no value.
_HELD_ELSEWHERE = ("name", "revision", "sha256", "fingerprint", "task", "max_length", "prompts")
_DEFAULT_MAX_LENGTH = 512


def resolve_request(request: Request, cache_dir: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """The model of a request and what it resolves to for the task.

    Raises:
        CheckpointError: it is not to be had, or cannot do the task.
        UsageError: an option asks for what its vectors cannot become.
    """
    # A fleet's workers, and this command elsewhere, do not share our working directory.
    model = os.path.abspath(request.model) if os.path.isdir(request.model) else request.model
    checkpoint = resolve(model, request.revision, cache_dir=cache_dir)
    facts = describe(checkpoint, request.task)
    _check_dimensions(request, facts)
    return checkpoint, facts


def bytes_per_row(request: Request, facts: dict[str, Any]) -> int:
    """Estimated size of an output row, which bounds the rows of a shard."""
    value = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 1 / 8}[request.output_dtype]
    return int((request.dimensions or facts.get("dimensions", 64)) * value) + 64


def make_spec(
    request: Request, checkpoint: Checkpoint, facts: dict[str, Any], planned: PlannedInputs
) -> JobSpec:
    """The spec of a request against a model and planned inputs.

    Raises:
        UsageError: a prompt that the model does not have or would lose, or more tokens than it
            has positions.
    """
    columns = planned.schema.names
    return JobSpec(
        task=request.task,
        model=identity(checkpoint),
        # Through JSON, so that it equals what is read back from where it is written.
        encoder=json.loads(
            json.dumps({k: v for k, v in facts.items() if k not in _HELD_ELSEWHERE})
        ),
        text_column=request.text_column,
        query_column=request.query_column,
        documents_column=request.documents_column,
        document_column=request.document_column,
        id_column=request.id_column or ("id" if "id" in columns else None),
        keep=(*request.keep, *(k for k in planned.partition if k not in request.keep)),
        prompt=_whole_prompt(request, facts),
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


def _whole_prompt(request: Request, facts: dict[str, Any]) -> str:
    """The literal prompt, refused where it would be cut off and yet be left out of pooling."""
    prompt = _prompt(request, facts)
    if prompt and request.truncate == "left" and not facts.get("include_prompt", True):
        raise UsageError(
            f"--truncate left would take the prompt off long texts, and the pooling of "
            f"{request.model} leaves out as many tokens as the prompt has: those of the text",
            hint="use --truncate right or error, or --prompt '' for no prompt",
        )
    return prompt


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
        return limit or _DEFAULT_MAX_LENGTH
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

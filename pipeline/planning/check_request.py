"""Which options belong to which task, and which columns of the input a task reads."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.store.directory import redact

if TYPE_CHECKING:
    from pipeline.request import Request

#: Options that only some tasks know; the others belong to all.
_TASKS_OF = {
    "text_column": ("embed", "classify", "tag"),
    "query_column": ("rerank",),
    "documents_column": ("rerank",),
    "document_column": ("rerank",),
    "prompt": ("embed",),
    "prompt_name": ("embed",),
    "dimensions": ("embed",),
    "output_dtype": ("embed",),
    "normalize": ("embed",),
    "top_k": ("classify",),
    "raw_scores": ("rerank", "classify", "tag"),
    "aggregation": ("tag",),
}


def check_request(request: Request) -> None:
    """Refuse options that do not go together, or not with the task.

    Raises:
        UsageError: naming them.
    """
    if not request.inputs:
        raise UsageError("no INPUT", hint="bei-jobs submit corpus.parquet")
    for uri in (*request.inputs, request.output or "", request.model):
        if redact(uri) != uri:
            raise UsageError(
                f"{redact(uri)} was given with a password or a signature, which the job would "
                "keep in clear",
                hint="set credentials in the environment (AWS_*, GOOGLE_*, AZURE_*), or fetch the "
                "file first",
            )
    if request.prompt is not None and request.prompt_name is not None:
        raise UsageError("--prompt and --prompt-name exclude each other", hint="give one of them")
    if request.add and request.limit is not None:
        raise UsageError(
            "--add and --limit exclude each other: it would not be clear whose rows are meant",
            hint="try the new inputs in an output of their own first",
        )
    if request.add and request.replace:
        raise UsageError("--add and --replace exclude each other", hint="give one of them")
    _check_task_options(request)


def _check_task_options(request: Request) -> None:
    """Refuse options that would have no effect, or none that makes sense, with the task.

    Raises:
        UsageError: naming the option and the tasks it belongs to.
    """
    for field in dataclasses.fields(request):
        tasks = _TASKS_OF.get(field.name)
        given = getattr(request, field.name) != field.default
        if tasks is not None and given and request.task not in tasks:
            raise UsageError(
                f"{_option(field.name)} does not belong to --task {request.task}",
                hint=f"leave it out; it belongs to --task {' or '.join(tasks)}",
            )
    if request.task == "rerank":
        _check_rerank(request)
    if request.task == "tag":
        _check_tag(request)


def _check_rerank(request: Request) -> None:
    if request.document_column is not None and request.documents_column != "documents":
        raise UsageError(
            "--document-column and --documents-column exclude each other",
            hint="give the first for one pair a row, the second for a list of documents a row",
        )
    if request.query_column in (request.document_column, request.documents_column):
        raise UsageError(
            f"the query and the documents are the same column, {request.query_column!r}",
            hint="name them with --query-column, and --documents-column or --document-column",
        )


def _check_tag(request: Request) -> None:
    if request.truncate == "left":
        raise UsageError(
            "--truncate left does not belong to --task tag, which cuts nothing off: a text longer "
            "than --max-length is read in overlapping windows",
            hint="leave it out, or refuse long texts with --truncate error",
        )
    if request.raw_scores and request.aggregation != "none":
        raise UsageError(
            "--raw-scores needs --aggregation none: the score of an entity is a mean of "
            "probabilities",
            hint="give both, or neither",
        )


def passing_columns(request: Request) -> tuple[str, ...]:
    """The columns that were asked to pass through, the id first."""
    names = [request.id_column] if request.id_column else []
    return tuple(dict.fromkeys([*names, *request.keep]))


def text_columns(request: Request) -> tuple[str, ...]:
    """The columns of texts that the task reads."""
    if request.task != "rerank":
        return (request.text_column,)
    document = request.document_column
    return (request.query_column,) if document is None else (request.query_column, document)


def list_columns(request: Request) -> tuple[str, ...]:
    """The columns of lists of texts that the task reads."""
    pairs = request.document_column is not None
    return (request.documents_column,) if request.task == "rerank" and not pairs else ()


def _option(field: str) -> str:
    if field == "normalize":
        return "--normalize/--no-normalize"
    return f"--{field.replace('_', '-')}"

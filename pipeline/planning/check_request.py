"""Options that exclude each other or do not fit the task are refused before anything is read."""

from __future__ import annotations

import dataclasses

from pipeline.errors import UsageError
from pipeline.input.where import canonical_where
from pipeline.planning.long_texts import check_long_texts
from pipeline.request import Request
from pipeline.spec import failure_budget
from pipeline.store.uris import is_web, redact, refuse_credentials
from pipeline.tasks import TASKS, find_task


def check_request(request: Request) -> None:
    """Refuse options that exclude each other or do not fit the task.

    Raises:
        UsageError: the message names them.
    """
    if not request.inputs:
        raise UsageError("no INPUT", hint="bei-jobs submit corpus.parquet")
    for uri in (*request.inputs, request.output or "", request.reuse_from or "", request.model):
        refuse_credentials(uri)
    if request.output and is_web(request.output):
        raise UsageError(
            f"--output {redact(request.output)}: a web server takes no files",
            hint="give a directory or a bucket, such as s3://bucket/vectors",
        )
    if request.prompt is not None and request.prompt_name is not None:
        raise UsageError(
            "--prompt and --prompt-name cannot be used together", hint="give one of them"
        )
    prompts = {request.prompt, request.prompt_name} - {None}
    if request.instruction is not None and prompts:
        raise UsageError(
            "--instruction and --prompt or --prompt-name cannot be used together: they set the "
            "same text",
            hint="give one of them",
        )
    if request.add and request.limit is not None:
        raise UsageError(
            "--add and --limit cannot be used together: it is unclear which inputs the limit is "
            "for",
            hint="try the new inputs with a separate --output first",
        )
    if request.add and request.replace:
        raise UsageError("--add and --replace cannot be used together", hint="give one of them")
    failure_budget(request.max_bad_files, 0, "--max-bad-files")
    if request.where:
        canonical_where(request.where)
    _check_csv_escape(request.csv_escape)
    _check_task_options(request)


def _check_csv_escape(escape: str | None) -> None:
    if escape is not None and (
        len(escape) != 1 or not escape.isascii() or not escape.isprintable() or escape in '",'
    ):
        raise UsageError(
            f"--csv-escape {escape!r} is not one ASCII character other than a quote and a comma",
            hint='give \'\\\\\' for files in which a quote is \\"; "" needs no option',
        )


def _check_task_options(request: Request) -> None:
    """Refuse options that would have no effect, or make no sense, with the task.

    Raises:
        UsageError: the message names the option and the tasks that it belongs to.
    """
    task = find_task(request.task)
    for field in dataclasses.fields(request):
        owners = [owner.name for owner in TASKS.values() if field.name in owner.options]
        if owners and not request.is_default(field.name) and task.name not in owners:
            raise UsageError(
                f"{_option(field.name)} does not belong to --task {task.name}",
                hint=f"omit it; it belongs to --task {' or '.join(owners)}",
            )
    check_long_texts(request)
    task.check_request(request)


def passing_columns(request: Request) -> tuple[str, ...]:
    """The columns that pass through by request, the id first."""
    names = [request.id_column] if request.id_column else []
    return tuple(dict.fromkeys([*names, *request.keep]))


def _option(field: str) -> str:
    if field == "normalize":
        return "--normalize/--no-normalize"
    return f"--{field.replace('_', '-')}"

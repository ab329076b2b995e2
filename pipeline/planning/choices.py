"""The settings that planning chose for the user, with the reasons."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.choice import Choice, Choices
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.checkpoint import is_hub_name
from pipeline.encoder.checkpoint.hub import DEFAULT_PACKAGE
from pipeline.input.cuts import DEFAULT_ROWS_PER_SHARD, default_rows_per_shard
from pipeline.input.cutting import PlannedInputs
from pipeline.input.table_file import ReadTable
from pipeline.output.source_columns import SOURCE_NAMES
from pipeline.planning.long_texts import chunk_choices
from pipeline.request import Request
from pipeline.spec import JobSpec
from pipeline.store.uris import redact
from pipeline.tasks import find_task


def planning_choices(request: Request, spec: JobSpec, card: ModelCard, output: str) -> Choices:
    """Option → its choice, for options that the user did not give."""
    choices: dict[str, Choice[object]] = {}
    if request.output is None:
        choices["output"] = Choice(redact(output), "next to the input, named after the task")
    if request.revision is None and (revision := revision_choice(card)) is not None:
        choices["revision"] = revision
    if request.output_format is None and spec.output_format != "arrow":
        choices["output-format"] = Choice(spec.output_format, "as this output was begun")
    if request.id_column is None:
        choices["id-column"] = _id_column(spec)
    choices |= _text_columns(request)
    if any("," in name for name in spec.keep):
        choices["keep"] = Choice(spec.keep, "a column has a comma in its name")
    if request.max_length is None:
        stated = card.max_length is not None
        reason = "the model's own limit" if stated else "the model states no limit"
        choices["max-length"] = Choice(spec.max_length, reason)
    if request.end is None and spec.truncate != "right":
        reason = "the side that the model's tokenizer names: truncation_side"
        choices["truncate"] = Choice(spec.truncate, reason)
    choices |= chunk_choices(request, spec)
    if card.tokenizer.note:
        choices["tokenizer"] = Choice("tokenizer.json", card.tokenizer.note)
    if request.rows_per_shard is None:
        choices["rows-per-shard"] = _rows_per_shard(request, card)
    return choices | model_choices(card) | dict(find_task(request.task).choices(request, card))


def table_choices(tables: Sequence[ReadTable]) -> dict[str, Choice[object]]:
    """The versions of tables that are read."""
    if not tables:
        return {}
    return {"table": Choice("; ".join(map(str, tables)), "the current one")}


def without_effect(request: Request, planned: PlannedInputs) -> dict[str, Choice[object]]:
    """Options about formats that no input has: each is named, so that it is not silent."""
    found: dict[str, Choice[object]] = {}
    if request.csv_escape and not any(file.is_csv for file, _ in planned.files):
        found["csv-escape"] = Choice(request.csv_escape, "no effect: no input is CSV")
    if request.format and planned.tables:
        found["format"] = Choice(request.format, "no effect on tables: their files are Parquet")
    return found


def model_choices(card: ModelCard) -> dict[str, Choice[object]]:
    """What the files of a model leave open."""
    found: dict[str, Choice[object]] = {}
    if base := card.checkpoint.base:
        found["base"] = Choice(base, "the model is a LoRA adapter, which is applied to it")
    if card.head == "embedding" and (assumed := card.modules.assumed):
        found["pooling"] = Choice(", ".join(card.modules.pooling), assumed)
    return found


def not_set_by_user(choices: Choices, spec: JobSpec) -> Choices:
    """The choices that the user left to the engine."""
    set_by_user = {
        "precision": spec.precision != "auto",
        "token-budget": spec.token_budget is not None,
    }
    return {name: choice for name, choice in choices.items() if not set_by_user.get(name)}


def revision_choice(card: ModelCard) -> Choice[object] | None:
    """The commit of a hub model that was given without --revision; None for a directory."""
    checkpoint = card.checkpoint
    if checkpoint.revision:
        return Choice(checkpoint.revision, "the main branch of the repository on the hub")
    if not is_hub_name(checkpoint.name):
        return None
    package = DEFAULT_PACKAGE.replace("_", "-")
    return Choice("none", f"the published weights, from the package {package}")


def _rows_per_shard(request: Request, card: ModelCard) -> Choice[object]:
    rows = default_rows_per_shard(find_task(request.task).row_bytes(request, card))
    if rows < DEFAULT_ROWS_PER_SHARD:
        return Choice(rows, "at most, so that a part stays below 256 MB")
    return Choice(rows, "at most; an unchanged file keeps its earlier cuts")


def _id_column(spec: JobSpec) -> Choice[object]:
    if spec.id_column is not None:
        return Choice(spec.id_column, "every input has a column of that name")
    reason = "the inputs have no column named id"
    if spec.source_columns:
        return Choice("none", f"{reason}; source_file and source_row say where each row is from")
    if taken := [name for name in spec.keep if name in SOURCE_NAMES]:
        why = f"a kept column is named {taken[0]}"
    else:
        why = "this output was begun without them"
    return Choice("none", f"{reason}; no source_file and source_row are written, as {why}")


def _text_columns(request: Request) -> dict[str, Choice[object]]:
    """The columns that the task reads under their default names."""
    task = find_task(request.task)
    read = task.columns_read(request)
    return {
        name.replace("_", "-"): Choice(getattr(request, name), "the default name")
        for name in ("text_column", "query_column", "documents_column")
        if name in task.options and request.is_default(name) and getattr(request, name) in read
    }

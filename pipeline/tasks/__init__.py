"""The tasks, one file each. To add one, add a file beside these and its class to `TASKS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.encoder.card import ModelCard
from pipeline.errors import CheckpointError, UsageError
from pipeline.part_columns import ROW_COLUMNS
from pipeline.request import Request
from pipeline.row_keys import KEY_FIELD
from pipeline.spec import JobSpec, Vectors
from pipeline.tasks.base import Task
from pipeline.tasks.chunked import CHUNKED, HELD_NAMES
from pipeline.tasks.classify import Classify
from pipeline.tasks.embed import Embed
from pipeline.tasks.maxsim import MaxSimRerank
from pipeline.tasks.rerank import Rerank
from pipeline.tasks.tag import Tag
from pipeline.tokenize.ids import Ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "TASKS",
    "Task",
    "encoder_identity",
    "find_task",
    "make_task",
    "reserved_columns",
    "task_of",
    "tasks_for",
]

TASKS: dict[str, type[Task]] = {task.name: task for task in (Embed, Rerank, Classify, Tag)}


def find_task(name: str) -> type[Task]:
    """The task with a name.

    Raises:
        UsageError: there is none.
    """
    if name not in TASKS:
        raise UsageError(f"--task {name!r} is not one of {', '.join(TASKS)}")
    return TASKS[name]


def tasks_for(card: ModelCard) -> tuple[type[Task], ...]:
    """The tasks that a model can do, given the head that it was saved with."""
    return tuple(task for task in TASKS.values() if task.accepts(card))


def task_of(card: ModelCard, name: str | None = None) -> type[Task]:
    """The task with a name, checked against a model; without a name, the first that fits.

    Raises:
        UsageError: there is no such task.
        CheckpointError: the model was not saved with the head that the task needs.
    """
    fitting = tasks_for(card)
    task = fitting[0] if name is None else find_task(name)
    if task not in fitting and card.is_language_model:
        raise CheckpointError(
            f"{card.name} cannot {task.name}: it is a language model, and nothing in its files "
            "says how it scores a text",
            hint="rerankers among language models have a modules.json with a LogitScore, or a chat "
            "template with the roles query and document; Qwen3-Reranker and mxbai-rerank-v2 are "
            "known by name, which the directory of a copy must keep",
        )
    if task not in fitting:
        raise CheckpointError(
            f"{card.name} cannot {task.name}: it is {fitting[0].models}",
            hint=f"use --task {' or '.join(other.name for other in fitting)}, or another model",
        )
    return task


def encoder_identity(
    task: type[Task], card: ModelCard, vectors: Sequence[Vectors]
) -> dict[str, Any]:
    """How a model is understood by a job, as the JSON that is hashed: its encoder and its heads."""
    facts = task.identity(card)
    if "sparse" in vectors and card.sparse is not None:
        facts["sparse"] = card.sparse.identity()
    if "multi" in vectors and card.multi is not None:
        facts["multi"] = card.multi.identity()
    return facts


def make_task(spec: JobSpec, card: ModelCard, tokenizer: Tokenizer, ids: Ids | None = None) -> Task:
    """The task of a spec, bound to its model; for the arguments, see `Task`.

    Raises:
        UsageError: an option does not fit the model, such as a limit below its special tokens.
    """
    if spec.task == Rerank.name and "multi" in spec.vectors:
        return MaxSimRerank(spec, card, tokenizer, ids)
    task = CHUNKED.get((spec.task, spec.chunking), find_task(spec.task))
    return task(spec, card, tokenizer, ids)


def reserved_columns(request: Request, card: ModelCard) -> frozenset[str]:
    """The columns that a job may write; no column that passes through may have such a name."""
    names = {field.name for field in (*ROW_COLUMNS, KEY_FIELD)}
    names |= find_task(request.task).columns_written(request, card)
    names |= HELD_NAMES if request.chunking else frozenset()
    return frozenset(names.union(*(task.output_columns for task in TASKS.values())))

"""Tasks bound to the tokenizers of tiny checkpoints, without their models."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from task_rows import GOLDENS, LABELS
from tokenizers import Tokenizer

from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.encoder.checkpoint.tokenizer import load_tokenizer
from pipeline.spec import JobSpec, ModelIdentity
from pipeline.tasks import Task, make_task

MODEL = ModelIdentity("model", "", "", "")


@cache
def _serialized(name: str, folder: Path) -> str:
    return load_tokenizer(resolve(str(GOLDENS / name), cache_dir=folder)).to_str()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """The tokenizer of a golden, a new one each time: tasks take theirs over."""
    folder = tmp_path_factory.mktemp("cache")
    return lambda name: Tokenizer.from_str(_serialized(name, folder))


@pytest.fixture(scope="session")
def make(tokenizer: Callable[[str], Tokenizer]) -> Callable[..., Task]:
    """A task by name, on the tokenizer of a golden."""

    def make(
        task: Any,
        name: str = "ner_bert",
        *,
        labels: tuple[str, ...] = LABELS,
        multi_label: bool = False,
        regression: bool = False,
        type_ids: bool = False,
        **options: Any,
    ) -> Task:
        facts = {
            "labels": labels,
            "multi_label": multi_label,
            "regression": regression,
            "uses_type_ids": type_ids,
        }
        spec = JobSpec(task=task, model=MODEL, encoder=facts, **options)
        return make_task(spec, tokenizer(name), len(labels))

    return make

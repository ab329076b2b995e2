"""Tasks bound to the tokenizers of tiny checkpoints, without their models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from corpora import GOLDENS
from task_rows import LABELS
from tokenizers import Tokenizer

from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.spec import JobSpec, ModelIdentity
from pipeline.tasks import Task, make_task

MODEL = ModelIdentity("model", "", "", "")


@cache
def _card(name: str, folder: Path) -> ModelCard:
    return open_card(str(GOLDENS / name), cache_dir=folder)


@cache
def _serialized(name: str, folder: Path) -> str:
    return load_tokenizer(_card(name, folder)).to_str()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Callable[[str], Tokenizer]:
    """The tokenizer of a golden, a new one per call, because a task owns its tokenizer."""
    return lambda name: Tokenizer.from_str(_serialized(name, folder))


@pytest.fixture(scope="session")
def make(tokenizer: Callable[[str], Tokenizer], folder: Path) -> Callable[..., Task]:
    """A task by name, on the tokenizer of a golden and a card with other labels."""

    def make(
        task: str,
        name: str = "ner_bert",
        *,
        labels: tuple[str, ...] = LABELS,
        multi_label: bool = False,
        regression: bool = False,
        type_ids: bool = False,
        **options: Any,
    ) -> Task:
        card = _card(name, folder)
        config = replace(
            card.config,
            labels=labels,
            multi_label=multi_label,
            regression=regression,
            token_types=2 if type_ids else 1,
        )
        card = replace(card, config=config, dimensions=len(labels))
        spec = JobSpec(task=task, model=MODEL, **options)
        return make_task(spec, card, tokenizer(name))

    return make

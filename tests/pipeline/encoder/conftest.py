"""Encoder tests compute on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.encoder.checkpoint import tokenizer_build, tokenizer_builder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tiny models gain nothing from more, and lose much on a busy machine.
    torch.set_num_threads(1)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build here: forty processes would each import transformers. Others test the process."""

    def run(folder: Path, out: Path, request: dict[str, Any]) -> str | None:
        try:
            tokenizer_builder.run(folder, out, request)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    monkeypatch.setattr(tokenizer_build, "_run", run)

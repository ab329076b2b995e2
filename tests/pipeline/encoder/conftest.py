"""Encoder tests compute on one core."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tiny models gain nothing from more, and lose much on a busy machine.
    torch.set_num_threads(1)

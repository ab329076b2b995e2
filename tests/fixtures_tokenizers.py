"""The directory of `tokenizers` 1.x that scripts/test makes, since it cannot stand beside 0.2x."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from corpora import ROOT


@pytest.fixture(scope="session")
def tokenizers_1() -> Path:
    """Where it is missing, tests skip, and fail where CI is set."""
    folder = ROOT / ".venv/tokenizers-1"
    if not (folder / "tokenizers").is_dir():
        how = "tokenizers 1.x is not there: scripts/test installs it into .venv/tokenizers-1"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(how)
    return folder

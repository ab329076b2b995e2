"""Runs that are planned and started, but not executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corpora import TINY

from pipeline.planning.prepare import Prepared, prepare
from pipeline.request import Request


def prepared_run(folder: Path, *inputs: Path, **options: Any) -> Prepared:
    """A run on `folder`/out."""
    request = Request(
        inputs=tuple(map(str, inputs)), model=TINY, output=str(folder / "out"), **options
    )
    return prepare(request, folder / "cache")

"""A rehearsal as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def rehearsal_page(report: Mapping[str, Any]) -> str:
    """The HTML of a rehearsal's JSON object."""
    return ""

"""The prompts that a model has for queries and for documents."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.spec import Kind

# The names that sentence-transformers knows, of which the first that is there is used.
_NAMES: dict[Kind, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


def prompt_name_of(kind: Kind, prompts: Mapping[str, str]) -> str | None:
    """The name of a model's prompt for a kind of text; None if it has none."""
    return next((name for name in _NAMES[kind] if name in prompts), None)

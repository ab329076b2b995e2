"""The prompts that a model has for queries and for documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.encoder.card import ModelCard
from pipeline.errors import UsageError
from pipeline.request import Request
from pipeline.spec import Kind

# The names that sentence-transformers knows, of which the first that is there is used.
_NAMES: dict[Kind, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


def marker_of(markers: Sequence[str], prompt: str) -> str:
    """The marker that a prompt begins with, which says of which kind a text is; "" for none."""
    marker = next((marker for marker in markers if prompt.startswith(marker)), "")
    return marker + " " * (bool(marker) and prompt.startswith(f"{marker} "))


def prompt_name_of(kind: Kind, prompts: Mapping[str, str]) -> str | None:
    """The name of a model's prompt for a kind of text; None if it has none."""
    return next((name for name in _NAMES[kind] if name in prompts), None)


def embed_prompt(request: Request, card: ModelCard) -> str:
    """What stands before each text to embed: as given, by name, or the model's default.

    Raises:
        UsageError: the model has no prompt of that name, or it is for texts of the other kind.
    """
    prompts, kind = card.modules.prompts, _kind(request, card)
    if card.multi is not None and card.multi.tells_apart:
        _check_kind(request, "query" if card.kind == "query" else "document")
    if request.prompt is not None:
        own = prompts.get(prompt_name_of(kind, prompts) or "", "") if kind is not None else ""
        marker = marker_of(card.multi.markers, own) if card.multi is not None else ""
        return marker + request.prompt
    name = request.prompt_name or card.modules.default_prompt_name
    if kind is not None and not request.prompt_name:
        name = prompt_name_of(kind, prompts)
    if name is None:
        return ""
    if name not in prompts:
        default = "" if request.prompt_name else ", which its files name as default_prompt_name"
        raise UsageError(
            f"{request.model} has no prompt named {name!r}{default}",
            hint=f"choose one of its prompts ({', '.join(sorted(prompts)) or 'none'}), or give the "
            "text with --prompt",
        )
    return prompts[name]


def _check_kind(request: Request, kind: Kind) -> None:
    other: Kind = "document" if kind == "query" else "query"
    if request.prompt_name in _NAMES[other]:
        raise UsageError(
            f"--prompt-name {request.prompt_name} is for texts of the other kind: this job reads "
            f"each as a {kind}",
            hint=f"give --kind {other} in its place, which says how they are read, too",
        )


def _kind(request: Request, card: ModelCard) -> Kind | None:
    """The kind of text whose prompt is wanted; None for the model's default prompt."""
    if request.kind is not None or card.multi is None or not card.multi.tells_apart:
        return request.kind
    return "query" if card.kind == "query" else "document"

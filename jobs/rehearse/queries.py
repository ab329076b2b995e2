"""How a side reads queries: as its documents, but with the prompt and the modules of queries."""

from __future__ import annotations

from dataclasses import replace

from jobs.display import Display
from jobs.rehearse.sides import Side
from pipeline.encoder.card import ModelCard
from pipeline.request import Request

_QUERY = "query"  # the prompt of a model for queries
_DOCUMENTS = ("document", "passage", "corpus")  # those for documents


def query_request(side: Side, request: Request, card: ModelCard) -> Request:
    """The request that computes queries.

    Args:
        side: may name the prompt of queries.
        request: of the documents.
        card: of the model.
    """
    request = replace(
        request, reuse_from=None, long_texts=None, chunk_tokens=None, chunk_overlap=None
    )
    if card.checkpoint.files.router is not None:
        request = replace(request, kind="query")
    prompt, name = side.query.get("query-prompt"), side.query.get("query-prompt-name")
    if prompt is not None:
        return replace(request, prompt=prompt, prompt_name=None)
    if name is None and _QUERY in card.modules.prompts:
        name = _QUERY
    if name is not None:
        return replace(request, prompt=None, prompt_name=name)
    own = request.prompt is not None or request.prompt_name is not None
    return replace(request, prompt="" if own else None, prompt_name=None)


def warn_of_prompts(
    side: Side, request: Request, card: ModelCard, display: Display, *, queries: bool
) -> None:
    """Warn of texts that are read without the prompt that they seem to need.

    Args:
        side: of the request.
        request: of the documents.
        card: of the model.
        display: what the user sees.
        queries: whether there are any.
    """
    prompts = card.modules.prompts
    own = request.prompt is not None or request.prompt_name is not None
    name = next((name for name in _DOCUMENTS if prompts.get(name)), None)
    if not own and request.kind is None and name is not None:
        display.warn(
            f"{side.option}: the model has a prompt for documents, which this side does not use, "
            f"as `submit` would not: add prompt-name={name} to both"
        )
    if queries and own and not side.query and _QUERY not in prompts:
        display.warn(
            f"{side.option}: documents have a prompt, and queries have none: name it with "
            "query-prompt=TEXT"
        )

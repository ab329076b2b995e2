"""Finds the revision of a hub repository that has safetensors, where the one asked for has pickles.

A pull request is not its repository's author's, and a pickle is never opened, so nothing proves
that a conversion holds the same weights: it is named, and the user decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.encoder.checkpoint.shown import one_line
from pipeline.encoder.checkpoint.weight_files import INDEX_NAME, WEIGHTS_NAME

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Converts pickles where someone asks Hugging Face to; its pull requests wait for the author.
_BOT = "SFconvertbot"
# Revisions looked into, each by one request.
_MAX_LOOKED_INTO = 10


def advice(name: str, revision: str | None, timeout_s: float) -> str:
    """What to do about a repository whose revision has no safetensors, "" if nothing is known.

    Args:
        name: of the repository.
        revision: that was asked for; None for its main branch.
        timeout_s: of each request.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    asked = revision or "main"
    try:
        for found, whose in islice(_revisions(api, name, asked), _MAX_LOOKED_INTO):
            info = api.model_info(name, revision=found, timeout=timeout_s)
            files = {sibling.rfilename.rpartition("/")[2] for sibling in info.siblings or ()}
            if files & {WEIGHTS_NAME, INDEX_NAME}:
                return f"add `--revision {one_line(found)}`, which has safetensors: {whose}"
    except Exception:  # errors of the hub and of its HTTP client; the pickle is the error to report
        return ""
    return ""


def _revisions(api: HfApi, name: str, asked: str) -> Iterator[tuple[str, str]]:
    """Other revisions and whose they are: the author's own, then pull requests that add them."""
    refs = api.list_repo_refs(name)
    for ref in (*refs.branches, *refs.tags):
        if ref.name != asked:
            yield ref.name, "a branch or tag of the repository's author"
    requests = [
        request
        for request in api.get_repo_discussions(name, discussion_type="pull_request")
        if "safetensors" in request.title.lower() and request.status in ("open", "draft")
    ]
    for request in sorted(requests, key=lambda request: request.author != _BOT):
        yield (
            f"refs/pr/{request.num}",
            f"a pull request by {one_line(request.author)} that the author has not accepted "
            f"(https://huggingface.co/{name}/discussions/{request.num})",
        )

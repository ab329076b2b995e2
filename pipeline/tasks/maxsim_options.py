"""What a model that gives each token a vector makes of the options of a reranker."""

from __future__ import annotations

from typing import Any

from pipeline.choice import Choice, Choices
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.late_scores import scores_by_mean
from pipeline.errors import UsageError
from pipeline.request import Request
from pipeline.tasks.prompts import marker_of, prompt_name_of


def by_mean(card: ModelCard) -> bool:
    """Whether a score is the mean over the query's tokens.

    Raises:
        CheckpointError: the model's files ask for another score.
    """
    return scores_by_mean(card.checkpoint.files, card.modules)


def maxsim_identity(card: ModelCard) -> dict[str, Any]:
    """How scores are computed, as the JSON that a job hashes."""
    return {"maxsim": "mean" if by_mean(card) else "sum"}


def maxsim_in_words(card: ModelCard) -> str:
    """How the model scores a document."""
    return f"MaxSim, the {'mean' if by_mean(card) else 'sum'} over the tokens of a query"


def check_maxsim(request: Request, card: ModelCard) -> None:
    """Refuse options that such a model has no place for.

    Raises:
        UsageError: the message names them.
        CheckpointError: the model's files ask for another score.
    """
    by_mean(card)
    if request.raw_scores:
        raise UsageError(
            f"--raw-scores: {request.model} scores by MaxSim, a sum of inner products, and no "
            "function changes it",
            hint="omit it: the scores are the sums themselves",
        )
    if request.instruction is not None:
        raise UsageError(
            f"{request.model} reads no instruction: it reads a query apart from the documents",
            hint="omit --instruction; --prompt puts a text before each query",
        )
    prompt = document_prompt(card)
    if prompt and request.end == "left":
        given = "--long-texts cut-start" if request.long_texts else "--truncate left"
        raise UsageError(
            f"{given} would cut off what {request.model} has before each document, {prompt!r}",
            hint="use --long-texts cut-end or error, or pool, which reads all of a document",
        )


def query_prompt(request: Request, card: ModelCard) -> str:
    """What stands before each query: as given, by name, or the model's.

    Raises:
        UsageError: the model has no prompt of that name.
    """
    prompts = card.modules.prompts
    own = prompts.get(prompt_name_of("query", prompts) or "", "")
    if request.prompt is not None:
        assert card.multi is not None
        return marker_of(card.multi.markers, own) + request.prompt
    if request.prompt_name is None:
        return own
    if request.prompt_name not in prompts:
        raise UsageError(
            f"{request.model} has no prompt named {request.prompt_name!r}",
            hint=f"choose one of its prompts ({', '.join(sorted(prompts)) or 'none'}), or give the "
            "text with --prompt",
        )
    return prompts[request.prompt_name]


def document_prompt(card: ModelCard) -> str:
    """What stands before each document."""
    prompts = card.modules.prompts
    return prompts.get(prompt_name_of("document", prompts) or "", "")


def maxsim_choices(request: Request, card: ModelCard) -> Choices:
    """How the model scores, and the prompt that its authors chose for queries."""
    found: dict[str, Choice[object]] = {}
    found["score"] = Choice(maxsim_in_words(card), "the model gives each token a vector")
    prompt = query_prompt(request, card)
    if prompt and request.prompt is None and request.prompt_name is None:
        found["prompt"] = Choice(prompt, "what the model has before each query")
    return found

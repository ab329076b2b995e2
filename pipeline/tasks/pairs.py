"""What the tasks on pairs of texts share: the prompt, and how a pair becomes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.choice import Choice, Choices
from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.chat_template import pair_template
from pipeline.errors import UsageError
from pipeline.packing import Int64Array
from pipeline.request import Request
from pipeline.spec import JobSpec
from pipeline.tokenize.ids import Ids
from pipeline.tokenize.pairs import PairTokenizer
from pipeline.tokenize.published_pairs import QWEN3_INSTRUCTION, MxbaiPairs, Qwen3Pairs
from pipeline.tokenize.texts import text_values
from pipeline.tokenize.whole_pairs import JoinedPairs, RenderedPairs, WholePairs

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def takes_instruction(card: ModelCard) -> bool:
    """Whether the text of a pair has a place for an instruction; if not, a prompt precedes the
    query.
    """
    return card.cross_encoder.template is not None or card.cross_encoder.recipe is not None


def pair_prompt(request: Request, card: ModelCard) -> str:
    """The prompt of a pair: as given, by name, or the model's default.

    Raises:
        UsageError: the model has no prompt of that name, or no place for an instruction.
    """
    settings = card.cross_encoder
    if request.instruction is not None:
        if not takes_instruction(card):
            raise UsageError(
                f"{request.model} reads no instruction: it has no template that puts one beside "
                "the query",
                hint="omit --instruction; --prompt puts a text before each query",
            )
        return request.instruction
    if request.prompt is not None:
        return request.prompt
    name = request.prompt_name or settings.default_prompt_name
    if name is None:
        return QWEN3_INSTRUCTION if settings.recipe == "qwen3-reranker" else ""
    if name not in settings.prompts:
        listed = ", ".join(sorted(settings.prompts)) or "none"
        default = "" if request.prompt_name else ", which its files name as default_prompt_name"
        raise UsageError(
            f"{request.model} has no prompt for pairs named {name!r}{default}",
            hint=f"choose one of its prompts ({listed}), or give the text with --prompt",
        )
    return settings.prompts[name]


def pair_prompt_choice(request: Request, card: ModelCard) -> Choices:
    """The prompt of pairs that the model's authors chose, where the user gave none."""
    given = (request.instruction, request.prompt, request.prompt_name)
    prompt = pair_prompt(request, card)
    if not prompt or given != (None, None, None):
        return {}
    option = "instruction" if takes_instruction(card) else "prompt"
    return {option: Choice(prompt, "the default of the model's authors")}


def check_prompt(request: Request, card: ModelCard) -> None:
    """Refuse a template that bei-jobs does not compute, and a prompt that it would drop.

    Raises:
        CheckpointError: the template does more than putting words around the two texts.
        UsageError: the prompt does not reach the text.
    """
    template = card.cross_encoder.template
    if template is None:
        return
    prompt = pair_prompt(request, card)
    given = {request.instruction, request.prompt, request.prompt_name} - {None, ""}
    with_prompt = pair_template(template, prompt)
    if given and with_prompt == pair_template(template, ""):
        raise UsageError(
            f"the chat template of {request.model} has no place for an instruction",
            hint="omit --instruction, --prompt and --prompt-name",
        )


def pair_tokenizer(
    spec: JobSpec,
    card: ModelCard,
    tokenizer: Tokenizer,
    *,
    joined: bool,
    ids: Ids | None = None,
) -> PairTokenizer | WholePairs:
    """How pairs become tokens for a model.

    Args:
        spec: the job.
        card: its model.
        tokenizer: owned by the result from here on.
        joined: whether, without a template, both texts of a pair may be truncated, not only the
            document.
        ids: of texts alone, which is what a PairTokenizer needs.

    Raises:
        CheckpointError: the chat template cannot be computed.
        UsageError: the limit leaves no room for text.
    """
    settings = card.cross_encoder
    if settings.template is not None:
        return RenderedPairs(
            tokenizer,
            pair_template(settings.template, spec.prompt),
            spec.max_length,
            spec.truncate,
            restores_end=settings.template.restores_end,
        )
    if settings.recipe == "qwen3-reranker":
        return Qwen3Pairs(tokenizer, spec.prompt, spec.max_length, spec.truncate)
    if settings.recipe == "mxbai-rerank-v2":
        positions = card.config.max_length or spec.max_length
        return MxbaiPairs(
            tokenizer, spec.prompt, spec.max_length, spec.truncate, positions=positions
        )
    limit, truncate, typed = spec.max_length, spec.truncate, card.uses_type_ids
    if joined:
        return JoinedPairs(tokenizer, limit, truncate, typed=typed)
    return PairTokenizer(tokenizer, limit, truncate, typed=typed, ids=ids)


def check_pair_columns(request: Request, documents: str) -> None:
    """Refuse the same column for both texts of a pair.

    Raises:
        UsageError: the message names it.
    """
    if request.query_column == documents:
        raise UsageError(
            f"the query and the documents are the same column, {request.query_column!r}",
            hint="name them with --query-column, and --documents-column or --document-column",
        )


def query_texts(column: pa.Array, prefix: str) -> tuple[list[str | None], dict[int, str]]:
    """The queries of rows with a text before each, and row → why it has none."""
    queries, invalid = text_values(column)
    errors = {row: "the query is null" for row, query in enumerate(queries) if query is None}
    errors |= {row: about("the query", reason) for row, reason in invalid.items()}
    return [None if query is None else prefix + query for query in queries], errors


def pair_sample(spec: JobSpec, document_column: str, texts: Sequence[str]) -> pa.RecordBatch:
    """Sample rows of one pair each: a short query, and another text as its document."""
    queries = [short_query(text) for text in texts]
    following = [*texts[1:], *texts[:1]]
    return pa.RecordBatch.from_pydict({spec.query_column: queries, document_column: following})


def short_query(text: str) -> str:
    """The first line of a text, which is short."""
    return text.strip().partition("\n")[0]


def one_per_row(column: pa.Array) -> tuple[list[str | None], Int64Array, dict[int, str]]:
    """The documents of rows with one each, the row of each, and row → why it has none."""
    documents, invalid = text_values(column)
    errors = {row: "the document is null" for row, text in enumerate(documents) if text is None}
    errors |= {row: about("the document", reason) for row, reason in invalid.items()}
    return documents, np.arange(len(documents)), errors


def about(name: str, reason: str) -> str:
    """Replace "the text" in a reason with the name of the text."""
    return reason.replace("the text", name, 1)

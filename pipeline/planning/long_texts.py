"""What `--long-texts` means for a task and a model: refused, or the settings of its chunks."""

from __future__ import annotations

from typing import Any

from pipeline.choice import Choice
from pipeline.encoder.card import ModelCard
from pipeline.errors import UsageError
from pipeline.request import Request
from pipeline.spec import JobSpec
from pipeline.tasks import TASKS, find_task, make_task
from pipeline.tokenize.chunks import CHUNK_RULES, bytes_of_chunk

# Enough for a few paragraphs: a vector of more says less about each of them.
CHUNK_TOKENS = 256
# Special tokens of a model, at most.
_MOST_SPECIAL = 32
# Policies with a row for each chunk; of the others, a chunk is as long as the model can read.
ROW_PER_CHUNK = ("chunk", "late-chunk")


def check_long_texts(request: Request) -> None:
    """Refuse a policy that the task does not have, and options that exclude each other.

    Raises:
        UsageError: the message names them.
    """
    if request.long_texts and request.truncate:
        same = Request(inputs=(), model="", truncate=request.truncate).end
        if request.chunking or request.end != same:
            raise UsageError(
                f"--long-texts {request.long_texts} and --truncate {request.truncate} cannot be "
                "used together: the second is an earlier name of the first",
                hint="give --long-texts alone",
            )
    if request.chunking:
        _check_chunking(request)
        return
    for option in ("chunk_tokens", "chunk_overlap"):
        if getattr(request, option) is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} needs --long-texts chunk, late-chunk or pool",
                hint="give both, or neither",
            )


def _check_chunking(request: Request) -> None:
    task, chunking = find_task(request.task), request.chunking
    if chunking not in task.chunkings:
        owners = [owner.name for owner in TASKS.values() if chunking in owner.chunkings]
        own = f"--long-texts {' or '.join(task.chunkings)}" if task.chunkings else ""
        hint = (
            f"give {own}, which takes all of a text into account, and writes one row"
            if own
            else "omit it: --task tag reads all of a long text in overlapping chunks"
        )
        raise UsageError(
            f"--long-texts {chunking} does not belong to --task {request.task}, but to "
            f"{' and '.join(owners)}",
            hint=hint,
        )


def check_kept(spec: JobSpec) -> None:
    """Refuse a text that would pass through with each of its chunks.

    Raises:
        UsageError: the message names the option.
    """
    if not spec.has_chunk_rows or spec.text_column not in (spec.id_column, *spec.keep):
        return
    kept = spec.text_column in spec.keep
    raise UsageError(
        f"{'--keep' if kept else '--id-column'} {spec.text_column} would repeat the whole text in "
        "each of its chunks",
        hint="omit it: chunk_start and chunk_end say where in the text a chunk is"
        if kept
        else "name another column, which tells the rows apart",
    )


def check_room(spec: JobSpec, card: ModelCard) -> None:
    """Refuse limits that leave no room for text, before an output is claimed.

    A tokenizer takes a second to load, so only limits are tried that a prompt could fill.

    Raises:
        UsageError: the message names the limit.
    """
    limit = min(spec.max_length, spec.chunk_tokens or spec.max_length)
    if limit > _MOST_SPECIAL + len(spec.prompt.encode()) + (spec.chunk_overlap or 0):
        return
    from pipeline.encoder.tokenizer import load_tokenizer  # with the library of tokenizers

    make_task(spec, card, load_tokenizer(card))


def check_chunks(request: Request, card: ModelCard) -> None:
    """Refuse a policy that the vectors of a model do not allow.

    Raises:
        UsageError: the message names the kind of vectors, or how they are pooled.
    """
    if request.chunking in ("late-chunk", "pool"):
        _check_dense(request, card)
    elif request.chunking:
        _check_vectors_of_tokens(request, card)
    if request.chunking == "late-chunk":
        _check_late_chunks(request, card)


def _check_dense(request: Request, card: ModelCard) -> None:
    task = find_task(request.task)
    vectors = task.vectors(request, card)
    if task.head == "embedding" and vectors != ("dense",):
        dense = ", or --vectors dense" if "dense" in card.vectors else ""
        each = " and ".join(kind for kind in vectors if kind != "dense")
        raise UsageError(
            f"--long-texts {request.chunking} makes dense vectors only, and those of this job are "
            f"{', '.join(vectors)}",
            hint=f"use --long-texts chunk, which writes {each} vectors for each chunk{dense}",
        )


def _check_vectors_of_tokens(request: Request, card: ModelCard) -> None:
    vectors = find_task(request.task).vectors(request, card)
    if "multi" not in vectors or card.multi is None:
        return
    if card.multi.reading(card.kind).expansion is not None:
        raise UsageError(
            f"--long-texts {request.chunking} cuts documents, and {request.model} fills each query "
            "up to one length",
            hint="use --long-texts cut-end or error for queries",
        )
    if request.token_offsets:
        raise UsageError(
            f"--token-offsets cannot be used with --long-texts {request.chunking}",
            hint="omit it: chunk_start and chunk_end say where in the text a chunk is",
        )


def _check_late_chunks(request: Request, card: ModelCard) -> None:
    """Refuse a model whose tokens say nothing about the chunk that they are in."""
    pooling = ", ".join(card.modules.pooling)
    if pooling != "mean":
        raise UsageError(
            f"--long-texts late-chunk needs a model that pools by the mean of its tokens, and "
            f"{request.model} pools by {pooling}: a chunk within a text has no such token",
            hint="use --long-texts chunk, or a model with mean pooling and a long context",
        )
    if card.config.static:
        raise UsageError(
            f"--long-texts late-chunk needs a model whose tokens see their context, and "
            f"{request.model} is a table of token vectors",
            hint="use --long-texts chunk, which gives the same vectors",
        )


def chunk_fields(request: Request, max_length: int) -> dict[str, Any]:
    """The fields of a JobSpec about chunks; none where texts are cut.

    Raises:
        UsageError: a chunk would be longer than a sequence, or overlap by more than its half.
    """
    if not request.chunking:
        return {}
    tokens, overlap = _chunk_tokens(request, max_length), request.chunk_overlap or 0
    if tokens > max_length:
        raise UsageError(
            f"--chunk-tokens {tokens} is more than --max-length {max_length}",
            hint=f"give at most {max_length}",
        )
    if overlap > tokens // 2:
        raise UsageError(
            f"--chunk-overlap {overlap} is more than half of --chunk-tokens {tokens}",
            hint=f"give at most {tokens // 2}",
        )
    return {
        "chunking": request.chunking,
        "chunk_tokens": tokens,
        "chunk_overlap": overlap,
        "chunk_rules": CHUNK_RULES,
    }


def _chunk_tokens(request: Request, max_length: int) -> int:
    if request.chunk_tokens is not None:
        return request.chunk_tokens
    if request.chunking == "late-chunk":  # of which a sequence should hold several
        return max(1, min(CHUNK_TOKENS, max_length // 4))
    return min(CHUNK_TOKENS, max_length) if request.chunking == "chunk" else max_length


def chunk_bytes(request: Request, card: ModelCard) -> int:
    """Bytes of text that a row of a part stands for at least; 0: there is a row for each text."""
    if request.chunking not in ROW_PER_CHUNK:
        return 0
    tokens = _chunk_tokens(request, request.max_length or card.default_max_length)
    return bytes_of_chunk(tokens, request.chunk_overlap or 0)


def chunk_choices(request: Request, spec: JobSpec) -> dict[str, Choice[object]]:
    """The settings of chunks that the user left open."""
    found: dict[str, Choice[object]] = {}
    if spec.chunking and request.chunk_tokens is None:
        reasons = {spec.max_length: "all of --max-length", CHUNK_TOKENS: "a few paragraphs"}
        reason = reasons.get(spec.chunk_tokens or 0, "a quarter of --max-length")
        found["chunk-tokens"] = Choice(spec.chunk_tokens, reason)
    if spec.chunking and request.chunk_overlap is None:
        found["chunk-overlap"] = Choice(spec.chunk_overlap, "chunks follow each other")
    return found

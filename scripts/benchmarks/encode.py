"""A model's task on texts: engine × lengths, all in one run, taking turns.

The first line is what a user of bei-jobs gets by default, then the peers that are installed, then
the other precisions of ours. Every engine tokenizes the same texts with the same tokenizer and
loads the same directory; the agreement of its values with float32 says whether they did the same
work. "tokenized" rows leave out tokenizing: the forward pass alone.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import (
    EXAMPLES,
    Work,
    header,
    matrix_parameters,
    read_texts,
    repeated,
)  # fmt: skip
from benchmarks.contest import Outcome, hold, open_ours, report
from benchmarks.ours import Ours
from benchmarks.peers import Case
from benchmarks.shapes import ENCODERS, SHAPES, checkpoint_of, texts_of_length
from pipeline.encoder.architecture.encoder_config import EncoderConfig

# Of one call on a GPU; sentence-transformers at its defaults computes in float32, a tenth as fast.
_CASE_FLOP = 1e14
_LEAST_TOKENS, _MOST_TOKENS = 65_536, 2_000_000
# Of a pair's query: the first words of another text.
_QUERY_WORDS = 12
# Of a query whose vectors are compared with theirs.
_DOCUMENTS = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench encode`."""
    cuda = torch.cuda.is_available()
    parser.add_argument("--shapes", default=",".join(ENCODERS) if cuda else "MiniLM-L6")
    parser.add_argument("--model", help="a real checkpoint in place of the shapes")
    parser.add_argument("--lengths", default="texts,32,128,512" + (",8192" if cuda else ""))
    parser.add_argument("--tokens", type=int, default=None if cuda else 60_000,
                        help="of each case; default on a GPU: by the model's size")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--precision", default="auto" if cuda else "auto,float32,bfloat16,int8",
        help="ours, comma-separated; the first of them in the first line",
    )  # fmt: skip
    parser.add_argument("--peers", default="all", help="all, none, or words in their names")
    common_arguments(parser)


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `scripts/bench models` has, too."""
    cuda = torch.cuda.is_available()
    parser.add_argument("--task", help="embed, rerank, classify or tag; default: by the model")
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--token-budget", type=int, help="of a batch, ours; default: by device")
    parser.add_argument("--max-length", type=int, default=512, help="cut --texts here")
    parser.add_argument("--checked", type=int, default=512, help="rows compared with float32")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--tokenized", action=argparse.BooleanOptionalAction, default=cuda,
                        help="also without tokenizing")  # fmt: skip


def run(options: argparse.Namespace, command: str) -> str:
    """Measure every case and return the table."""

    def cases() -> Iterator[tuple[list[str], str, Outcome]]:
        with tempfile.TemporaryDirectory() as folder:
            for model in [options.model] if options.model else options.shapes.split(","):
                name = model.rpartition("/")[2]
                for lengths, outcome in cases_of(model, Path(folder), options):
                    yield [name, lengths], f"{name}, {lengths}", outcome

    printed = report(["model", "lengths"], cases())
    return f"{header(command, options.device)}\n\n{printed}"


def cases_of(
    shape: str, folder: Path, options: argparse.Namespace
) -> Iterator[tuple[str, Outcome]]:
    """The outcome of each of the lengths that a model can have."""
    source = read_texts(options.texts, 50_000)
    path = checkpoint_of(shape, folder, source, options.device)
    for lengths in options.lengths.split(","):
        limit = options.max_length if lengths == "texts" else int(lengths)
        if shape not in SHAPES or limit <= SHAPES[shape].limit:
            with tempfile.TemporaryDirectory() as scratch:
                yield lengths, _case(path, lengths, limit, source, Path(scratch), options)
            gc.collect()
    if shape in SHAPES:
        shutil.rmtree(path)  # 15 GB of a large one


def _case(
    path: Path,
    lengths: str,
    limit: int,
    source: list[str],
    scratch: Path,
    options: argparse.Namespace,
) -> Outcome:
    def open_one(precision: str) -> Ours:
        return Ours(
            path, options.device, precision, limit, task=options.task, budget=options.token_budget
        )

    ours, refused = open_ours(open_one, options.precision.split(","))
    first = ours[0]
    tokens = options.tokens or _tokens(first.engine.config)
    inputs = _inputs(first, lengths, source, tokens)
    work = Work.of(first.lengths(inputs), first.engine.config)
    half = first.engine.config.half
    case = Case(
        path, first.task, options.device, limit, half, inputs, scratch, first.vectors
    )  # fmt: skip
    outcome = hold(
        case, ours, work, words=options.peers, repeats=options.repeats, checked=options.checked,
        tokenized=options.tokenized,
    )  # fmt: skip
    return Outcome(outcome.rows, outcome.notes + refused)


def _tokens(config: EncoderConfig) -> int:
    """Tokens that a fast GPU computes in some tenths of a second, a few batches at least."""
    by_cost = int(_CASE_FLOP / (2 * matrix_parameters(config)))
    return max(_LEAST_TOKENS, min(_MOST_TOKENS, by_cost))


def _inputs(ours: Ours, lengths: str, source: list[str], tokens: int) -> list[Any]:
    """About so many tokens of texts; of pairs where the task reads pairs."""
    late = ours.vectors == ("multi",)
    if lengths != "texts":
        texts = texts_of_length(ours.tokenizer, int(lengths), max(1, tokens // int(lengths)))
        if ours.task != "rerank":
            return texts
        return _asked(texts) if late else [_halves(text) for text in texts]
    inputs: list[Any] = source
    if ours.task == "rerank":
        queries = [" ".join(text.split()[:_QUERY_WORDS]) for text in source]
        inputs = list(zip([*queries[1:], queries[0]], source, strict=True))
    mean = float(ours.lengths(inputs[::50]).mean())
    wanted = max(1, int(tokens / mean))
    chosen = repeated(inputs[:: max(1, len(inputs) // wanted)], wanted)
    if ours.task == "embed":
        return chosen
    if late:
        chosen = _asked([document for _, document in chosen])
    # The libraries cut other ends of pairs, and a long text where we tag all of it.
    whole = ours.whole(chosen)
    if not whole.any():
        raise SystemExit("every text is longer than --max-length")
    return [row for row, fits in zip(chosen, whole, strict=True) if fits]


def _asked(documents: list[str]) -> list[tuple[str, str]]:
    """Pairs in which a query, the first words of a text, stands for several documents."""
    asked = documents[::_DOCUMENTS]
    queries = [
        " ".join(asked[i // _DOCUMENTS].split()[:_QUERY_WORDS]) for i in range(len(documents))
    ]
    return list(zip(queries, documents, strict=True))


def _halves(text: str) -> tuple[str, str]:
    """The words of a text as a pair that has as many tokens: one more of them is special."""
    words = text.split()
    return " ".join(words[:_QUERY_WORDS]), " ".join(words[_QUERY_WORDS + 1 :])

"""Texts to sparse vectors: bei-jobs beside sentence-transformers' SparseEncoder, taking turns.

Both load one directory, a SPLADE of a real size with random weights whose bias leaves about a
hundred terms to a text, and tokenize the same texts. The least cosine says that they did the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    EXAMPLES,
    header,
    interleaved,
    peak_memory_mib,
    ratio,
    read_texts,
    repeated,
    reset_peak_memory,
    table,
)
from benchmarks.shapes import LOWERED, write_sparse_modules, write_tokenizer
from pipeline.encoder.card import open_card
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.load import HeadOptions
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.outputs import Lists
from pipeline.packing import gather, pack
from pipeline.tokenize.texts import TextTokenizer

_COLUMNS = ["model", "engine", "rows/s", "tokens/s", "terms", "peak MiB", "x peer", "min cosine"]
#: Name → class of transformers, its config.
_SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "splade-MiniLM-L6": ("Bert", {
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "vocab_size": 30_522,
    }),
    "splade-v3": ("Bert", {"vocab_size": 30_522}),
    "splade-v3-distilbert": ("DistilBert", {"vocab_size": 30_522}),
    "splade-XLM-R-base": ("XLMRoberta", {
        "vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1,
    }),
}  # fmt: skip
_MAX_LENGTH = 512


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench sparse`."""
    cuda = torch.cuda.is_available()
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--shapes", default=",".join(_SHAPES) if cuda else "splade-MiniLM-L6")
    parser.add_argument("--model", help="a real checkpoint in place of the shapes")
    parser.add_argument("--rows", type=int, default=20_000 if cuda else 256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--precision", default="auto", help="ours, comma-separated")


def run(options: argparse.Namespace, command: str) -> str:
    """Measure every shape and return the table."""
    rows: list[list[object]] = []
    source = read_texts(options.texts, 50_000)
    with tempfile.TemporaryDirectory() as name:
        for shape in [options.model] if options.model else options.shapes.split(","):
            path = Path(shape) if options.model else _write(Path(name) / shape, shape, source)
            rows += _case(shape, path, repeated(source, options.rows), options)
    notes = (
        "medians of interleaved repeats; x peer: against the first engine; terms: of a text; "
        "peak MiB: above what the loaded models hold"
    )
    return f"{header(command, options.device)}\n\n{table(_COLUMNS, rows)}\n\n{notes}"


def _case(
    shape: str, path: Path, texts: list[str], options: argparse.Namespace
) -> list[list[object]]:
    ours = {p: _ours(path, options.device, p) for p in options.precision.split(",")}
    tokens = next(iter(ours.values()))[1](texts)
    calls = {"sentence-transformers": _peer(path, options.device)}
    calls |= {f"bei-jobs {p}": call for p, (call, _) in ours.items()}
    found, peaks = {}, {}
    for name, call in calls.items():  # which warms it up, too
        before = peak_memory_mib(options.device)
        reset_peak_memory(options.device)
        before = min(before, peak_memory_mib(options.device))
        found[name] = call(texts)
        peaks[name] = peak_memory_mib(options.device) - before
    turns = {name: _bound(call, texts) for name, call in calls.items()}
    seconds = interleaved(turns, options.repeats, options.device)
    first = next(iter(calls))
    rows = []
    for name, lists in found.items():
        median = statistics.median(seconds[name])
        rows.append([
            shape, name, len(texts) / median, tokens / median, len(lists.ids) / len(texts),
            peaks[name], ratio(seconds[first], seconds[name]), _cosine(lists, found[first]),
        ])  # fmt: skip
    return rows


def _bound(call: Callable[[list[str]], Lists], texts: list[str]) -> Callable[[], object]:
    return lambda: call(texts)


def _ours(
    path: Path, device: str, precision: str
) -> tuple[Callable[[list[str]], Lists], Callable[[list[str]], int]]:
    card = open_card(str(path))
    engine = Engine(card, HeadOptions(vectors=("sparse",)), device=device, precision=precision)
    limit = min(card.default_max_length, _MAX_LENGTH)

    def tokenized(texts: list[str]) -> Any:
        return TextTokenizer(load_tokenizer(card), limit, "right").encode(texts)

    def call(texts: list[str]) -> Lists:
        tokens = tokenized(texts)
        batches = (
            gather(tokens.ids, tokens.offsets, some)
            for some in pack(tokens.lengths, engine.token_budget)
        )
        parts = [(batch.sequences, out.lists["sparse"]) for batch, out in engine.run_all(batches)]
        return Lists.placed(len(texts), parts)

    return call, lambda texts: int(tokenized(texts).lengths.sum())


def _peer(path: Path, device: str) -> Callable[[list[str]], Lists]:
    from sentence_transformers import SparseEncoder

    encoder = SparseEncoder(str(path), device=device)

    def call(texts: list[str]) -> Lists:
        # Each on its own, in the host's memory: stacked, rows of 250,000 terms take terabytes.
        vectors = encoder.encode(
            texts, convert_to_tensor=False, save_to_cpu=True, show_progress_bar=False
        )
        rows = [vector.coalesce() for vector in vectors]
        counts = np.array([row.values().shape[0] for row in rows])
        ids = torch.cat([row.indices()[0] for row in rows]).int().numpy()
        return Lists(counts, ids, torch.cat([row.values() for row in rows]).float().numpy())

    return call


def _cosine(a: Lists, b: Lists) -> float:
    """The least cosine of two rows."""
    x, y = a.folded(), b.folded()
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(((x * y).sum(axis=1) / np.maximum(norms, 1e-12)).min())


def _write(path: Path, shape: str, texts: list[str]) -> Path:
    """Write a SparseEncoder of a shape."""
    import transformers

    name, sizes = _SHAPES[shape]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes, pad_token_id=1)
    model = getattr(transformers, f"{name}ForMaskedLM")(config)
    with torch.no_grad():
        # Of a normed vector times weights of this size.
        deviation = config.initializer_range * config.hidden_size**0.5
        model.get_output_embeddings().bias.fill_(-LOWERED * deviation)
    model.save_pretrained(path)
    write_tokenizer(path, texts, _MAX_LENGTH)
    write_sparse_modules(path, sizes["vocab_size"], _MAX_LENGTH)
    return path

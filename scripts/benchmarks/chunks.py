"""Chunks of texts: how fast they are made, and what late chunking finds that chunks alone do not.

Retrieval: each chunk of a text, encoded alone, is a query; found shall be one of its neighbours in
the text among all other chunks. A chunk that saw its text has an advantage here by design: the
figure says how much of a text's topic a chunk's vector holds, not how well questions are answered.

Speed is by processor time, which others on the machine do not change.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import EXAMPLES, header, read_texts, table
from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.load import HeadOptions
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.packing import gather, pack
from pipeline.tokenize.chunk_texts import ChunkTokenizer
from pipeline.tokenize.outputs import output_bounds
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens

_REPEATS = 3
_DEEP = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench chunks`."""
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="with mean pooling")
    parser.add_argument("--chunk-tokens", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--max-length", type=int, default=256)


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the tables."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read at the first batch: one core
    torch.set_num_threads(1)
    card = open_card(options.model)
    texts = read_texts(options.texts, options.rows)
    alone = Engine(card, precision="float32")
    late = Engine(card, HeadOptions(late_chunks=True), precision="float32")
    found = [
        row
        for size in options.chunk_tokens
        for row in _retrieval(texts, alone, late, size, options)
    ]
    columns = ["chunks of", "policy", "chunks", "neighbour first", f"in {_DEEP}", "mean 1/rank"]
    speed = _speeds(texts, card, alone, options)
    return "\n\n".join([
        header(command, "cpu"),
        table(columns, found),
        table(["one thread", "tokens/s", "x encoder"], speed),
    ])  # fmt: skip


def _chunker(card: ModelCard, size: int, window: int | None = None) -> ChunkTokenizer:
    return ChunkTokenizer(load_tokenizer(card), size, 0, window=window)


def _encode(engine: Engine, tokens: Tokens) -> np.ndarray:
    bounds = output_bounds(tokens, per_token=False)
    if bounds is None:
        bounds = np.arange(len(tokens.lengths) + 1)
    outputs = np.zeros((int(bounds[-1]), engine.output_size), dtype=np.float32)
    batches = (
        gather(tokens.ids, tokens.offsets, some, tokens.type_ids, tokens.spans)
        for some in pack(tokens.lengths, engine.token_budget)
    )
    for batch, values in engine.run(batches):
        index = [np.arange(bounds[s], bounds[s + 1]) for s in batch.sequences]
        outputs[np.concatenate(index)] = values
    return outputs


def _retrieval(
    texts: list[str], alone: Engine, late: Engine, size: int, options: argparse.Namespace
) -> list[list[object]]:
    tokens = _chunker(alone.card, size).encode(texts)
    pooled = _chunker(late.card, size, options.max_length).encode(texts)
    assert tokens.chunks is not None
    row_of = tokens.chunks.row_of
    queries = _encode(alone, tokens)
    rows: list[list[object]] = []
    for policy, corpus in (("chunk", queries), ("late-chunk", _encode(late, pooled))):
        ranks = _ranks(queries, corpus, row_of)
        first, deep = (float((ranks <= k).mean()) for k in (1, _DEEP))
        mean = float((1 / ranks).mean())
        shares = (f"{first:.1%}", f"{deep:.1%}", f"{mean:.3f}")
        rows.append([f"{size} tokens", policy, len(row_of), *shares])
    return rows


def _ranks(queries: np.ndarray, corpus: np.ndarray, row_of: np.ndarray) -> np.ndarray:
    """Of each query that has a neighbour, the rank of the first one, from 1."""
    unit = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in (queries, corpus)]
    ranks = []
    for at, row in enumerate(row_of):
        near = [n for n in (at - 1, at + 1) if 0 <= n < len(row_of) and row_of[n] == row]
        if near:
            scores = unit[1] @ unit[0][at]
            scores[at] = -np.inf
            ranks.append(int((scores > scores[near].max()).sum()) + 1)
    return np.array(ranks)


def _speeds(
    texts: list[str], card: ModelCard, engine: Engine, options: argparse.Namespace
) -> list[list[object]]:
    """The least time of a few for each stage, of all texts as one that is long."""
    text, size = "\n\n".join(texts), options.chunk_tokens[-1]
    chunker, plain = _chunker(card, size), TextTokenizer(load_tokenizer(card), 1 << 30, "error")
    tokens = chunker.encode([text])
    some = chunker.encode(["\n\n".join(texts[: len(texts) // 10])])
    stages = {
        "tokenized": lambda: plain.encode([text]),
        "tokenized and cut into chunks": lambda: chunker.encode([text]),
        "encoded": lambda: _encode(engine, some),
    }
    rates = {}
    for name, stage in stages.items():
        counted = len(some.ids) if name == "encoded" else len(tokens.ids)
        rates[name] = counted / min(_timed(stage) for _ in range(_REPEATS))
    return [[name, rate, f"{rate / rates['encoded']:.1f}"] for name, rate in rates.items()]


def _timed(stage: Callable[[], object]) -> float:
    begun = time.process_time()
    stage()
    return time.process_time() - begun

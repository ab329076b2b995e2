"""Tokens per second of one core: ours (texts to flat arrays) against `tokenizers` as it is.

Both run in this thread alone, texts of one window at a time, cut at --max-length.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.common import EXAMPLES, header, interleaved, ratio, read_texts, table
from benchmarks.shapes import checkpoint_of
from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.tokenize.texts import TextTokenizer

_BLOCK_ROWS = 1024
_LONG_TEXT_TIMES = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench tokenize`."""
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="or a shape of `encode`")
    parser.add_argument("--max-length", type=int, default=256)


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the table."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read at the first batch: one core
    short = read_texts(options.texts, options.rows)
    long = [" ".join([text] * _LONG_TEXT_TIMES) for text in short[::_LONG_TEXT_TIMES]]
    with tempfile.TemporaryDirectory() as folder:
        card = open_card(str(checkpoint_of(options.model, Path(folder), short, "cpu")))
        rows = [
            *_case("as they are", short, card, options),
            *_case("20 times as long", long, card, options),
        ]
    columns = ["texts", "tokenizer", "rows/s", "tokens/s", "x tokenizers"]
    return header(command, "cpu") + "\n\n" + table(columns, rows)


def _case(
    name: str, texts: list[str], card: ModelCard, options: argparse.Namespace
) -> list[list[object]]:
    plain = load_tokenizer(card)
    plain.enable_truncation(options.max_length)
    ours = TextTokenizer(load_tokenizer(card), options.max_length, "right")
    blocks = [texts[i : i + _BLOCK_ROWS] for i in range(0, len(texts), _BLOCK_ROWS)]
    contenders = {
        "tokenizers, encode_batch": lambda: [
            [e.ids for e in plain.encode_batch(w)] for w in blocks
        ],
        "tokenizers, encode_batch_fast": lambda: [
            [e.ids for e in plain.encode_batch_fast(w)] for w in blocks
        ],
        "bei-jobs": lambda: [ours.encode(w) for w in blocks],
    }
    tokens = sum(t.ids.size for t in contenders["bei-jobs"]())
    seconds = interleaved(contenders, options.repeats, "cpu")
    rows: list[list[object]] = []
    for engine, times in seconds.items():
        median = statistics.median(times)
        faster = ratio(seconds["tokenizers, encode_batch"], times)
        rows.append([name, engine, len(texts) / median, tokens / median, faster])
    return rows

"""Tokens per second of one core, and of all: texts to flat arrays, against `tokenizers` as it is.

Texts of one block at a time, cut at --max-length. Tokenizers: that of --model, and two of the tests
(Unigram and byte-level BPE, of small vocabularies). `1 process` is a tokenizer process with one
thread, its parent's share of the work included; 1.x is measured where --library holds it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

from benchmarks.common import EXAMPLES, ROOT, header, interleaved, ratio, read_texts, table
from benchmarks.shapes import checkpoint_of
from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.tokenize.processes import TokenizerProcesses
from pipeline.tokenize.texts import TextTokenizer

_BLOCK_ROWS = 1024
_LONG_TEXT_TIMES = 20
_GOLDENS = ROOT / "tests" / "goldens"
_OTHERS = {"Unigram (XLM-R)": _GOLDENS / "e5_xlmr", "BPE (RoBERTa)": _GOLDENS / "roberta_mean"}
_BASE = f"tokenizers {version('tokenizers')}, encode_batch"
# Blocks are shared among processes, as in a job: these are larger.
_SHARED_ROWS = 16_384
_A_MACHINE = 16

Contenders = dict[str, Callable[[], object]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench tokenize`."""
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="or a shape of `encode`")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument(
        "--library",
        type=Path,
        default=ROOT / ".venv" / "tokenizers-1",
        help="a directory with a tokenizers 1.x, as BEI_JOBS_TOKENIZERS_DIR names it",
    )


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the tables."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read at the first batch: one core
    short = read_texts(options.texts, options.rows)
    long = [" ".join([text] * _LONG_TEXT_TIMES) for text in short[::_LONG_TEXT_TIMES]]
    with tempfile.TemporaryDirectory() as folder:
        card = open_card(str(checkpoint_of(options.model, Path(folder), short, "cpu")))
        rows = [
            *_case(options.model, short, card, options),
            *_case("the same, texts 20 times as long", long, card, options),
        ]
        for name, checkpoint in _OTHERS.items():
            rows += _case(name, short, open_card(str(checkpoint)), options)
        fed = _fed(short, card, options)
    columns = ["tokenizer", "by", "rows/s", "tokens/s", "x encode_batch"]
    cores = f"What {os.cpu_count()} cores can feed, and {_A_MACHINE} by extrapolation:"
    columns_fed = ["by", "rows/s", "tokens/s", "tokens/s a core", f"rows/s of {_A_MACHINE} cores"]
    return "\n\n".join(
        [header(command, "cpu"), table(columns, rows), cores, table(columns_fed, fed)]
    )


def _libraries(options: argparse.Namespace) -> list[Path | None]:
    return [None, *([options.library] if options.library.is_dir() else [])]


@contextmanager
def _processes(
    count: int, card: ModelCard, options: argparse.Namespace
) -> Iterator[dict[str, TextTokenizer]]:
    """What tokenizes with so many processes, of each library."""
    found = {}
    with ExitStack() as stack:
        for library in _libraries(options):
            processes = TokenizerProcesses(count, library)
            processes.start(load_tokenizer(card))
            stack.callback(processes.close)
            name = f"{count} process{'es' * (count > 1)}, {processes}"
            found[name] = TextTokenizer(
                load_tokenizer(card), options.max_length, "right", processes
            )
        yield found


def _case(
    name: str, texts: list[str], card: ModelCard, options: argparse.Namespace
) -> list[list[object]]:
    plain = load_tokenizer(card)
    plain.enable_truncation(options.max_length)
    own = load_tokenizer(card)
    ours = TextTokenizer(own, options.max_length, "right")
    blocks = [texts[i : i + _BLOCK_ROWS] for i in range(0, len(texts), _BLOCK_ROWS)]
    columns = [pa.array(block) for block in blocks]
    contenders: Contenders = {
        _BASE: lambda: [[e.ids for e in plain.encode_batch(w)] for w in blocks],
        f"{_BASE}_fast": lambda: [[e.ids for e in plain.encode_batch_fast(w)] for w in blocks],
        "bei-jobs": lambda: _over(TextTokenizer(own, options.max_length, "right"), columns)(),
    }
    tokens = sum(ours.encode_column(w).ids.size for w in columns)
    with _processes(1, card, options) as by:
        for how, tokenizer in by.items():
            contenders[f"bei-jobs, {how}"] = _over(tokenizer, columns)
        seconds = interleaved(contenders, options.repeats, "cpu")
    rows: list[list[object]] = []
    for engine, times in seconds.items():
        least = min(times)
        faster = ratio(seconds[_BASE], times)
        rows.append([name, engine, len(texts) / least, tokens / least, faster])
    return rows


def _fed(texts: list[str], card: ModelCard, options: argparse.Namespace) -> list[list[object]]:
    cores = os.cpu_count() or 1
    copies = max(1, _SHARED_ROWS * 2 // len(texts))
    flat = pa.array(texts * copies)
    columns = [flat.slice(i, _SHARED_ROWS) for i in range(0, len(flat), _SHARED_ROWS)]
    with _processes(cores, card, options) as by:
        contenders = {how: _over(tokenizer, columns) for how, tokenizer in by.items()}
        tokens = sum(next(iter(by.values())).encode_column(w).ids.size for w in columns)
        seconds = interleaved(contenders, options.repeats, "cpu")
    return [
        [
            how,
            len(flat) / min(t),
            tokens / min(t),
            tokens / min(t) / cores,
            len(flat) / min(t) / cores * _A_MACHINE,
        ]
        for how, t in seconds.items()
    ]


def _over(tokenizer: TextTokenizer, columns: list[pa.Array]) -> Callable[[], object]:
    return lambda: [tokenizer.encode_column(column) for column in columns]

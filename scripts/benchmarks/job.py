"""End to end against a plain script, and against the encoder alone: what the pipeline costs.

Three contenders take turns on the same texts, each with its model loaded before the clock runs:

    plain script     read Parquet, SentenceTransformer.encode at its defaults, write Parquet
    bei-jobs         plan, read, tokenize, encode, write parts, commit, manifest
    encoder alone    the same engine over batches that were tokenized and packed beforehand
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.common import (
    EXAMPLES,
    Work,
    header,
    interleaved,
    matrix_rate,
    peak_memory_mib,
    ratio,
    read_texts,
    repeated,
    table,
)  # fmt: skip
from benchmarks.peers import load_sentence_transformer
from benchmarks.shapes import checkpoint_of
from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.checkpoint.hub import DEFAULT_MODEL
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.output.manifest import finalise
from pipeline.packing import gather, pack
from pipeline.planning.prepare import prepare
from pipeline.request import Request
from pipeline.run import run_shards
from pipeline.tokenize.texts import TextTokenizer

MAX_LENGTH = 256


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench job`."""
    parser.add_argument("--texts", type=Path, default=EXAMPLES, help="Parquet with a text column")
    parser.add_argument("--rows", type=int, default=5000, help="the texts are repeated for more")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="or a shape of `encode`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = read_texts(options.texts, options.rows)
        texts = repeated(source, options.rows)
        corpus = root / "corpus.parquet"
        pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), corpus)
        card = open_card(str(checkpoint_of(options.model, root, source, options.device)))
        peer = load_sentence_transformer(card.checkpoint.path, options.device)
        engine = Engine(card, device=options.device)
        batches = _batches(card, texts, engine.token_budget)
        for _ in engine.run(batches[-2:]):
            pass  # warm up
        peer.encode(texts[:64])
        work = _work(engine, batches)
        contenders = {
            "plain script": lambda: _plain(peer, corpus, root / "plain.parquet"),
            "bei-jobs": lambda: _job(engine, card, corpus, root),
            "encoder alone": lambda: [None for _ in engine.run(batches)],
        }
        seconds = interleaved(contenders, options.repeats, options.device)
    return header(command, options.device) + "\n\n" + _report(seconds, work, engine, options.device)


def _batches(card: ModelCard, texts: list[str], budget: int) -> list:
    tokens = TextTokenizer(load_tokenizer(card), MAX_LENGTH, "right").encode(texts)
    return [gather(tokens.ids, tokens.offsets, s) for s in pack(tokens.lengths, budget)]


def _work(engine: Engine, batches: list) -> Work:
    lengths = [int(n) for b in batches for n in b.cu_seqlens[1:] - b.cu_seqlens[:-1]]
    return Work.of(lengths, engine.config)


def _plain(peer: object, corpus: Path, target: Path) -> None:
    table = pq.read_table(corpus)
    vectors = peer.encode(table["text"].to_pylist())
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"id": table["id"], "embedding": column}), target)


def _job(engine: Engine, card: ModelCard, corpus: Path, root: Path) -> None:
    output = root / "output"
    shutil.rmtree(output, ignore_errors=True)
    model = str(card.checkpoint.path)
    request = Request(inputs=(str(corpus),), model=model, output=str(output), max_length=MAX_LENGTH)
    prepared = prepare(request, root / "cache")
    shards = list(prepared.plan.shards())
    results = list(run_shards(prepared.run, shards, engine, prepared.output, attempt="bench"))
    if any(result.error for result in results):
        raise SystemExit(f"the job failed: {results}")
    finalise(prepared.output, prepared.run, prepared.plan, max_failed="0")


def _report(seconds: dict[str, list[float]], work: Work, engine: Engine, device: str) -> str:
    rate = matrix_rate(device, engine.precision)
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        rows.append([
            name, work.rows / median, work.tokens / median, work.flop / median / 1e12,
            f"{100 * work.flop / median / rate:.0f} %",
            ratio(seconds["plain script"], times), ratio(seconds["encoder alone"], times),
        ])  # fmt: skip
    columns = [
        "",
        "rows/s",
        "tokens/s",
        "TFLOP/s",
        "of matrix rate",
        "x plain script",
        "x encoder alone",
    ]
    repeats = len(seconds["bei-jobs"])
    notes = (
        f"{work.rows:,} texts, {work.tokens:,} tokens, medians of {repeats} interleaved "
        f"repeats; matrix rate {rate / 1e12:.3f} TFLOP/s; "
        f"peak memory of the process {peak_memory_mib(device):,.0f} MiB"
    )
    return table(columns, rows) + "\n\n" + notes

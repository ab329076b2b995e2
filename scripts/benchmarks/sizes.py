"""Models of real size with random weights: that they load and run, in what memory, and how exact.

float32 is compared with sentence-transformers in float32 and with eager attention, the job's
16-bit precisions with our own float32. Each model has a process of its own, so that its peak
memory is its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import EXAMPLES, ROOT, header, peak_memory_mib, read_texts, table
from benchmarks.peers import load_sentence_transformer
from benchmarks.shapes import ENCODERS, SHAPES, texts_of_length, write_checkpoint
from pipeline.encoder.card import ModelCard, open_card
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.packing import gather, pack
from pipeline.tokenize.texts import TextTokenizer

LENGTHS = (9, 40, 41, 120, 300, 600)  # 600: beyond every window
_COLUMNS = (
    "model",
    "parameters",
    "ready, s",
    "peak GiB",
    "float32: largest difference",
    "float16: least cosine",
    "bfloat16: least cosine",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench sizes`."""
    parser.add_argument("--shapes", nargs="+", default=[s for s in ENCODERS if s != "Qwen2-7B"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-reference", action="store_true", help="without sentence-transformers")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def run(options: argparse.Namespace, command: str) -> str:
    """Measure each shape in a process of its own and return the table."""
    if options.one:
        return json.dumps(_measure(options.one, options.device, not options.no_reference))
    rows = []
    for shape in options.shapes:
        words = ["sizes", "--one", shape, "--device", options.device]
        words += ["--no-reference"] if options.no_reference else []
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "bench", *words], stdout=subprocess.PIPE, check=True
        )
        rows.append(json.loads(done.stdout.decode().splitlines()[-1]))
    return header(command, options.device) + "\n\n" + table(_COLUMNS, rows)


def _measure(shape: str, device: str, reference: bool) -> list[object]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_checkpoint(Path(folder), shape, read_texts(EXAMPLES, 2000), device)
        card = open_card(str(path), cache_dir=Path(folder) / "cache")
        tokenizer = load_tokenizer(card)
        limit = SHAPES[shape].limit
        texts = [texts_of_length(tokenizer, n, 1)[0] for n in LENGTHS if n <= limit]
        tokens = TextTokenizer(tokenizer, limit, "right").encode(texts)
        batches = [gather(tokens.ids, tokens.offsets, s) for s in pack(tokens.lengths, 2048)]
        started = time.perf_counter()
        engine = Engine(card, device=device, precision="float32")
        ready = time.perf_counter() - started
        size = sum(p.numel() for p in _parameters(path))
        exact = _vectors(engine, batches, len(texts))
        half = {p: _half(card, device, p, batches, exact) for p in ("float16", "bfloat16")}
        peak = peak_memory_mib(device) / 1024
        del engine
        gc.collect()
        worst: object = "-"
        if reference:
            worst = f"{np.abs(_reference(path, device, texts) - exact).max():.1e}"
    return [shape, f"{size / 1e6:,.0f}M", ready, peak, worst, half["float16"], half["bfloat16"]]


def _parameters(path: Path) -> list[torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
        return [torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names]


def _half(card: ModelCard, device: str, precision: str, batches: list, exact: np.ndarray) -> str:
    from pipeline.errors import UsageError

    try:
        engine = Engine(card, device=device, precision=precision)
    except UsageError as refused:
        return f"refused: {refused}"
    vectors = _vectors(engine, batches, len(exact))
    return f"{(vectors * exact).sum(axis=1).min():.6f}"


def _vectors(engine: Engine, batches: list, count: int) -> np.ndarray:
    out = np.empty((count, engine.output_size), dtype=np.float32)
    for batch, rows in engine.run(batches):
        out[batch.sequences] = rows
    return out


def _reference(path: Path, device: str, texts: list[str]) -> np.ndarray:
    settings = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = load_sentence_transformer(path, device, model_kwargs=settings)
    return model.encode(texts, batch_size=1)

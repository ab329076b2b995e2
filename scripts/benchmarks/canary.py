"""The canary: how far apart its values are on other instruction sets, and what it costs.

Each model and precision is computed in processes of their own that may use all instructions of the
CPU, or only AVX2, with two threads and with one; the distances are from the first of them. The
time is that of the second computation, in the process that may use everything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, header, table
from pipeline.agreement import TOLERANCE, distance

_AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
_SETTINGS = ({}, _AVX2, {"OMP_NUM_THREADS": "1"})
_MODELS = ("sentence-transformers/all-MiniLM-L6-v2", "tests/goldens/bert_mean")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench canary`."""
    parser.add_argument("--models", nargs="+", default=list(_MODELS))
    parser.add_argument("--precisions", nargs="+", default=["float32", "float16", "bfloat16"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)


def run(options: argparse.Namespace, command: str) -> str:
    """Measure and return the table."""
    if options.one:
        return json.dumps(_measure(*options.one))
    rows = [
        [model, precision, *_row(model, precision)]
        for model in options.models
        for precision in options.precisions
    ]
    columns = ["model", "precision", "largest distance", "allowed", "tokens", "ms"]
    return header(command, "cpu") + "\n\n" + table(columns, rows)


def _row(model: str, precision: str) -> list[object]:
    found = [_process(model, precision, setting) for setting in _SETTINGS]
    values = [np.array(each["values"], dtype=np.float32) for each in found]
    apart = max(distance(other, values[0], logits=False) for other in values[1:])
    first = found[0]
    return [f"{apart:.0e}", f"{TOLERANCE[precision]:g}", first["tokens"], first["ms"]]


def _process(model: str, precision: str, setting: dict[str, str]) -> dict[str, object]:
    words = [sys.executable, ROOT / "scripts" / "bench", "canary", "--one", model, precision]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, check=True, cwd=ROOT, env={**os.environ, **setting}
    )
    found: dict[str, object] = json.loads(done.stdout.decode().splitlines()[-1])
    return found


def _measure(model: str, precision: str) -> dict[str, object]:
    from pipeline.canary import TEXTS, compute_canary
    from pipeline.encoder.card import open_card
    from pipeline.encoder.engine import Engine
    from pipeline.encoder.tokenizer import load_tokenizer
    from pipeline.planning.make_spec import sample_spec
    from pipeline.tasks import make_task, task_of

    card = open_card(str(ROOT / model) if Path(ROOT / model).is_dir() else model)
    spec = sample_spec(card, task_of(card).name, precision=precision, max_length=None)
    task = make_task(spec, card, load_tokenizer(card))
    engine = Engine(card, device="cpu", precision=precision)
    compute_canary(spec, engine, task)
    start = time.perf_counter()
    canary = compute_canary(spec, engine, task)
    ms = round(1000 * (time.perf_counter() - start))
    tokens = task.tokenize(task.sample(spec, TEXTS, 1))
    return {"ms": ms, "tokens": len(tokens.ids), "values": canary.values.tolist()}

"""Compare a sample in the job's precision with the same sample in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.blocks import Block
from pipeline.encode import encode
from pipeline.encoder.card import ModelCard
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.known_rows import RowResults
from pipeline.row_keys import row_keys
from pipeline.spec import JobSpec
from pipeline.tasks import make_task
from pipeline.tasks.base import Float32Array

# Percentiles by name: the smallest cosines and the largest differences matter.
_COSINES = {"min": 0, "p1": 1, "p10": 10, "median": 50}
_DIFFERENCES = {"median": 50, "p99": 99, "max": 100}


@dataclass(frozen=True, slots=True)
class PrecisionComparison:
    """How far a precision deviates from float32 on a sample of vectors or logits."""

    precision: str
    device: str
    rows: int
    tokens: int
    width: int  # values per output
    cosine: dict[str, float]  # of vectors or rows of logits; empty if these have one value each
    difference: dict[str, float]  # absolute, over all values
    largest_difference: float  # between any two values
    not_finite: int  # outputs that are not finite, even after the repair in float32


def compare_precision(
    card: ModelCard, spec: JobSpec, texts: Sequence[str], device: str
) -> PrecisionComparison:
    """Compute a sample in both precisions and compare the outputs.

    Args:
        card: the model.
        spec: task, precision and options of the job.
        texts: the sample; to rerank, each text is the query of the texts that follow it.
        device: where both precisions run.

    Raises:
        CheckpointError: the weights are damaged.
        EncodeError: the device failed.
    """
    outputs, engine, tokens = _outputs(card, spec, texts, device, spec.precision)
    precision, name, width = engine.precision, engine.device_name, engine.output_size
    del engine  # the device may not have room for two models
    exact, _, _ = _outputs(card, spec, texts, device, "float32")
    finite = np.isfinite(outputs).all(axis=1)
    difference = np.abs(outputs - exact)[finite]
    return PrecisionComparison(
        precision=precision,
        device=name,
        rows=len(outputs),
        tokens=tokens,
        width=width,
        cosine=_cosines(outputs[finite], exact[finite]),
        difference={
            name: float(np.percentile(difference, point)) if difference.size else 0.0
            for name, point in _DIFFERENCES.items()
        },
        largest_difference=float(difference.max(initial=0.0)),
        not_finite=int((~finite).sum()),
    )


def _outputs(
    card: ModelCard, spec: JobSpec, texts: Sequence[str], device: str, precision: str
) -> tuple[Float32Array, Engine, int]:
    engine = Engine(
        card,
        device=device,
        precision=precision,
        dimensions=spec.dimensions,
        normalize=spec.normalize,
    )
    task = make_task(spec, card, load_tokenizer(card))
    rows = task.sample(spec, texts)
    known = RowResults.all_computed(row_keys(rows, task.columns_read(spec)))
    block = Block((), rows, rows, task.tokenize(rows), known)
    budget = spec.token_budget or engine.token_budget
    [computed] = encode(
        engine, iter([block]), task, budget, lambda: False, lambda rows, tokens: None
    )
    return computed.outputs, engine, int(block.tokens.ids.shape[0])


def _cosines(outputs: npt.NDArray[np.float32], exact: npt.NDArray[np.float32]) -> dict[str, float]:
    """Percentiles of the cosine between each output and its exact value."""
    if not len(outputs) or outputs.shape[1] < 2:
        return {}
    a, b = outputs.astype(np.float64), exact.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(axis=1), norms, out=np.ones(len(a)), where=norms > 0)
    return {name: float(np.percentile(cosines, point)) for name, point in _COSINES.items()}

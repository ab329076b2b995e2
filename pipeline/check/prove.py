"""Everything that `bei-jobs check` proves, and the certificate of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.check.invariance import prove_invariance
from pipeline.check.precision import PrecisionComparison, compare_precision
from pipeline.check.reference import prove_values
from pipeline.check.sample import Sample, compute
from pipeline.check.tokens import prove_tokens
from pipeline.encoder.card import ModelCard
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.load import HeadOptions
from pipeline.output.certificate import Certificate, Proof, certificate_key
from pipeline.output.process import user_and_host
from pipeline.output.run import now
from pipeline.packing import pack
from pipeline.spec import JobSpec, digest
from pipeline.tasks.base import Float32Array

# What a large model may take for each proof; the first pass over the sample tells how large it is.
_SECONDS = 60.0
_MIN_ROWS, _REFERENCE_ROWS = 8, 64
_PASSES = 3  # of batch invariance


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of a check."""

    comparison: PrecisionComparison
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class _Pass:
    """A sample in one precision."""

    outputs: Float32Array
    precision: str
    device: str
    invariance: Proof


def check_model(
    card: ModelCard,
    spec: JobSpec,
    texts: Sequence[str],
    device: str,
    cache_dir: Path | None = None,
) -> Checked:
    """Compute a sample in the job's precision and in float32, and prove what can be proved.

    Args:
        card: the model.
        spec: task, precision and options of the job.
        texts: the sample; to rerank, each text is the query of the texts that follow it.
        device: where everything is computed.
        cache_dir: where the trial behind `auto` is kept; None to repeat it.

    Raises:
        CheckpointError: the weights are damaged.
        EncodeError: the device failed.
    """
    sample = Sample.of(card, spec, texts)
    ours = _compute(sample, device, spec.precision, cache_dir)
    exact = ours if ours.precision == "float32" else _compute(sample, device, "float32")
    comparison = compare_precision(
        ours.outputs,
        exact.outputs,
        precision=ours.precision,
        device=ours.device,
        tokens=int(sample.tokens.ids.shape[0]),
    )
    proofs = (
        _finite(comparison),
        *dict.fromkeys((ours.invariance, exact.invariance)),
        prove_tokens(sample),
        prove_values(sample, exact.outputs, device, rows=_REFERENCE_ROWS, seconds=_SECONDS),
    )
    certificate = Certificate(
        key=certificate_key(spec),
        at=now(),
        by=user_and_host(),
        device=ours.device,
        precision=ours.precision,
        sample=digest(list(texts)),
        max_length=spec.max_length,
        proofs=proofs,
    )
    return Checked(comparison, certificate)


def _compute(sample: Sample, device: str, precision: str, cache_dir: Path | None = None) -> _Pass:
    spec = sample.spec
    engine = Engine(
        sample.card,
        HeadOptions.of(spec),
        device=device,
        precision=precision,
        cache_dir=cache_dir,
    )
    budget = spec.token_budget or engine.token_budget
    started = time.monotonic()
    outputs = compute(engine, sample, pack(sample.tokens.lengths, budget))
    seconds = max(time.monotonic() - started, 1e-3)
    rows = sample.tokens.rows
    affordable = max(_MIN_ROWS, int(rows * _SECONDS / (_PASSES * seconds)))
    invariance = prove_invariance(engine, sample, outputs, min(rows, affordable), budget)
    done = _Pass(outputs, engine.precision, engine.device_name, invariance)
    del engine  # the device may not have room for two models
    gc.collect()
    return done


def _finite(comparison: PrecisionComparison) -> Proof:
    count = comparison.not_finite
    note = f"{count} outputs are not finite" if count else ""
    measured = {"difference from float32": comparison.largest_difference}
    return Proof("finite values", not count, comparison.rows, measured, note)

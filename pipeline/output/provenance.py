"""What a part says of where its rows came from: the values behind `bei.<key>`."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from pipeline.encoder.engine import Engine
from pipeline.output.run import Run, now
from pipeline.spec import NUMERICS_VERSION, Shard, ShardResult, schema_hash
from pipeline.store.uris import redact

_PACKAGES = ("bei-jobs", "torch", "tokenizers", "pyarrow")


def of_run(run: Run, engine: Engine, attempt: str) -> dict[str, object]:
    """Values that every part of one execution shares."""
    spec = run.spec
    return {
        "job": run.job,
        "run": run.n,
        "attempt": attempt,
        "space": spec.space,
        "schema": schema_hash(run.kept),
        "numerics_version": NUMERICS_VERSION,
        "task": spec.task,
        "model": redact(spec.model.name),
        "revision": spec.model.revision,
        "sha256": spec.model.sha256,
        "fingerprint": spec.model.fingerprint,
        "pooling": str(spec.encoder.get("pooling", "")),
        "prompt": spec.prompt,
        "dimensions": engine.output_size,
        "dtype": spec.output_dtype,
        "max_length": spec.max_length,
        "precision": engine.precision,
        "device": engine.device_name,
        "versions": software_versions(),
        **({"quantization": engine.quantization} if engine.quantization else {}),
    }


def of_shard(shard: Shard, result: ShardResult) -> dict[str, object]:
    """Values of one part: which rows, and how they went."""
    return {
        "shard": shard.id,
        "input": redact(shard.file.uri),
        "input_version": shard.file.version,
        "first_row": shard.first_row,
        "rows": result.rows,
        "tokens": result.tokens,
        "truncated": result.truncated,
        "failed": result.failed,
        "seconds": result.seconds,
        "written": now(),
    }


@cache
def software_versions() -> dict[str, str]:
    """The versions that can change a number or a byte."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "source"
    return found

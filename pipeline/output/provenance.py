"""Where a part's rows came from: the values of its `bei.<key>` metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.encoder.card import ModelCard
from pipeline.encoder.engine import Engine
from pipeline.output.run import Run, now
from pipeline.output.versions import software_versions
from pipeline.shards import Shard, ShardResult
from pipeline.spec import NUMERICS_VERSION, JobSpec, schema_hash
from pipeline.stage_times import Stage
from pipeline.store.uris import redact


def of_run(run: Run, engine: Engine, attempt: str) -> dict[str, object]:
    """The values that all parts of one attempt share."""
    spec = run.spec
    fused = engine.choices.get("fused-kernels")
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
        "pooling": _pooling(engine.card),
        "prompt": spec.prompt,
        "dimensions": _joined(spec.all_dimensions or (engine.head.output_size,)),
        "dtype": _joined(spec.output_dtypes),
        "max_length": spec.max_length,
        **({"long_texts": spec.chunking} if spec.chunking else {}),
        "precision": engine.precision,
        "device": engine.device_name,
        "versions": software_versions(),
        **_of_vectors(spec, engine),
        **({"labels": list(engine.card.labels)} if spec.all_labels else {}),
        **({"quantization": engine.quantization} if engine.quantization else {}),
        **({"fused_kernels": fused.value} if fused and fused.value != "none" else {}),
    }


def of_shard(
    shard: Shard,
    result: ShardResult,
    *,
    resumed: int = 0,
    tokenizer: str | None = None,
    stages: Mapping[Stage, float] | None = None,
    padding: int = 0,
) -> dict[str, object]:
    """The values of one part: its rows and their counts.

    `resumed` is the number of rows that an earlier attempt had computed; `tokenizer`, what made
    tokens of rows where that is not the library of `versions`. `stages` are the seconds in which
    each stage was at work since the attempt's last commit, and `padding` the tokens that were
    computed since then for the shape of a batch alone.
    """
    return {
        "shard": shard.id,
        "input": redact(shard.file.uri),
        "input_version": shard.file.version,
        "first_row": shard.first_row,
        "rows": result.rows,
        "tokens": result.tokens,
        "truncated": result.truncated,
        "failed": result.failed,
        "reused": result.reused,
        "deduplicated": result.deduplicated,
        **({"chunks": result.chunks} if result.chunks else {}),
        **({"cut": result.cut} if result.truncated and result.cut is not None else {}),
        "seconds": result.seconds,
        "written": now(),
        **({"resumed": resumed} if resumed else {}),
        **({"tokenizer": tokenizer} if tokenizer else {}),
        **({"stages": {name: round(value, 3) for name, value in stages.items()}} if stages else {}),
        **({"padding": padding} if padding else {}),
    }


def _of_vectors(spec: JobSpec, engine: Engine) -> dict[str, object]:
    """What sparse vectors are; nothing of dense ones, which need no words."""
    if "sparse" not in spec.vectors or engine.card.sparse is None:
        return {}
    kind = {"kind": spec.kind} if spec.kind else {}
    return {
        "vectors": _joined(spec.vectors),
        "terms": engine.config.vocab_size,
        "sparse": engine.card.sparse.identity(),
        **kind,
    }


def _joined(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


def _pooling(card: ModelCard) -> str:
    """How tokens become one vector; "" for a classifier."""
    return str(list(card.modules.pooling)) if "dense" in card.vectors else ""

"""An output → what a report says, as one JSON object. Nothing is written, no model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa

from jobs.report.lengths import by_file, duplicates, lengths, name_of, padding
from jobs.report.outcomes import reasons
from jobs.report.parts import Parts, find_parts, json_of
from jobs.report.results import results_of
from jobs.report.sample import Sample, take_sample
from jobs.report.texts import texts_of
from jobs.report.timeline import timeline
from jobs.report.vectors import dense_column, look_at, neighbours, places, vectors_of
from jobs.summary import choices_json, summary
from pipeline.choice import Choices
from pipeline.errors import StorageError
from pipeline.output.chosen import read_choices
from pipeline.output.failures import read_failures
from pipeline.output.manifest import failed_totals
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.output.status import JobStatus, job_status, past_status
from pipeline.store.uris import redact

_RUNS, _FAILURES, _SKIPPED = 12, 5, 20
_TEXT_CHARS = 220
# Of a spec: said elsewhere, or a description of the model.
_NO_SETTINGS = frozenset({"model", "task", "encoder"})


@dataclass(frozen=True, slots=True)
class _Read:
    """What is read of an output once."""

    output: Output
    run: Run
    plan: Plan
    status: JobStatus
    parts: Parts
    sample: Sample


def gather(
    output: Output,
    run: Run,
    *,
    price_per_hour: float | None = None,
    choices: Choices | None = None,
) -> dict[str, Any]:
    """What is known of a run.

    Args:
        output: of the job.
        run: its newest.
        price_per_hour: of one device.
        choices: what was chosen for the user, where it is known better than from the output.

    Raises:
        StorageError: the output cannot be read, or its own files are damaged.
    """
    plan, status = output.plan(run), job_status(output, run)
    parts = find_parts(output, run, plan)
    sample = take_sample(output, parts.table, run.kept.names)
    read = _Read(output, run, plan, status, parts, sample)
    if choices is None:
        choices = read_choices(output, run)
    time = timeline(parts, datetime.fromisoformat(run.created).timestamp())
    return {
        **summary(run, status),
        "task": run.spec.task,
        "inputs": [redact(uri) for uri in run.inputs],
        "choices": None if choices is None else choices_json(choices),
        "settings": _settings(run),
        "computed_with": _computed_with(parts),
        "timeline": time,
        "cost": _cost(time, price_per_hour),
        "parts": {
            "known": int(parts.table["read"].sum()),
            "there": len(parts.table),
            "own": parts.own,
        },
        "counted": _counted(read),
        "bytes": int(parts.table["bytes"].sum()),
        "sample": {
            "parts": len(sample.parts),
            "of": sample.of,
            "rows": len(sample.shown),
            "unread": sample.unread,
        },
        "lengths": lengths(sample, run.spec.max_length),
        "by_file": by_file(parts),
        "padding": padding(sample, parts),
        "quarantine": reasons(output, parts.table.filter("read")),
        "duplicates": duplicates(sample),
        "runs": _runs(output, run, status),
        "failures": [
            {"at": each.at, "reason": each.reason, "hint": each.hint, "run": each.run or None}
            for each in read_failures(output.directory, _FAILURES)
        ],
        "vectors": _vectors(read),
        "results": [] if sample.results is None else results_of(sample.results),
    }


def _settings(run: Run) -> dict[str, Any]:
    """What was asked for or chosen, where it is not the default."""
    usual = {field.name: field.default for field in fields(run.spec)}
    spec = run.spec.to_json()
    return {
        name: value
        for name, value in spec.items()
        if name not in _NO_SETTINGS and value != usual[name] and value not in ([], ())
    }


def _computed_with(parts: Parts) -> dict[str, Any]:
    """What the parts of this run say of the program that wrote them."""
    first = next(iter(parts.infos.values()), None)
    if first is None:
        return {}
    names = (
        "pooling",
        "dimensions",
        "dtype",
        "max_length",
        "quantization",
        "fused_kernels",
        "tokenizer",
    )
    said = {name: first.values[name] for name in names if first.values.get(name, "0") != "0"}
    return {**said, "versions": json_of(first, "versions")}


def _counted(read: _Read) -> dict[str, int]:
    """Outcomes, tokens and truncated rows, and of how many rows: of all, where the run has totals;
    else of the parts that were read, beside the rows of earlier ones.
    """
    status = read.status
    if status.state == "done" or failed_totals(read.output, read.run) is not None:
        return {
            "of": status.rows_done,
            "computed": status.computed,
            "reused": status.reused,
            "deduplicated": status.deduplicated,
            "failed": status.failed_rows,
            "tokens": status.tokens,
            "truncated": status.truncated,
        }
    names = ("rows", "reused", "deduplicated", "failed", "tokens", "truncated")
    known = read.parts.table.filter("read").select(pl.col(names).sum()).row(0, named=True)
    copied = known["reused"] + known["deduplicated"] + known["failed"]
    return {
        "of": known["rows"],
        "computed": max(0, status.computed - copied),
        "reused": status.reused + known["reused"],
        **{name: known[name] for name in ("deduplicated", "failed", "tokens", "truncated")},
    }


def _cost(time: Mapping[str, Any] | None, price: float | None) -> dict[str, Any]:
    seconds = time["device_seconds"] if time else 0.0
    cost = None if price is None else round(seconds / 3600 * price, 6)
    return {"device_seconds": seconds, "price_per_hour": price, "price": cost}


def _runs(output: Output, newest: Run, status: JobStatus) -> dict[str, Any]:
    """The last runs, newest first."""

    def read(n: int) -> dict[str, Any]:
        try:
            run = output.run(n)
            return summary(run, past_status(output, run))
        except StorageError as error:
            return {"run": n, "error": error.message}

    numbers = [n for n in reversed(output.run_numbers()) if n < newest.n]
    with ThreadPoolExecutor(_RUNS) as pool:
        earlier = list(pool.map(read, numbers[: _RUNS - 1]))
    return {"total": len(numbers) + 1, "last": [summary(newest, status), *earlier]}


def _vectors(read: _Read) -> dict[str, Any] | None:
    """What is seen of dense vectors; None where there are none."""
    results = read.sample.results
    name = None if results is None else dense_column(results)
    if results is None or name is None or not len(results):
        return None
    vectors = vectors_of(results, name)
    keys = results["row_key"].to_pylist() if "row_key" in results.column_names else None
    packed = pa.types.is_uint8(results.schema.field(name).type.value_type)
    unit = None if packed else _unit(read.run)
    plane, share = places(vectors)
    return {
        "column": name,
        **look_at(vectors, keys, unit=unit),
        "map": {
            "share": round(share, 4),
            "names": list(read.sample.names),
            "points": [
                {"x": round(x, 5), "y": round(y, 5), "values": list(values)}
                for (x, y), values in zip(plane.tolist(), read.sample.shown, strict=True)
            ],
        },
        "neighbours": _neighbours(read, vectors, keys),
    }


def _unit(run: Run) -> bool | None:
    """Whether the vectors should have unit length; None where it is not known."""
    spec = run.spec.to_json()
    if spec.get("normalize") is not None or spec.get("dimensions") is not None:
        return spec.get("normalize")
    encoder = spec.get("encoder")
    return encoder.get("normalize") if isinstance(encoder, dict) else None


def _neighbours(read: _Read, vectors: Any, keys: Any) -> dict[str, Any]:
    sample = read.sample
    found = neighbours(vectors, keys)
    rows = {row for query, near in found for row in (query, *(other for other, _ in near))}
    places = {row: (int(sample.part_of[row]), int(sample.row_of[row])) for row in sorted(rows)}
    texts, problem = _texts(read, places)

    def shown(row: int) -> dict[str, Any]:
        kept = dict(zip(sample.names, sample.shown[row], strict=True))
        return {"id": name_of(sample, row), "text": texts.get(row), "kept": kept}

    return {
        "among": len(vectors),
        "problem": problem,
        "rows": [
            {**shown(query), "near": [{**shown(row), "cosine": cosine} for row, cosine in near]}
            for query, near in found
        ],
    }


def _texts(read: _Read, places: Mapping[int, tuple[int, int]]) -> tuple[dict[int, str], str]:
    """Row of the sample → its text; and why some are missing."""
    lengths, numbers = read.sample.lengths, {}
    for row, (part, number) in places.items():
        first = lengths.filter(pl.col("part") == part)["first"].head(number + 1)
        numbers[row] = (part, int(first.sum()) - 1)
    found, problem = texts_of(
        read.run, read.plan, read.parts.table, list(numbers.values()), _TEXT_CHARS
    )
    return {row: found[place] for row, place in numbers.items() if place in found}, problem

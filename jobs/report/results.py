"""What tasks without dense vectors wrote, by the kinds of their columns: scores, labels, terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BINS, _VALUES = 24, 15
# Columns of a part that are no result.
_OTHERS = frozenset(
    {"chunk", "chunk_start", "chunk_end", "n_tokens", "truncated", "error", "row_key"}
)


def results_of(results: pa.Table) -> list[dict[str, Any]]:
    """One entry for each column that can be counted: `numbers`, `lengths` or `values`.

    Args:
        results: the columns of a sample of rows without an error.
    """
    found = []
    for field in results.schema:
        if field.name not in _OTHERS and not pa.types.is_fixed_size_list(field.type):
            column = results[field.name].combine_chunks()
            found += _of_column(field.name, column)
    return found


def _of_column(name: str, column: pa.Array) -> list[dict[str, Any]]:
    kind = column.type
    if pa.types.is_floating(kind):
        return [] if name.endswith("_scale") else [_numbers(name, column)]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [_values(name, column)]
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return []
    inner = column.flatten()
    lengths = {**_numbers(name, pc.list_value_length(column)), "what": "lengths"}
    if pa.types.is_struct(kind.value_type):
        fields = {inner.type.field(i).name: inner.field(i) for i in range(inner.type.num_fields)}
        entries = [
            _values(f"{name}: {key}", fields[key]) for key in ("entity", "label") if key in fields
        ]
        scores = [_numbers(f"{name}: {key}", fields[key]) for key in ("score",) if key in fields]
        return [lengths, *entries, *scores]
    found = [lengths] if lengths.get("least") != lengths.get("most") else []
    if pa.types.is_floating(kind.value_type):
        return [*found, _numbers(name, inner)]
    if pa.types.is_string(kind.value_type):
        return [*found, _values(name, inner)]
    return found


def _numbers(name: str, column: pa.Array) -> dict[str, Any]:
    numbers = column.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return {"column": name, "what": "numbers", "count": 0}
    counts, edges = np.histogram(numbers, _BINS)
    least, median, most = np.quantile(numbers, [0, 0.5, 1]).tolist()
    return {
        "column": name,
        "what": "numbers",
        "count": len(numbers),
        "least": round(least, 6),
        "median": round(median, 6),
        "most": round(most, 6),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


def _values(name: str, column: pa.Array) -> dict[str, Any]:
    counted = sorted(
        (
            (str(pair["values"]), int(pair["counts"]))
            for pair in pc.value_counts(column.drop_null()).to_pylist()
        ),
        key=lambda pair: (-pair[1], pair[0]),
    )
    return {
        "column": name,
        "what": "values",
        "count": sum(count for _, count in counted),
        "different": len(counted),
        "values": [{"value": value, "count": count} for value, count in counted[:_VALUES]],
    }

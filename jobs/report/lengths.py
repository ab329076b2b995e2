"""Lengths of texts, what was cut off, padding, and texts that occur more than once."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from jobs.report.parts import Parts
from jobs.report.sample import Sample

_BINS = 32
#: Rows of the table of files, and of the texts that occur most.
FILES, REPEATED = 25, 5
# What a loop over padded batches would compute: a usual batch size.
_PADDED_ROWS = 32


def lengths(sample: Sample, max_length: int | None) -> dict[str, Any]:
    """Tokens of the texts in the parts that were read.

    Args:
        sample: of the output.
        max_length: of a text, in tokens.
    """
    tokens = sample.lengths.filter("first")["n_tokens"].to_numpy()
    if not len(tokens):
        return {"rows": 0}
    most = max(int(tokens.max()), 1)
    counts, edges = np.histogram(tokens, bins=min(_BINS, most), range=(0, most))
    quantiles = np.quantile(tokens, [0.5, 0.9, 0.99]).astype(int).tolist()
    return {
        "rows": len(tokens),
        "parts": len(sample.parts),
        "of": sample.of,
        "mean": round(float(tokens.mean()), 1),
        "median": quantiles[0],
        "p90": quantiles[1],
        "p99": quantiles[2],
        "most": most,
        "limit": max_length,
        "edges": [round(edge, 3) for edge in edges.tolist()],
        "counts": counts.tolist(),
    }


def by_file(parts: Parts) -> dict[str, Any]:
    """Rows, tokens and truncation of each input file, from the counts of all parts known."""
    known = parts.table.filter("read")
    names = ["rows", "tokens", "truncated", "failed"]
    files = (
        known.group_by("file")
        .agg(
            pl.col(names).sum(),
            pl.when(pl.col("cut").is_null().any())
            .then(None)
            .otherwise(pl.col("cut").sum())
            .alias("cut"),
        )
        .sort(["truncated", "tokens", "file"], descending=[True, True, False])
    )
    return {
        "files": len(files),
        "truncated": files.filter(pl.col("truncated") > 0).height,
        "first": files.head(FILES).to_dicts(),
    }


def padding(sample: Sample, parts: Parts) -> dict[str, Any]:
    """Tokens that no row needs, and what padded batches in input order would have had."""
    counted = [info.values.get("padding", "0") for info in parts.infos.values()]
    texts = sample.lengths.filter(pl.col("n_tokens") > 0)
    batches = texts.with_columns(
        batch=pl.int_range(pl.len()).over("part") // _PADDED_ROWS
    ).group_by("part", "batch")
    found = batches.agg(needed=pl.col("n_tokens").sum(), padded=pl.col("n_tokens").max() * pl.len())
    needed, padded = int(found["needed"].sum()), int(found["padded"].sum())
    stages = any("stages" in info.values for info in parts.infos.values())
    return {
        "tokens": sum(int(each) for each in counted if each.isdigit()) if stages else None,
        "of": int(parts.table.filter(pl.col("part").is_in(list(parts.infos)))["tokens"].sum()),
        "batch": _PADDED_ROWS,
        "naive": None if not needed else round(1 - needed / padded, 4),
    }


def duplicates(sample: Sample) -> dict[str, Any] | None:
    """Equal texts among the rows that were read; None where parts have no row keys."""
    if not len(sample.keys):
        return None
    counted = sample.keys.value_counts().sort("count", descending=True)
    shown = {}
    if sample.results is not None and "row_key" in sample.results.column_names:
        keys = sample.results["row_key"].to_pylist()
        shown = {key: row for row, key in reversed(list(enumerate(keys)))}
    first = [
        {"rows": count, "example": _named(sample, shown.get(key))}
        for key, count in counted.head(REPEATED).iter_rows()
        if count > 1
    ]
    return {
        "rows": len(sample.keys),
        "different": len(counted),
        "repeated": int(counted.filter(pl.col("count") > 1)["count"].sum()),
        "first": first,
    }


def _named(sample: Sample, row: int | None) -> str | None:
    """The id of a row of the sample; None where it is not one."""
    if row is None or not sample.names:
        return None
    return _id(sample, row)


def _id(sample: Sample, row: int) -> str:
    values = dict(zip(sample.names, sample.shown[row], strict=True))
    if sample.names[:2] == ("source_file", "source_row"):
        return f"{values['source_file']}, row {values['source_row']}"
    return next(iter(values.values()), f"row {row}")


def name_of(sample: Sample, row: int) -> str:
    """The id of a row of the sample, or where it is from."""
    return _id(sample, row)

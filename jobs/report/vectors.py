"""Dense vectors of a sample: norms, how evenly they are spread, a map, and neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float32]

#: Rows whose neighbours are shown, and how many of these.
QUERIES, NEIGHBOURS = 6, 3
_BINS = 24
# What no sound model gives, of texts that differ: see docs/report.md.
_SAME_DIRECTION = 0.9  # mean cosine of two vectors
_FEW_DIRECTIONS = 3.0
_CONSTANT = 0.1  # share of dimensions
_EQUAL = 0.05  # share of rows whose vector is that of another text
_UNIT = 0.02  # of a norm
_ENOUGH_ROWS = 50


def dense_column(results: pa.Table) -> str | None:
    """The column of vectors to look at: of several, the one with the most bits."""
    found = [
        (_bits(field.type) * field.type.list_size, -index, field.name)
        for index, field in enumerate(results.schema)
        if pa.types.is_fixed_size_list(field.type) and _bits(field.type)
    ]
    return max(found)[2] if found else None


def _bits(kind: pa.DataType) -> int:
    bits = {pa.float32(): 32, pa.float16(): 16, pa.int8(): 8, pa.uint8(): 1}
    return bits.get(kind.value_type, 0)


def vectors_of(results: pa.Table, name: str) -> Floats:
    """The vectors of a column, [R, width] float32; binary ones as -1 and 1."""
    column = results[name].combine_chunks()
    width = column.type.list_size
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if column.type.value_type == pa.uint8():
        bits: Floats = np.unpackbits(values, axis=1).astype(np.float32)
        return bits * np.float32(2) - np.float32(1)
    if column.type.value_type == pa.int8():
        scales = results[f"{name}_scale"].to_numpy()
        return np.asarray(values * scales[:, None], dtype=np.float32)
    return np.asarray(values, dtype=np.float32)


def look_at(vectors: Floats, keys: Sequence[bytes] | None, *, unit: bool | None) -> dict[str, Any]:
    """What is seen of some vectors.

    Args:
        vectors: [R, D], R ≥ 1.
        keys: of the texts; None where they are not known.
        unit: whether they shall have unit length; None where that is not known.
    """
    finite = np.asarray(np.isfinite(vectors).all(axis=1), dtype=np.bool_)
    norms = np.linalg.norm(vectors[finite].astype(np.float64), axis=1)
    lengths = np.maximum(norms, 1e-12)[:, None]
    directions = (vectors[finite] / lengths).astype(np.float32)
    spread = _spread(directions)
    seen = {
        "rows": len(vectors),
        "dimensions": vectors.shape[1],
        "not_finite": int((~finite).sum()),
        "norms": _quantiles(norms),
        "norm_bins": _bins(norms),
        "zero": int((norms < 1e-6).sum()),
        "constant_dimensions": int((np.ptp(vectors[finite], axis=0) == 0).sum())
        if finite.any()
        else 0,
        "equal": _equal(vectors[finite], keys, finite),
        **spread,
    }
    return {**seen, "warnings": list(_warnings(seen, unit))}


def _quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {}
    names = ("least", "median", "most")
    return dict(zip(names, np.quantile(values, [0, 0.5, 1]).round(6).tolist(), strict=True))


def _bins(values: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    counts, edges = np.histogram(values, _BINS) if len(values) else ([], [])
    return {"edges": np.asarray(edges).tolist(), "counts": np.asarray(counts).tolist()}


def _spread(directions: Floats) -> dict[str, Any]:
    """Mean cosine of two different rows, and how many directions hold the variance."""
    rows = len(directions)
    if rows < 2:
        return {"mean_cosine": None, "effective_dimensions": None}
    total = directions.sum(axis=0, dtype=np.float64)
    squares = float((directions.astype(np.float64) ** 2).sum())
    cosine = (float(total @ total) - squares) / (rows * (rows - 1))
    values = _components(directions)[0]
    effective = float(values.sum() ** 2 / max(float((values**2).sum()), 1e-30))
    return {"mean_cosine": round(cosine, 4), "effective_dimensions": round(effective, 1)}


def _components(vectors: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Variances of the principal components, largest first, and the rows on the first two."""
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    wide = centred.shape[1] > centred.shape[0]
    values, axes = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1][:, :2]
    places = axes * np.sqrt(values[:2]) if wide else centred @ axes
    return values, places


def places(vectors: Floats) -> tuple[npt.NDArray[np.float64], float]:
    """Rows in the plane of their two principal components, [R, 2], and its share of the variance.

    Which way an axis points is settled, so that equal vectors give equal maps.
    """
    values, found = _components(vectors)
    if found.shape[1] < 2:
        found = np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
    turned = found * np.where(np.abs(found.min(axis=0)) > found.max(axis=0), -1, 1)
    return turned, float(values[:2].sum() / max(float(values.sum()), 1e-30))


def _equal(vectors: Floats, keys: Sequence[bytes] | None, finite: npt.NDArray[np.bool_]) -> int:
    """Rows whose vector is also that of another text."""
    if keys is None:
        return 0
    texts: dict[bytes, set[bytes]] = {}
    known = [key for key, good in zip(keys, finite.tolist(), strict=True) if good]
    packed = [np.ascontiguousarray(vector).tobytes() for vector in vectors]
    for vector, key in zip(packed, known, strict=True):
        texts.setdefault(vector, set()).add(key)
    return sum(len(texts[vector]) > 1 for vector in packed)


def _warnings(seen: dict[str, Any], unit: bool | None) -> Iterator[str]:
    rows = seen["rows"]
    if seen["not_finite"]:
        yield f"{seen['not_finite']:,} of {rows:,} vectors hold values that are not numbers."
    if seen["zero"]:
        yield f"{seen['zero']:,} of {rows:,} vectors are zero: they are near to nothing."
    norms = seen["norms"]
    if unit and norms and max(abs(norms["least"] - 1), abs(norms["most"] - 1)) > _UNIT:
        yield (
            f"The vectors should have unit length, but their lengths are {norms['least']:.3g} to "
            f"{norms['most']:.3g}."
        )
    if rows < _ENOUGH_ROWS:
        return
    if seen["mean_cosine"] is not None and seen["mean_cosine"] > _SAME_DIRECTION:
        yield (
            f"Two texts have a cosine of {seen['mean_cosine']:.2f} on average: the vectors point "
            "almost all in one direction, and a search would find anything for everything."
        )
    if seen["effective_dimensions"] is not None and seen["effective_dimensions"] < _FEW_DIRECTIONS:
        yield (
            f"The variance is that of about {seen['effective_dimensions']:.1f} dimensions of "
            f"{seen['dimensions']:,}: the vectors have collapsed."
        )
    if seen["constant_dimensions"] > _CONSTANT * seen["dimensions"]:
        yield (
            f"{seen['constant_dimensions']:,} of {seen['dimensions']:,} dimensions have the same "
            "value in every vector."
        )
    if seen["equal"] > _EQUAL * rows:
        yield (
            f"{seen['equal']:,} of {rows:,} vectors are equal to that of another text, as happens "
            "where a tokenizer does not match its model, or texts differ only where they are cut "
            "off."
        )


def neighbours(
    vectors: Floats, keys: Sequence[bytes] | None
) -> list[tuple[int, list[tuple[int, float]]]]:
    """Some rows, each with the rows that are nearest by cosine among the others.

    Rows with the text of a row are not its neighbours.
    """
    if len(vectors) < 2:
        return []
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    directions = np.nan_to_num(vectors / lengths)
    chosen = np.unique(np.linspace(0, len(vectors) - 1, QUERIES + 2).astype(int)[1:-1])
    cosines = directions[chosen] @ directions.T
    found = []
    for query, row in zip(chosen.tolist(), cosines, strict=True):
        seen, near = {query if keys is None else keys[query]}, []
        for other in np.argsort(-row, kind="stable").tolist():
            name = other if keys is None else keys[other]
            if other != query and name not in seen:
                seen.add(name)
                near.append((other, round(float(row[other]), 4)))
            if len(near) == NEIGHBOURS:
                break
        found.append((query, near))
    return found

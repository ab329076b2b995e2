"""The map of the vectors, their norms and neighbours, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from jobs.pages.charts import Axis, histogram
from jobs.pages.scatter import Point, scatter
from jobs.pages.words import count, number, share, shortened

_VALUE_CHARS = 80
_COLUMNS = 8
_FLAT = 1e-3


def vectors_shown(report: Mapping[str, Any], points: int) -> dict[str, Any]:
    """What the template names of vectors.

    Args:
        report: what was gathered.
        points: of the map, at most.
    """
    vectors = report["vectors"]
    if vectors is None:
        return {
            "map": "",
            "health": [],
            "norms": "",
            "near": [],
            "near_notes": [],
            "vector_notes": [],
        }
    near = vectors["neighbours"]
    return {
        "vector_notes": _notes(report, vectors),
        "map": _map(vectors, points),
        "health": _health(vectors),
        "norms": _norms(vectors),
        "near": [
            {
                **row,
                "near": [{**other, "cosine": f"{other['cosine']:.3f}"} for other in row["near"]],
            }
            for row in near["rows"]
        ],
        "near_notes": _near_notes(near),
    }


def _notes(report: Mapping[str, Any], vectors: Mapping[str, Any]) -> list[str]:
    rows = report["rows"]["done"] or report["sample"]["rows"]
    of = f"{count(vectors['rows'])} of {count(rows)} rows"
    return [f"The column {vectors['column']} of {of}: {count(vectors['dimensions'])} dimensions."]


def _map(vectors: Mapping[str, Any], most: int) -> Markup | str:
    found, names = vectors["map"]["points"], vectors["map"]["names"]
    if not most or not found:
        return ""
    chosen = np.unique(np.linspace(0, len(found) - 1, most).astype(int)).tolist()
    points = [
        Point(found[at]["x"], found[at]["y"], _text(names, found[at]["values"])) for at in chosen
    ]
    part = share(vectors["map"]["share"])
    return scatter(
        f"{count(len(points))} rows in the plane of their two principal components, which holds "
        f"{part} of the variance",
        points,
        description="Rows that are near each other have similar vectors.",
    )


def _text(names: list[str], values: list[str]) -> str:
    pairs = list(zip(names, values, strict=True))[:_COLUMNS]
    return "\n".join(f"{name}: {shortened(value, _VALUE_CHARS)}" for name, value in pairs)


def _health(vectors: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    norms, cosine = vectors["norms"], vectors["mean_cosine"]
    effective = vectors["effective_dimensions"]
    pairs = [("warnings", "none", "")] if not vectors["warnings"] else []
    if norms:
        least, median, most = (f"{norms[name]:.4g}" for name in ("least", "median", "most"))
        span = f"{least}, every one" if least == most else f"{least} to {most}, median {median}"
        pairs.append(("length of the vectors", span, ""))
    if cosine is not None:
        pairs.append(
            (
                "mean cosine",
                f"{cosine:.3f}",
                "of two different rows; 0 is evenly spread, 1 all alike",
            )
        )
    if effective is not None:
        why = f"as many directions of {count(vectors['dimensions'])} would hold the variance evenly"
        pairs.append(("effective dimensions", f"{effective:.1f}", why))
    pairs.append(("constant dimensions", count(vectors["constant_dimensions"]), ""))
    pairs.append(("equal to another text's", count(vectors["equal"]), "vectors"))
    return pairs


def _norms(vectors: Mapping[str, Any]) -> Markup | str:
    norms, bins = vectors["norms"], vectors["norm_bins"]
    if not norms or norms["most"] - norms["least"] < _FLAT * max(norms["most"], 1e-9):
        return ""
    return histogram(
        "Lengths of the vectors",
        bins["edges"],
        bins["counts"],
        x=Axis("length", number),
        y=Axis("rows", count),
        description=f"From {norms['least']:.4g} to {norms['most']:.4g}.",
    )


def _near_notes(near: Mapping[str, Any]) -> list[str]:
    notes = [
        f"Of a few rows, those with the highest cosine among {count(near['among'])} that were "
        "read; in the whole output there may be nearer ones. Rows with the same text are left out."
    ]
    shown = [row for each in near["rows"] for row in (each, *each["near"])]
    if any(row["text"] is None for row in shown):
        why = f": {near['problem']}" if near["problem"] else ""
        notes.append(f"The texts of some rows could not be read from the inputs{why}.")
    return notes

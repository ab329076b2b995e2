"""Scores, labels, entities and terms, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from jobs.pages.charts import Axis, bars, histogram
from jobs.pages.words import count, number, share, shortened

_CHARS = 60


def results_shown(report: Mapping[str, Any], *, vectors: bool) -> dict[str, Any]:
    """What the template names of results that are no dense vectors.

    Args:
        report: what was gathered.
        vectors: whether there are dense vectors beside them.
    """
    charts = [chart for each in report["results"] if (chart := _chart(each)) is not None]
    shown: dict[str, Any] = {
        "results_title": "Vectors" if vectors else "Results",
        "results": charts,
    }
    if not vectors:
        rows = count(report["sample"]["rows"])
        text = (
            f"Of {rows} rows with a result."
            if charts
            else "There is nothing here that can be drawn."
        )
        shown["vector_notes"] = [text]
    return shown


def _chart(result: Mapping[str, Any]) -> Markup | None:
    name = result["column"]
    if not result["count"]:
        return None
    if result["what"] == "values":
        values, different = result["values"], result["different"]
        few = f"the first {len(values)} of {count(different)}" if different > len(values) else "all"
        return bars(
            f"{name}: {few} by how often they occur",
            [(shortened(each["value"], _CHARS), each["count"]) for each in values],
            form=count,
            notes=[share(each["count"], result["count"]) for each in values],
        )
    what = "entries in a row" if result["what"] == "lengths" else "values"
    return histogram(
        f"{name}: {what}, {number(result['least'])} to {number(result['most'])}, median "
        f"{number(result['median'])}",
        result["edges"],
        result["counts"],
        x=Axis(name, number),
        y=Axis("values" if result["what"] == "numbers" else "rows", count),
    )

"""A rehearsal as a page, made of its JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from jobs.pages.charts import WIDTH, Axis, bars, data, figure, histogram
from jobs.pages.page import render
from jobs.pages.scales import Scale
from jobs.pages.words import count, share, shortened
from jobs.rehearse.lines import rows

Report = Mapping[str, Any]
_NAME = 60  # characters
_LEFT, _RIGHT, _LINE = 170, 40, 34  # of the chart of differences


def rehearsal_page(report: Report) -> str:
    """The HTML of a rehearsal."""
    sample, before, after = report["sample"], report["from"], report["to"]
    return render(
        "rehearsal.html",
        kind="Rehearsal of a change",
        title=f"{shortened(before['short'], _NAME)} → {shortened(after['short'], _NAME)}",
        subtitle=f"{count(sample['compared'])} texts of {count(sample['corpus_rows'])} rows of "
        f"{', '.join(report['inputs'])}",
        report=report,
        overlap=_overlap(report["neighbours"]),
        kept=[_kept(one) for one in report["neighbours"] if one["k"] > 1],
        sides=_sides(report),
        metrics=_metrics(report),
        differences=_differences(report),
        settings=[[key, before[key], after[key]] for key in ("name", "space", "prompt", "submit")],
    )


def _sides(report: Report) -> list[list[str]]:
    """The rows of the terminal; what is indented there has the name of what it is part of."""
    metrics = (report["retrieval"] or {"metrics": {}})["metrics"]
    found, whole = [], ""
    for name, *values in rows(report):
        if name in metrics:
            continue
        if name.startswith(" "):
            name = f"{whole}: {name.strip()}"
        else:
            whole = name
        found.append([name, *values])
    return found


def _overlap(neighbours: list[Report]) -> Markup:
    return bars(
        "Share of the nearest neighbours that are the same on both sides, on average",
        [(f"of the nearest {one['k']}", one["mean"]) for one in neighbours],
        form=share,
        most=1.0,
        notes=[
            f"all of them: {share(one['unchanged'])} of the texts" if one["k"] > 1 else ""
            for one in neighbours
        ],
    )


def _kept(one: Report) -> Markup:
    k, counts = one["k"], one["rows_by_kept"]
    # Of a hundred, ten at a time; all of them stand alone.
    step = max(1, k // 10)
    edges = [*range(0, k + 1, step), k + 1]
    grouped = [sum(counts[low:high]) for low, high in pairwise(edges)]
    names = [
        f"{low}" if high == low + 1 else f"{low} to {high - 1}" for low, high in pairwise(edges)
    ]
    middle = one["quantiles"]["50"] * k
    return histogram(
        f"How many of its {k} nearest neighbours a text keeps",
        edges,
        grouped,
        x=Axis("neighbours kept", count),
        y=Axis("texts", count),
        description=f"Half of the texts keep {middle:.0f} or fewer.",
        names=names,
    )


def _metrics(report: Report) -> list[list[str]]:
    def interval(mean: Report, form: str) -> str:
        low, high = format(mean["low"], form), format(mean["high"], form)
        return f"{mean['mean']:{form}} ({low} to {high})"

    found = (report["retrieval"] or {"metrics": {}})["metrics"]
    return [
        [
            Markup('<span style="white-space: nowrap">{}</span>').format(name),
            interval(one["from"], ".3f"),
            interval(one["to"], ".3f"),
            interval(one["difference"], "+.3f"),
            f"{count(one['better'])} / {count(one['worse'])}",
        ]
        for name, one in found.items()
    ]


def _differences(report: Report) -> Markup:
    """A dot for each metric, and a line as long as its interval."""
    found = (report["retrieval"] or {"metrics": {}})["metrics"]
    if not found:
        return Markup()
    ends = [one["difference"][key] for one in found.values() for key in ("low", "high")]
    across = Scale(min(0.0, *ends) - 1e-9, max(0.0, *ends) + 1e-9, _LEFT, WIDTH - _RIGHT)
    height = _LINE * len(found) + 24
    drawn = Markup('<line class="limit" x1="{0}" x2="{0}" y1="4" y2="{1}"/>').format(
        across(0), height - 20
    )
    drawn += Markup(
        '<text class="tick" text-anchor="middle" x="{}" y="{}">as before</text>'
    ).format(across(0), height - 5)
    table = []
    for place, (name, one) in enumerate(found.items()):
        low, mean, high = (one["difference"][key] for key in ("low", "mean", "high"))
        drawn += Markup(
            '<text class="name" x="0" y="{1}">{0}</text>'
            '<line class="line" x1="{2}" x2="{3}" y1="{5}" y2="{5}"/>'
            '<circle class="mark" cx="{4}" cy="{5}" r="5"/>'
        ).format(
            name, _LINE * place + 24, across(low), across(high), across(mean), _LINE * place + 20
        )  # fmt: skip
        table.append((name, f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"))
    return figure(
        "Difference of each metric, with its 95 % interval",
        "Right of the dashed line, the new side finds better.",
        height,
        drawn,
        data(("metric", "difference"), table),
    )

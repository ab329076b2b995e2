"""Bars, histograms and lines, drawn by hand in SVG and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup, escape

from jobs.pages.scales import Scale
from jobs.pages.words import number

WIDTH = 680
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 10, 38
_LABELS = 110  # to the right of lines
_LINE_CHARS = 24

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """Points with rising x, joined by a line that carries its name."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Band:
    """A range of x that is shaded, such as a stall, and what is said of it on hover."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis is called, and how its values are written."""

    label: str = ""
    form: Format = field(default=number)


def bars(
    caption: str,
    rows: Sequence[tuple[str, float]],
    *,
    form: Format = number,
    most: float | None = None,
    notes: Sequence[str] = (),
    warn: Sequence[bool] = (),
) -> Markup:
    """A table with a bar in each row.

    Args:
        caption: what is shown, in a few words.
        rows: label and value, 0 or more.
        form: how values are written.
        most: the value of a full bar; by default the largest one.
        notes: a few words after each value.
        warn: of each row, whether it stands out.
    """
    full = max([value for _, value in rows], default=0) if most is None else most
    lines = Markup()
    for index, (label, value) in enumerate(rows):
        width = round(100 * min(1.0, value / full), 2) if full else 0
        note = notes[index] if notes else ""
        kind = ' class="warn"' if warn and warn[index] else ""
        lines += Markup(
            '<tr{}><th scope="row">{}</th><td class="bar"><svg viewBox="0 0 100 10" '
            'preserveAspectRatio="none" aria-hidden="true"><rect width="{}" height="10"/></svg>'
            '</td><td class="num">{}</td>{}</tr>\n'
        ).format(
            Markup(kind),
            label,
            width,
            form(value),
            Markup('<td class="after">{}</td>').format(note) if notes else "",
        )
    return Markup('<table class="bars"><caption>{}</caption>\n<tbody>{}</tbody></table>').format(
        caption, lines
    )


def histogram(
    caption: str,
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    x: Axis,
    y: Axis,
    description: str = "",
    marks: Sequence[tuple[float, str]] = (),
    names: Sequence[str] = (),
) -> Markup:
    """Counts over ranges of values; ranges may differ in width, and are drawn so.

    Args:
        caption: what is shown.
        edges: of the ranges, rising; one more than counts.
        counts: of each range.
        x: axis of the values.
        y: axis of the counts.
        description: what a reader shall see in it, for those who cannot.
        marks: values with a vertical line and its words.
        names: of the ranges; by default their ends.
    """
    across = Scale(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    up = Scale(0, max([*counts, 1]), 180, _TOP)
    drawn = _grid(across, up, x, y)
    names = names or [f"{x.form(low)} to {x.form(high)}" for low, high in pairwise(edges)]
    for name, (low, high), rows in zip(names, pairwise(edges), counts, strict=True):
        text = f"{name}: {y.form(rows)} {y.label}"
        left, right = across(low), across(high)
        gap = 1 if right - left > 4 else 0
        drawn += Markup(
            '<rect class="mark" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        ).format(
            left,
            up(rows),
            round(max(0.5, right - left - gap), 2),
            round(up.start - up(rows), 2),
            text,
        )
    for value, text in marks:
        drawn += _mark(across, up, value, text)
    table = [(name, y.form(rows)) for name, rows in zip(names, counts, strict=True)]
    heads = (x.label or "value", y.label or "count")
    return figure(caption, description, 180 + _BOTTOM, drawn, data(heads, table))


def lines(
    caption: str,
    series: Sequence[Line],
    *,
    x: Axis,
    y: Axis,
    description: str = "",
    bands: Sequence[Band] = (),
    steps: bool = False,
) -> Markup:
    """Lines over a common axis, each named at its end.

    Args:
        caption: what is shown.
        series: at least one, with at least one point.
        x: axis of the first values.
        y: axis of the second values, which starts at 0.
        description: what a reader shall see in it, for those who cannot.
        bands: shaded ranges of x.
        steps: whether a value holds until the next point, as rates do.
    """
    points = [point for line in series for point in line.points]
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    right = WIDTH - (_LABELS if len(series) > 1 else _RIGHT)
    across = Scale(first, last, _LEFT, right)
    up = Scale(0, max([value for _, value in points] + [1e-9]), 200, _TOP)
    drawn = Markup()
    for band in bands:
        left, width = across(band.start), across(band.end) - across(band.start)
        drawn += Markup(
            '<rect class="band" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
        ).format(left, _TOP, round(max(1.0, width), 2), 200 - _TOP, band.text)
    drawn += _grid(across, up, x, y)
    for index, line in enumerate(series):
        drawn += Markup('<path class="line s{}" d="{}"/>').format(
            index % 3, _path(line, across, up, steps=steps)
        )
        if len(series) > 1:
            at, value = line.points[-1]
            drawn += Markup('<text class="name s{}" x="{}" y="{}">{}</text>').format(
                index % 3, across(at) + 6, up(value) + 4, line.name[:_LINE_CHARS]
            )
    rows = [(line.name, x.form(at), y.form(value)) for line in series for at, value in line.points]
    return figure(
        caption, description, 200 + _BOTTOM, drawn, data(("line", x.label, y.label), rows)
    )


def figure(caption: str, description: str, height: float, drawn: Markup, after: Markup) -> Markup:
    """A chart with its caption and its description."""
    return Markup(
        '<figure><figcaption>{}</figcaption>\n<svg class="chart" viewBox="0 0 {} {}" role="img" '
        'aria-label="{}">{}</svg>\n{}</figure>'
    ).format(caption, WIDTH, height, f"{caption}. {description}".strip(), drawn, after)


def data(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """The values of a chart as a table that opens on demand."""
    head = Markup().join(Markup('<th scope="col">{}</th>').format(name) for name in heads)
    body = Markup().join(
        Markup("<tr>{}</tr>").format(
            Markup().join(Markup("<td>{}</td>").format(cell) for cell in row)
        )
        for row in rows
    )
    return Markup(
        '<details class="data"><summary>as a table<span class="unseen"> of {} rows</span></summary>'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></details>"
    ).format(len(rows), head, body)


def _path(line: Line, across: Scale, up: Scale, *, steps: bool) -> str:
    words = []
    for index, (at, value) in enumerate(line.points):
        if index == 0:
            words.append(f"M{across(at)} {up(value)}")
        elif steps:
            words.append(f"H{across(at)}V{up(value)}")
        else:
            words.append(f"L{across(at)} {up(value)}")
    return "".join(words)


def _mark(across: Scale, up: Scale, value: float, text: str) -> Markup:
    at = across(value)
    side = "end" if at > WIDTH / 2 else "start"
    return Markup(
        '<line class="limit" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text class="name" text-anchor="{3}" x="{4}" y="{5}">{6}</text>'
    ).format(at, _TOP, up.start, side, at - 5 if side == "end" else at + 5, _TOP + 11, text)


def _grid(across: Scale, up: Scale, x: Axis, y: Axis) -> Markup:
    """Horizontal lines with their values, and the values below."""
    drawn = Markup()
    for tick in up.ticks(3):
        drawn += Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
            '<text class="tick" text-anchor="end" x="{}" y="{}">{}</text>'
        ).format(
            across.start, across.end, up(tick), up(tick), _LEFT - 8, up(tick) + 4, y.form(tick)
        )
    for tick in across.ticks(6):
        drawn += Markup('<text class="tick" text-anchor="middle" x="{}" y="{}">{}</text>').format(
            across(tick), up.start + 17, x.form(tick)
        )
    return drawn + Markup(
        '<text class="tick axis" text-anchor="end" x="{}" y="{}">{}</text>'
    ).format(across.end, up.start + 33, escape(x.label))

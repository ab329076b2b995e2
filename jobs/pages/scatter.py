"""Points in a plane, which show their text on hover and on keyboard focus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from jobs.pages.charts import WIDTH
from jobs.pages.scales import Scale

_HEIGHT, _EDGE = 460, 12


@dataclass(frozen=True, slots=True)
class Point:
    """A point; the lines of its text are shown when it is pointed at."""

    x: float
    y: float
    text: str
    marked: bool = False


def scatter(caption: str, points: Sequence[Point], *, description: str = "") -> Markup:
    """A plane of points with the same unit on both axes.

    One point at a time is a stop of the Tab key; arrow keys move to its nearest neighbour in that
    direction. Below, the text of the point that is looked at.

    Args:
        caption: what is shown.
        points: at least one.
        description: what a reader shall see in it, for those who cannot.
    """
    across, up = _scales(points)
    order = sorted(range(len(points)), key=lambda index: points[index].marked)
    drawn = Markup("\n").join(
        Markup(
            '<circle cx="{}" cy="{}" r="{}"{} tabindex="{}" role="img"><title>{}</title></circle>'
        ).format(
            across(points[index].x),
            up(points[index].y),
            4 if points[index].marked else 3,
            Markup(' class="marked"') if points[index].marked else "",
            -1 if place else 0,
            points[index].text,
        )
        for place, index in enumerate(order)
    )
    return Markup(
        '<figure class="scatter"><figcaption>{0}</figcaption>\n'
        '<svg class="chart" viewBox="0 0 {1} {2}" role="group" aria-label="{3}">\n{4}\n</svg>\n'
        '<p class="shown" aria-live="polite">Point at a dot, or press Tab and the arrow keys: its '
        "row is shown here.</p></figure>"
    ).format(caption, WIDTH, _HEIGHT, f"{caption}. {description}".strip(), drawn)


def _scales(points: Sequence[Point]) -> tuple[Scale, Scale]:
    xs, ys = [point.x for point in points], [point.y for point in points]
    wide, high = max(xs) - min(xs), max(ys) - min(ys)
    unit = max(wide / (WIDTH - 2 * _EDGE), high / (_HEIGHT - 2 * _EDGE)) or 1.0
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    half_x, half_y = WIDTH / 2 * unit, _HEIGHT / 2 * unit
    return (
        Scale(middle_x - half_x, middle_x + half_x, 0, WIDTH),
        Scale(middle_y - half_y, middle_y + half_y, _HEIGHT, 0),
    )

"""What a rehearsal means, in one sentence."""

from __future__ import annotations

from jobs.pages.words import share, shortened
from jobs.rehearse.results import Rehearsal, Retrieval, Tried

_NAME_CHARACTERS = 60


def verdict(found: Rehearsal) -> str:
    """One sentence: what becomes of results, and what it costs."""
    name = shortened(found.second.planned.side.short, _NAME_CHARACTERS)
    said = _retrieval(found.retrieval, name) if found.retrieval else _neighbours(found, name)
    return f"{said}; {_costs(found.first, found.second)}."


def _retrieval(found: Retrieval, name: str) -> str:
    """By the metric that decides, where its interval leaves no doubt."""
    one = found.metrics[0]
    change = (
        f"{one.metric} goes from {one.first.mean:.3f} to {one.second.mean:.3f} "
        f"({one.difference.mean:+.3f}, 95 % interval {one.difference.low:+.3f} to "
        f"{one.difference.high:+.3f}, {found.queries:,} queries)"
    )
    if one.difference.low > 0:
        return f"{name} finds better: {change}"
    if one.difference.high < 0:
        return f"{name} finds worse: {change}"
    return f"No difference between {name} and what is in use can be told: {change}"


def _neighbours(found: Rehearsal, name: str) -> str:
    # Of ten, or of as many as there are.
    one = max((each for each in found.overlaps if each.k <= 10), key=lambda each: each.k)
    if one.k == 1:
        kept = f"{share(one.mean)} of the texts have the same nearest neighbour"
    else:
        low, high = one.quantiles[25] * one.k, one.quantiles[75] * one.k
        kept = (
            f"{one.mean * one.k:.1f} of a text's {one.k} nearest neighbours are the same on "
            f"average ({low:.0f} to {high:.0f} for half of the texts)"
        )
    return (
        f"With {name}, {kept}; whether the others are better, only --queries and --qrels can tell"
    )


def _costs(first: Tried, second: Tried) -> str:
    size = _ratio(second.costs.vector_bytes, first.costs.vector_bytes)
    said = f"its vectors take {size or 'as many'}{' times the' if size else ''} bytes"
    if first.costs.seconds and second.costs.seconds:
        time = _ratio(second.costs.seconds, first.costs.seconds)
        said += f", and its backfill takes {f'{time} times ' if time else ''}as long"
    return said


def _ratio(after: float, before: float) -> str:
    """Such as 0.33; "" where both are about the same."""
    ratio = after / before if before else 1.0
    return "" if 0.95 <= ratio <= 1.05 else f"{ratio:.2g}"

"""A rehearsal as lines for a terminal, made of its JSON object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.pages.words import count, duration, share, size

Report = Mapping[str, Any]
_NAME, _VALUE = 18, 16


def lines(report: Report) -> Iterator[str]:
    """What a person reads."""
    sample = report["sample"]
    yield (
        f"rehearsed on {count(sample['compared'])} texts of {count(sample['corpus_rows'])} rows"
        f"{_left_out(sample)}"
    )
    for side in ("from", "to"):
        yield f"  {side:<{_NAME - 2}}{report[side]['name']}"
    yield ""
    yield f"  {'neighbours kept':<{_NAME}}{'mean':>9}{'half of the texts':>21}{'all kept by':>14}"
    for one in report["neighbours"]:
        low, high = (one["quantiles"][key] for key in ("25", "75"))
        between = f"{share(low)} to {share(high)}" if one["k"] > 1 else ""
        yield (
            f"  {'of the nearest ' + str(one['k']):<{_NAME}}{share(one['mean']):>9}{between:>21}"
            f"{share(one['unchanged']):>14}"
        )
    yield ""
    yield f"  {'':<{_NAME}}{'from':>{_VALUE}}{'to':>{_VALUE}}"
    for name, before, after in rows(report):
        yield f"  {name:<{_NAME}}{before:>{_VALUE}}{after:>{_VALUE}}"
    yield ""
    yield report["verdict"]


def rows(report: Report) -> Iterator[tuple[str, str, str]]:
    """What is known of each side: a name, and its values on both."""

    def row(name: str, value: Callable[[Report], str]) -> tuple[str, str, str]:
        return name, value(report["from"]), value(report["to"])

    yield row("compared by", lambda side: side["vectors"]["compared_by"])
    yield row("bytes of a vector", lambda side: f"{side['bytes']['vector']:,.6g}")
    yield row("all vectors", lambda side: size(side["bytes"]["vectors"]))
    yield row("output", lambda side: size(side["bytes"]["output"]))
    yield row("tokens of a text", lambda side: f"{side['tokens']['mean']:,.1f}")
    yield row("  19 of 20 below", lambda side: count(side["tokens"]["quantiles"]["95"] + 1))
    yield row("  limit", lambda side: count(side["max_length"]))
    yield row("truncated texts", lambda side: share(side["truncated"]["share"]))
    if any(report[side]["truncated"]["tokens_cut"] for side in ("from", "to")):
        yield row("  tokens cut off", _cut)
    yield row(
        "tokens/s", lambda side: count(side["rate"]["tokens_per_second"]) if side["rate"] else "–"
    )
    yield row(
        "whole backfill", lambda side: "–" if side["seconds"] is None else duration(side["seconds"])
    )
    if any(report[side]["price"] is not None for side in ("from", "to")):
        yield row("price", lambda side: "–" if side["price"] is None else f"{side['price']:,.2f}")
    for name, one in (report["retrieval"] or {"metrics": {}})["metrics"].items():
        yield name, f"{one['from']['mean']:.4f}", f"{one['to']['mean']:.4f}"


def _cut(side: Report) -> str:
    cut = side["truncated"]["tokens_cut"]
    return "–" if cut is None else count(cut)


def _left_out(sample: Report) -> str:
    words = []
    if sample["duplicates"]:
        words.append(f"{count(sample['duplicates'])} whose text is another's")
    if sample["without_vector"]:
        words.append(f"{count(sample['without_vector'])} without a vector on at least one side")
    return f"; left out: {', '.join(words)}" if words else ""

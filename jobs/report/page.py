"""What was gathered of an output → its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.pages.page import render
from jobs.pages.words import count, duration, share, shortened, size
from jobs.report.show_results import results_shown
from jobs.report.show_rows import changes_shown, lengths_shown, rows_shown
from jobs.report.show_time import cost_shown, time_shown
from jobs.report.show_vectors import vectors_shown

#: Below a megabyte, whatever the rows hold.
MAX_BYTES = 900_000
_POINTS = (1200, 600, 300, 100, 0)
_CHARS = 300


def make_page(report: Mapping[str, Any]) -> str:
    """The page of what `jobs.report.gather.gather` returns.

    Where rows hold so much that it would be too large, its map has fewer points.
    """
    page = ""
    for points in _POINTS:
        page = _page(report, points)
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


def _page(report: Mapping[str, Any], points: int) -> str:
    drawn = vectors_shown(report, points)
    drawn |= results_shown(report, vectors=report["vectors"] is not None)
    return render(
        "report.html",
        kind="bei-jobs report",
        title=report["output"].rstrip("/").rpartition("/")[2] or report["output"],
        subtitle=_subtitle(report),
        facts_shown=_facts(report),
        warnings=_warnings(report),
        **_ran(report),
        **time_shown(report),
        **rows_shown(report),
        **lengths_shown(report),
        **changes_shown(report),
        **cost_shown(report),
        **drawn,
        footer=_footer(report),
    )


def _subtitle(report: Mapping[str, Any]) -> str:
    return (
        f"{report['task']} with {report['model']['name']}, run {report['run']}: {report['state']}"
    )


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows, counted, time = report["rows"], report["counted"], report["timeline"]
    facts = [
        ("rows", count(rows["done"]), f"of {count(rows['total'])}"),
        ("without a result", count(counted["failed"]), share(counted["failed"], rows["total"])),
        ("tokens", count(counted["tokens"]), ""),
        ("truncated", share(counted["truncated"], max(1, counted["of"])), "of the rows"),
        ("on disk", size(report["bytes"]), f"in {count(report['parts']['there'])} parts"),
    ]
    if time:
        rate = f"{count(time['tokens'] / max(time['seconds'], 1e-3))} tokens/s"
        facts.append(("computed in", duration(time["seconds"]), rate))
    return facts


def _warnings(report: Mapping[str, Any]) -> list[str]:
    state, vectors = report["state"], report["vectors"]
    found = []
    if state != "done":
        rows = report["rows"]
        what = (
            f"This run is not finished ({state}): {count(rows['done'])} of {count(rows['total'])}"
        )
        found.append(f"{what} rows are there, and the page is about those.")
    if report.get("reason"):
        found.append(shortened(" ".join(report["reason"].split()), _CHARS))
    if report["sample"]["unread"]:
        names = report["sample"]["unread"]
        name, why = next(iter(names.items()))
        found.append(f"{len(names)} of the parts could not be read, such as {name}: {why}")
    found += [
        f"The canary is not that of run {canary['since']}: {canary['change']}"
        for canary in report["canaries"]
        if canary["change"]
    ]
    return [*found, *(vectors["warnings"] if vectors else [])]


def _ran(report: Mapping[str, Any]) -> dict[str, Any]:
    model, computed, choices = report["model"], report["computed_with"], report["choices"]
    versions = computed.get("versions") or report["versions"]
    certificate = report["certificate"]
    rows: list[tuple[str, str]] = [
        ("output", report["output"]),
        ("input", ", ".join(shortened(uri, 120) for uri in report["inputs"][:5])),
        ("model", f"{model['name']} {model['revision'] or ''}".strip()),
        ("weights", f"SHA-256 {model['sha256'][:16]}…"),
        ("planned", f"{report['started']} by {report['by'] or 'someone: it was not kept'}"),
        ("ended", report["finished"] or "not yet"),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items()) or "not known"),
        ("certificate", _certificate(certificate)),
    ]
    rows += [
        (name.replace("_", " "), _plain(value))
        for name, value in computed.items()
        if name != "versions"
    ]
    return {
        "ran": rows,
        "choices": _choices(choices),
        "settings": [
            (name, _value(value))
            for key, value in report["settings"].items()
            if (name := key.replace("_", "-")) not in (choices or {})
        ],
    }


def _certificate(certificate: Mapping[str, Any] | None) -> str:
    if certificate is None:
        return "none: `bei-jobs check` makes one"
    failed = [proof["name"] for proof in certificate["proofs"] if proof["passed"] is False]
    verdict = f"failed: {', '.join(failed)}" if failed else "passed"
    return f"{verdict}, of {certificate['at']}"


def _choices(choices: Mapping[str, Mapping[str, Any]] | None) -> list[tuple[str, str, str]]:
    return [
        (name, _value(choice["value"]), shortened(str(choice["reason"]), _CHARS))
        for name, choice in (choices or {}).items()
    ]


def _value(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return shortened(text, _CHARS)


def _plain(value: str) -> str:
    """Names in a list, as parts hold them, without its brackets."""
    return shortened(value.replace("['", "").replace("']", "").replace("', '", ", "), _CHARS)


def _footer(report: Mapping[str, Any]) -> str:
    sample = report["sample"]
    read, counts = f"{count(sample['parts'])} of {count(sample['of'])} parts", _of(report["parts"])
    return (
        f"Made from the output's own files. Counts are those of {counts}. Lengths and "
        f"duplicates are of all rows of {read}, vectors and results of {count(sample['rows'])} of "
        "these rows, spread evenly. Nothing on this page is fetched from anywhere."
    )


def _of(parts: Mapping[str, int]) -> str:
    if parts["known"] == parts["there"]:
        return f"all {count(parts['there'])} parts"
    return f"{count(parts['known'])} of {count(parts['there'])} parts that are there"

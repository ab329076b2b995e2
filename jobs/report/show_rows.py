"""Outcomes, duplicates, lengths, truncation and changes, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jobs.pages.charts import Axis, bars, histogram
from jobs.pages.words import count, number, share, shortened
from pipeline.output.record import KINDS

_NAME_CHARS, _REASON_CHARS = 90, 240


def rows_shown(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template names in its section on rows."""
    rows, counted, quarantine = report["rows"], report["counted"], report["quarantine"]
    missing = rows["total"] - rows["done"]
    outcomes = [
        ("computed", counted["computed"]),
        ("reused from earlier parts", counted["reused"]),
        ("duplicates of another row", counted["deduplicated"]),
        ("without a result", counted["failed"]),
        *([("not done yet", missing)] if missing else []),
    ]
    return {
        "outcomes": bars(
            "Rows by outcome",
            outcomes,
            form=count,
            most=max(1, rows["total"]),
            notes=[share(value, rows["total"]) for _, value in outcomes],
            warn=[name in ("without a result", "not done yet") for name, _ in outcomes],
        ),
        "row_notes": [
            *_quarantine_notes(counted, quarantine),
            *_duplicate_notes(report["duplicates"]),
        ],
        "reasons": [
            (
                each["reason"],
                count(each["rows"]),
                f"{shortened(str(each['file']), _NAME_CHARS)}, row {each['row']}",
            )
            for each in quarantine["reasons"]
        ],
        "repeated": [
            (each["example"] or "(not among the rows shown)", count(each["rows"]))
            for each in (report["duplicates"] or {"first": []})["first"]
        ],
    }


def _quarantine_notes(counted: Mapping[str, int], quarantine: Mapping[str, Any]) -> list[str]:
    notes = []
    if not counted["failed"] and not quarantine["parts"]:
        return ["Every row that is there has a result."]
    if not quarantine["read"]:
        notes.append(
            "The rows without a result are not in _bei/quarantine/: the column error has their "
            "reasons."
        )
    elif quarantine["read"] < quarantine["parts"]:
        few = f"{count(quarantine['read'])} of {count(quarantine['parts'])} parts with such rows"
        notes.append(f"The reasons are those of {few}.")
    if quarantine["more"]:
        notes.append(f"{count(quarantine['more'])} more reasons are not shown.")
    return notes


def _duplicate_notes(duplicates: Mapping[str, Any] | None) -> list[str]:
    if duplicates is None:
        return ["Whether texts are equal is not known: these parts have no row keys."]
    rows, different = duplicates["rows"], duplicates["different"]
    if rows == different:
        return [f"Among the {count(rows)} rows that were read no two have the same text."]
    repeated = duplicates["repeated"]
    return [
        f"The {count(rows)} rows that were read have {count(different)} different texts; "
        f"{count(repeated)} rows ({share(repeated, rows)}) share theirs."
    ]


def lengths_shown(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template names in its section on lengths."""
    lengths, files = report["lengths"], report["by_file"]
    shown = files["first"]
    caption = f"The {len(shown)} of {count(files['files'])} files with the most truncated rows"
    return {
        "length_notes": _length_notes(report),
        "lengths": _histogram(lengths),
        "files": [_file(file) for file in shown],
        "files_caption": caption if files["files"] > len(shown) else "By file",
    }


def _histogram(lengths: Mapping[str, Any]) -> Markup | str:
    if not lengths["rows"]:
        return ""
    limit = lengths["limit"]
    marks = [(lengths["median"], f"median {count(lengths['median'])}")]
    if limit and limit <= lengths["most"] and limit > 1.3 * lengths["median"]:
        marks.append((limit, f"limit {count(limit)}"))
    return histogram(
        "Texts by their number of tokens, as the model read them",
        lengths["edges"],
        lengths["counts"],
        x=Axis("tokens", number),
        y=Axis("rows", count),
        description=f"Median {lengths['median']}, 99 of 100 at most {lengths['p99']} tokens.",
        marks=marks,
    )


def _length_notes(report: Mapping[str, Any]) -> list[str]:
    lengths, padding = report["lengths"], report["padding"]
    if not lengths["rows"]:
        return ["No row could be read, so nothing is known of lengths."]
    sampled = lengths["parts"] < lengths["of"]
    of = f", in {count(lengths['parts'])} of {count(lengths['of'])} parts" if sampled else ""
    notes = [
        f"Of {count(lengths['rows'])} texts{of}: {number(lengths['mean'])} tokens on average, half "
        f"have {count(lengths['median'])} or fewer, one in ten more than {count(lengths['p90'])}, "
        f"the longest {count(lengths['most'])}."
    ]
    if truncated := report["truncated"]:
        cut = report.get("tokens_cut")
        lost = f": {count(cut)} tokens were cut off" if cut else ""
        notes.append(
            f"{count(truncated)} rows ({share(truncated, report['rows']['total'])}) were longer "
            f"than the limit{lost}. --long-texts reads all of them."
        )
    elif report["state"] == "done":
        notes.append("No text was truncated.")
    return [*notes, _padding_note(padding)]


def _padding_note(padding: Mapping[str, Any]) -> str:
    naive = "" if padding["naive"] is None else (
        f" Batches of {padding['batch']} rows in input order, padded to their longest, would be "
        f"{share(padding['naive'])} padding."
    )  # fmt: skip
    if padding["tokens"] is None:
        return f"How much padding was computed is not known of these parts.{naive}"
    if not padding["tokens"]:
        return f"No padding was computed: batches are packed.{naive}"
    tokens = padding["tokens"]
    return (
        f"{count(tokens)} tokens ({share(tokens, tokens + padding['of'])}) were padding: what the "
        f"fixed shapes of CUDA graphs add to their rows.{naive}"
    )


def _file(file: Mapping[str, Any]) -> tuple[str, ...]:
    cut = "not known" if file["cut"] is None else count(file["cut"])
    return (
        shortened(file["file"], _NAME_CHARS),
        count(file["rows"]),
        count(file["tokens"]),
        count(file["truncated"]),
        share(file["truncated"], max(1, file["rows"])),
        cut,
    )


def changes_shown(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template names in its section on changes."""
    runs = report["runs"]
    shown = f"The last {len(runs['last'])} of {count(runs['total'])} runs"
    return {
        "change_notes": _change_notes(report["changes"]),
        "changed_files": _changed_files(report["changes"]),
        "skipped": [
            (shortened(each["uri"], _NAME_CHARS), shortened(each["reason"], _REASON_CHARS))
            for each in report["files"]["skipped"][:20]
        ],
        "runs": [_run(run) for run in runs["last"]],
        "runs_caption": shown if runs["total"] > len(runs["last"]) else "All runs",
        "failures": [
            (each["at"], str(each["run"] or "not planned"), _reason(each))
            for each in report["failures"]
        ],
    }


def _reason(failure: Mapping[str, Any]) -> str:
    text = " ".join(f"{failure['reason']} {failure['hint'] and '→ ' + failure['hint']}".split())
    return shortened(text, _REASON_CHARS)


def _change_notes(changes: Mapping[str, Any] | None) -> list[str]:
    if changes is None:
        return ["What this run changes was not kept by the version that planned it."]
    rows = changes["rows"]
    if changes["since"] is None:
        return [f"This is the first run: all its {count(rows['added'])} rows are new."]
    changed = "" if rows["changed"] is None else f"{count(rows['changed'])} changed, "
    return [
        f"Since run {changes['since']}: {count(rows['added'])} rows added, {changed}"
        f"{count(rows['dropped'])} dropped, {count(rows['reused'])} reused."
    ]


def _changed_files(changes: Mapping[str, Any] | None) -> list[Sequence[str]]:
    if changes is None or changes["since"] is None:
        return []
    return [
        (kind, count(changes["files"][kind]), _names(changes["first"][kind]))
        for kind in KINDS
        if changes["files"][kind]
    ]


def _names(names: Sequence[str]) -> str:
    return ", ".join(shortened(name, _NAME_CHARS) for name in names[:3])


def _run(run: Mapping[str, Any]) -> tuple[str, ...]:
    if "error" in run:
        return (str(run["run"]), shortened(run["error"], _NAME_CHARS), *[""] * 6)
    rows, done = run["rows"], run["state"] == "done"
    counts = [count(rows[name]) if done else "–" for name in ("computed", "reused", "failed")]
    ended = run["finished"] or "–"
    return (str(run["run"]), run["state"], run["started"], ended, count(rows["total"]), *counts)

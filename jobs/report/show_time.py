"""Throughput, stages, stalls and cost, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jobs.pages.charts import Axis, Band, Line, bars, lines
from jobs.pages.words import amount, count, duration, number, share

_STAGES = {
    "read": "reading rows",
    "tokenize": "making tokens",
    "wait": "device without work",
    "compute": "computing",
    "commit": "writing parts",
}


def time_shown(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template names in its section on time."""
    time = report["timeline"]
    if time is None:
        nothing = "This run computed nothing"
        if report["state"] == "done":
            nothing += ": its rows were in earlier parts, or have no result."
        else:
            nothing += " yet, or nothing says when."
        return _shown([nothing], "", "", [], [])
    return _shown(
        _notes(report, time),
        _throughput(time),
        _stages(time["stages"]),
        [_device(each) for each in time["devices"]],
        [
            (duration(stall["at"]), duration(stall["seconds"]), stall["why"])
            for stall in time["stalls"]
        ],
    )


def _shown(
    notes: list[str],
    throughput: Markup | str,
    stages: Markup | str,
    devices: Sequence[Sequence[str]],
    stalls: Sequence[Sequence[str]],
) -> dict[str, Any]:
    return {
        "time_notes": notes, "throughput": throughput, "stages": stages, "devices": devices,
        "stalls": stalls,
    }  # fmt: skip


def _notes(report: Mapping[str, Any], time: Mapping[str, Any]) -> list[str]:
    seconds = max(time["seconds"], 1e-3)
    before = time["first_batch"] - time["started"]
    notes = [
        f"{count(time['rows'])} rows were computed in {duration(seconds)}: "
        f"{number(time['rows'] / seconds)} rows/s, {number(time['tokens'] / seconds)} tokens/s."
        + (f" {duration(before)} passed before the first of them." if before >= 1 else "")
    ]
    own = report["parts"]["own"]
    if len(time["bins"]) < 2:
        notes.append(
            "All rows were committed at once, so nothing is known of their rate over time."
        )
    if time["stages"] is None:
        notes.append(
            "The parts do not say how long each stage worked: an earlier version wrote them."
        )
    elif time["stages"]["parts"] < own:
        notes.append(
            f"The stages are those of {count(time['stages']['parts'])} of {count(own)} parts."
        )
    if _partial(report):
        notes.append(
            f"Rates are those of the {count(report['parts']['known'])} parts that were read, so "
            "they are too low."
        )
    if not time["stalls"]:
        notes.append("No stall: there was no long time in which less was computed than usual.")
    return notes


def _partial(report: Mapping[str, Any]) -> bool:
    """Whether some of the run's own parts are not counted: one that is not finished has many."""
    return bool(report["parts"]["known"] < report["parts"]["own"])


def _throughput(time: Mapping[str, Any]) -> Markup | str:
    bins = time["bins"]
    if len(bins) < 2:
        return ""
    end = time["last_commit"] - time["started"]
    points = [(each["at"], each["tokens_per_second"]) for each in bins]
    line = Line("tokens/s", [*points, (end, points[-1][1])])
    first, last = points[0][0], end
    bands = [
        Band(max(first, stall["at"]), min(last, stall["at"] + stall["seconds"]), stall["why"])
        for stall in time["stalls"]
        if first < stall["at"] + stall["seconds"] and stall["at"] < last
    ]
    most = max(value for _, value in points)
    return lines(
        "Tokens per second over time" + (", with stalls shaded" if bands else ""),
        [line],
        x=Axis("after planning", duration),
        y=Axis("tokens/s", count),
        description=f"At most {count(most)} tokens per second.",
        bands=bands,
        steps=True,
    )


def _stages(stages: Mapping[str, Any] | None) -> Markup | str:
    if stages is None or not sum(stages["seconds"].values()):
        return ""
    seconds = stages["seconds"]
    most = max(seconds.values())
    return bars(
        "At work in each stage; stages overlap, and the longest one limits the others",
        [(_STAGES[name], seconds[name]) for name in seconds],
        form=duration,
        notes=[share(value, most) for value in seconds.values()],
    )


def _device(device: Mapping[str, Any]) -> tuple[str, ...]:
    rate = device["tokens"] / max(device["seconds"], 1e-3)
    return (
        device["device"] or "not known",
        device["precision"] or "not known",
        count(device["attempts"]),
        count(device["parts"]),
        count(device["rows"]),
        count(device["tokens"]),
        duration(device["seconds"]),
        count(rate),
    )


def cost_shown(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template names in its section on cost."""
    cost, time = report["cost"], report["timeline"]
    if time is None:
        return {"cost_notes": ["No device was used in this run."], "cost": []}
    pairs = [
        (
            "device time",
            duration(cost["device_seconds"]),
            "from the first batch of each process to its last part",
        ),
    ]
    if cost["price"] is None:
        uri = report["output"]
        note = f"No price is known: bei-jobs report {uri} --price-per-hour 2 says what it cost."
        return {"cost_notes": [note], "cost": pairs}
    pairs.append(("cost", amount(cost["price"]), f"at {cost['price_per_hour']:,g} per device-hour"))
    for what in () if _partial(report) else ("tokens", "rows"):
        if time[what]:
            pairs.append((f"per million {what}", amount(cost["price"] / time[what] * 1e6), ""))
    note = "Loading models, waiting for work, storage and requests are not counted."
    return {"cost_notes": [note], "cost": pairs}

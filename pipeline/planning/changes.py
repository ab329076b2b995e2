"""What a plan changes against that of the run that was finished last: files and rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from pipeline.output.certificate import Certificate
from pipeline.output.manifest import newest_finished
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.record import Changes, Record
from pipeline.output.run import Run
from pipeline.shards import InputFile

_NAMES_KEPT = 5
# The version of a local file: size, mtime_ns and ctime_ns. Renaming changes the last one alone.
_STAT_VERSION = re.compile(r"(\d+-\d+)-\d+", re.ASCII)

Renamed: TypeAlias = tuple[InputFile, InputFile]  # the old and the new


def record_of(
    output: Output,
    last: Run | None,
    last_plan: Plan | None,
    plan: Plan,
    certificate: Certificate | None = None,
) -> Record:
    """The record of a run that this process is about to start.

    Args:
        output: of the run.
        last: the highest run so far.
        last_plan: its plan.
        plan: of the new run.
        certificate: of its model, if there is one.
    """
    finished = newest_finished(output)
    if finished is None:
        return Record.of(changes_between(None, plan), certificate)
    run = finished[0]
    is_last = last is not None and last.n == run.n
    before = last_plan if is_last and last_plan is not None else output.plan(run)
    return Record.of(changes_between(before, plan, since=run.n), certificate)


def changes_between(before: Plan | None, plan: Plan, *, since: int = 0) -> Changes:
    """What differs between two plans.

    A renamed file has the rows and the size of one that is gone, and its ETag or modification time.
    It counts as neither new nor gone, and its rows as neither added nor dropped.

    Args:
        before: the earlier plan; None if there is none.
        plan: the later one.
        since: the number of the run that `before` is of.
    """
    rows, earlier_rows = _rows(plan), {} if before is None else _rows(before)
    files = {file.uri: file for file in plan.files}
    earlier = {} if before is None else {file.uri: file for file in before.files}
    changed = [
        file
        for uri, file in files.items()
        if uri in earlier and earlier[uri].version != file.version
    ]
    renamed, gone, new = _renamed(
        [file for uri, file in earlier.items() if uri not in files],
        [file for uri, file in files.items() if uri not in earlier],
    )
    growth = [rows[file.uri] - earlier_rows[file.uri] for file in changed]
    grown = sum(max(0, more) for more in growth)
    shrunk = sum(max(0, -more) for more in growth)
    names = {
        "new": [file.uri for file in new],
        "changed": [file.uri for file in changed],
        "renamed": [f"{old.uri} → {file.uri}" for old, file in renamed],
        "gone": [file.uri for file in gone],
    }
    return Changes(
        since=since,
        new=len(new),
        changed=len(changed),
        renamed=len(renamed),
        gone=len(gone),
        added=sum(rows[file.uri] for file in new) + grown,
        dropped=sum(earlier_rows[file.uri] for file in gone) + shrunk,
        growth=grown,
        first={kind: tuple(uris[:_NAMES_KEPT]) for kind, uris in names.items() if uris},
    )


def _rows(plan: Plan) -> dict[str, int]:
    """File URI → its planned rows."""
    totals = np.zeros(len(plan.files), dtype=np.int64)
    np.add.at(totals, plan.table["file"].to_numpy(), plan.table["rows"].to_numpy())
    return dict(zip((file.uri for file in plan.files), totals.tolist(), strict=True))


def _renamed(
    gone: Sequence[InputFile], new: Sequence[InputFile]
) -> tuple[list[Renamed], list[InputFile], list[InputFile]]:
    """The renamed files, and the others of those that are gone and new."""
    waiting: dict[tuple[object, ...], list[InputFile]] = {}
    for file in reversed(gone):
        waiting.setdefault(_content(file), []).append(file)
    renamed, others = [], []
    for file in new:
        if same := waiting.get(_content(file)):
            renamed.append((same.pop(), file))
        else:
            others.append(file)
    left = {file.uri for files in waiting.values() for file in files}
    return renamed, [file for file in gone if file.uri in left], others


def _content(file: InputFile) -> tuple[object, ...]:
    """What a renamed file keeps."""
    stat = _STAT_VERSION.fullmatch(file.version)
    return file.rows, file.size, stat[1] if stat else file.version

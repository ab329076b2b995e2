"""What a run changed, who started it and when: as JSON, and as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.input.ignored import IgnoredFiles
from pipeline.input.table_file import ReadTable
from pipeline.output.canary_file import Canary
from pipeline.output.certificate import Certificate
from pipeline.output.failures import Failure
from pipeline.output.record import KINDS, Changes
from pipeline.output.run import Run
from pipeline.output.status import JobStatus
from pipeline.store.uris import redact

_NAMES_SHOWN = 2
_SKIPPED_SHOWN = 5


def record_json(run: Run, status: JobStatus, ignored: IgnoredFiles | None = None) -> dict[str, Any]:
    """What `--json` says of a run beside its counts.

    Args:
        run: of the job.
        status: of the run.
        ignored: the files that a submit found beside its inputs.
    """
    record, failure = run.record, status.last_failure
    return {
        "started": run.created,
        "finished": status.finished or None,
        "checked": status.checked or None,
        "by": record.by if record else None,
        "versions": dict(record.versions) if record else {},
        "certificate": certificate_json(record.certificate if record else None),
        "files": {
            "total": run.files,
            **files_json(run.skipped, ignored),
            **({"tables": tables_json(run.tables)} if run.tables else {}),
        },
        "changes": _changes_json(record.changes, status) if record else None,
        "last_failure": None
        if failure is None
        else {name: asdict(failure)[name] for name in ("at", "reason", "hint")},
    }


def canary_json(canary: Canary) -> dict[str, Any]:
    """What `--json` says of a canary: who computed it, and how it differs from an earlier one."""
    names = ("precision", "at", "by", "pid", "device", "device_name", "versions", "change")
    return {"since": canary.since or None, **{name: getattr(canary, name) for name in names}}


def certificate_json(certificate: Certificate | None) -> dict[str, Any] | None:
    """A certificate with its digest, None if there is none."""
    return None if certificate is None else {"digest": certificate.digest, **certificate.to_json()}


def files_json(skipped: Sequence[tuple[str, str]], ignored: IgnoredFiles | None) -> dict[str, Any]:
    """The bad files of a run, by URI and reason, and what else lay beside its inputs."""
    return {
        "skipped": [{"uri": redact(uri), "reason": reason} for uri, reason in skipped],
        **({"ignored": ignored.to_json()} if ignored else {}),
    }


def tables_json(tables: Sequence[ReadTable]) -> list[dict[str, Any]]:
    """The tables that a run reads: URI, format, version and the number of files."""
    return [{**asdict(table), "uri": redact(table.uri)} for table in tables]


def record_lines(run: Run, status: JobStatus) -> Iterator[str]:
    """The lines of `status` about when a run was, and what it changed."""
    by = f" by {run.record.by}" if run.record else ""
    finished = f", finished {status.finished}" if status.finished else ""
    checked = f", found unchanged {status.checked}" if status.checked else ""
    yield f"  run     {run.n}, started {run.created}{by}{finished}{checked}"
    if run.record:
        yield f"  files   {run.files:,}: {_files_in_words(run.record.changes)}"
        yield f"  change  {_rows_in_words(run.record.changes, status)}"
    for table in run.tables:
        yield f"  table   {table}"
    for uri, reason in run.skipped[:_SKIPPED_SHOWN]:
        file = redact(uri)
        yield f"  skipped {reason}" if file in reason else f"  skipped {file}: {reason}"
    if len(run.skipped) > _SKIPPED_SHOWN:
        yield f"  skipped {len(run.skipped) - _SKIPPED_SHOWN} more files"
    if run.record and run.record.certificate:
        yield f"  model   {run.record.certificate}"
    for canary in status.canaries:
        if canary.change:
            yield f"  canary  not that of run {canary.since}: {canary.change}; now {canary}"
    failure = status.last_failure
    good = max(status.finished, status.checked)
    if failure is not None and status.state != "failed" and good < failure.at >= run.created:
        if failure.run:
            yield f"  failed  {failure.at}: {failure.reason}"
        else:  # which is nothing that this run did
            yield f"  submit  by {failure.by} at {failure.at} failed: {failure.reason}"


def history_line(run: Run, status: JobStatus) -> str:
    """One line of `history`."""
    counts = f"{status.rows:,} rows"
    if status.state == "done":
        counts += f": {status.computed:,} computed, {status.reused:,} reused"
        counts += f", {status.failed_rows:,} failed" if status.failed_rows else ""
    words = [
        f"{run.n:>4}  {status.state:<11}  {run.created}  {status.finished or '-':<20}",
        run.record.by if run.record else "-",
        ("1 file" if run.files == 1 else f"{run.files:,} files")
        + (f": {_files_in_words(run.record.changes, names=False)}" if run.record else ""),
        counts,
    ]
    if run.skipped:
        count = len(run.skipped)
        words.append(f"{count} {'file' if count == 1 else 'files'} skipped")
    if status.reason:
        words.append(" ".join(status.reason.split()))
    return "  ".join(words)


def unplanned_line(failure: Failure) -> str:
    """One line of `history` about a submit that failed before it had a run."""
    reason = " ".join(failure.reason.split())
    return f"{'-':>4}  {'not planned':<11}  {failure.at}  {'-':<20}  {failure.by}  {reason}"


def _changes_json(changes: Changes, status: JobStatus) -> dict[str, Any]:
    return {
        "since": changes.since or None,
        "files": {kind: getattr(changes, kind) for kind in KINDS},
        "first": {kind: [redact(name) for name in changes.first.get(kind, ())] for kind in KINDS},
        "rows": {
            "added": changes.added,
            "changed": status.changed,
            "dropped": changes.dropped,
            "reused": status.reused,
        },
    }


def _files_in_words(changes: Changes, *, names: bool = True) -> str:
    """Such as "1 new (b.parquet), 2 changed (a.parquet, …)"; "unchanged" where nothing is."""
    words = []
    for kind in KINDS:
        if count := getattr(changes, kind):
            shown = [_short(name) for name in changes.first.get(kind, ())[:_NAMES_SHOWN]]
            shown += ["…"] if count > len(shown) else []
            words.append(f"{count:,} {kind}" + (f" ({', '.join(shown)})" if names else ""))
    return ", ".join(words) or "unchanged"


def _rows_in_words(changes: Changes, status: JobStatus) -> str:
    since = f" since run {changes.since}" if changes.since else ""
    changed = "" if status.changed is None else f"{status.changed:,} changed, "
    return f"{changes.added:,} rows added, {changed}{changes.dropped:,} dropped{since}"


def _short(name: str) -> str:
    """The last segment of a URI, or of the two of a renamed file."""
    return " → ".join(redact(uri).rpartition("/")[2] for uri in name.split(" → "))

"""The last failures of an output, of runs and of submits that never became one.

    _bei/failed/<time>-<8 hex>.json    at, reason, hint, by; run, where there was one

They are for people: nothing depends on them. Each is written once, and only the last few are kept.
"""

from __future__ import annotations

import json
import logging
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from pipeline.errors import BeiJobsError, NotFound, StorageError
from pipeline.output.process import user_and_host
from pipeline.output.run import now
from pipeline.store.directory import Directory
from pipeline.store.uris import redact

logger = logging.getLogger(__name__)

FAILED = "_bei/failed/"
_KEPT = 20
_MAX_CHARS = 4000  # of a reason


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed, or why there is none."""

    at: str  # UTC, ISO 8601
    reason: str
    hint: str
    by: str = ""  # user@host
    run: int = 0  # 0: the submit failed before it had a run

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild a failure.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        at, reason, hint, by = (str(data[name]) for name in ("at", "reason", "hint", "by"))
        return cls(at, reason, hint, by, int(data["run"]))


def note_failure(directory: Directory, reason: str, hint: str, run: int = 0) -> None:
    """Keep a failure in an output; where that fails too, go on without.

    Args:
        directory: of the output.
        reason: without secrets.
        hint: what to do next.
        run: its number; 0 where there is none.
    """
    failure = Failure(now(), reason[:_MAX_CHARS], hint, user_and_host(), run)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    with suppress(BeiJobsError):
        data = json.dumps(asdict(failure), indent=1).encode()
        directory.create(f"{FAILED}{stamp}-{uuid.uuid4().hex[:8]}.json", data)
        for name in _names(directory)[:-_KEPT]:
            directory.delete(name)


def note_failed_submit(uri: str, error: BeiJobsError) -> None:
    """Keep why a submit failed, if its output is one already; nothing is created elsewhere.

    Args:
        uri: of the output.
        error: what ended the submit.
    """
    with suppress(BeiJobsError):
        directory = Directory(uri)
        # Where the output itself fails, another minute of tries would help nobody.
        unreachable = isinstance(error, StorageError) and redact(directory.uri) in error.message
        if not unreachable and directory.exists("_bei/spec.json"):
            note_failure(directory, error.message, error.hint)


def read_failures(directory: Directory, last: int = _KEPT) -> list[Failure]:
    """The last failures of an output, newest first. One listing, and one read for each."""
    failures = []
    for name in reversed(_names(directory)[-last:]):
        try:
            failures.append(Failure.from_json(json.loads(directory.read(name))))
        except NotFound:  # deleted since it was listed
            continue
        except (ValueError, KeyError, TypeError, RecursionError):
            logger.warning("%s/%s is not the record of a failure: ignored", directory.uri, name)
    return failures


def _names(directory: Directory) -> list[str]:
    """The names of the records, oldest first."""
    return [item.name for item in directory.list(FAILED)]

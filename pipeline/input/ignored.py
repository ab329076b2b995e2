"""Files beside the inputs that are none: counted and named, so that no row is missing silently."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.store.uris import redact

_SHOWN = 5
HIDDEN = "hidden name"
OUTPUT = "an output of bei-jobs"
UNKNOWN_SUFFIX = "unknown suffix"
NOT_ROWS = "its content is not rows"
NO_FILE = "not a regular file"
EMPTY = "empty"


@dataclass(slots=True)
class IgnoredFiles:
    """Files beside the inputs, with the reason why they are ignored."""

    reasons: dict[str, str] = field(default_factory=dict)  # URI → reason

    def add(self, uri: str, reason: str) -> None:
        """Note a file, or an output as a whole."""
        self.reasons[uri] = reason

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def named(self) -> list[tuple[str, str]]:
        """(URI, reason) of the first few, those first whose names are not hidden."""
        both = sorted(self.reasons.items(), key=lambda each: (each[1] == HIDDEN, each[0]))
        return both[:_SHOWN]

    def to_json(self) -> dict[str, Any]:
        """How many there are, how many of each kind, and the first few."""
        counts: dict[str, int] = {}
        for reason in self.reasons.values():
            counts[reason] = counts.get(reason, 0) + 1
        return {
            "total": len(self),
            "reasons": counts,
            "first": [{"uri": redact(uri), "reason": reason} for uri, reason in self.named],
        }

    def __str__(self) -> str:
        names = [f"{redact(uri)} ({reason})" for uri, reason in self.named]
        more = [f"{len(self) - len(names)} more"] if len(self) > len(names) else []
        return f"{len(self)} beside the input files: {', '.join([*names, *more])}"

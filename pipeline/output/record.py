"""What is known of a run when it is planned: who started it, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pipeline.output.certificate import Certificate
from pipeline.output.process import user_and_host
from pipeline.output.versions import software_versions

KINDS = ("new", "changed", "renamed", "gone")


@dataclass(frozen=True, slots=True)
class Changes:
    """The files and rows of a plan against those of the run that was finished last."""

    since: int = 0  # number of that run; 0: none was finished
    new: int = 0  # files
    changed: int = 0  # files: the same URI in another version
    renamed: int = 0  # files
    gone: int = 0  # files
    added: int = 0  # rows of new files, and the growth of changed ones
    dropped: int = 0  # rows of gone files, and what changed ones lost
    growth: int = 0  # the rows of changed files among the added ones
    # Kind → URIs of the first few such files; of a renamed one, "old → new".
    first: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild what `asdict` made.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        counts = {name: int(data[name]) for name in _COUNTS}
        first = {str(kind): tuple(map(str, names)) for kind, names in data["first"].items()}
        return cls(**counts, first=first)


_COUNTS = ("since", *KINDS, "added", "dropped", "growth")


@dataclass(frozen=True, slots=True)
class Record:
    """Who started a run, with which software, and what it changes."""

    by: str  # user@host
    versions: Mapping[str, str] = field(hash=False)
    changes: Changes
    certificate: Certificate | None = None  # of the model, where it was checked on this machine

    @classmethod
    def of(cls, changes: Changes, certificate: Certificate | None = None) -> Self:
        """That of a run which this process starts."""
        return cls(user_and_host(), software_versions(), changes, certificate)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild a record.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        versions = {str(name): str(version) for name, version in data["versions"].items()}
        certificate = data.get("certificate")
        return cls(
            str(data["by"]),
            versions,
            Changes.from_json(data["changes"]),
            None if certificate is None else Certificate.from_json(certificate),
        )

    def to_json(self) -> dict[str, Any]:
        certificate = self.certificate
        return {
            "by": self.by,
            "versions": dict(self.versions),
            "changes": asdict(self.changes),
            **({"certificate": certificate.to_json()} if certificate else {}),
        }

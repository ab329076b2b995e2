"""How a job stands, as `bei-jobs status --json` says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from bei_jobs.errors import JobFailed

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """How many pieces of work, by what became of them."""

    total: int
    done: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """How many rows, by what became of them. `failed` rows are quarantined; known at the end."""

    total: int
    done: int
    computed: int
    reused: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Which weights, exactly."""

    name: str
    revision: str  # resolved commit of the hub, "" for a directory
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """State and counts of one run. Failed rows, tokens and seconds are known at the end."""

    job: str
    output: str
    run: int
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    shards: Shards
    rows: Rows
    tokens: int
    truncated: int  # rows
    seconds: float
    model: Model
    reason: str = ""
    hint: str = ""

    @property
    def final(self) -> bool:
        """Whether it will not change by itself."""
        return self.state in ("done", "failed", "cancelled")

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> JobStatus:
        """From the JSON object; keys of a newer version are passed over."""
        return cls(
            **{
                **known(cls, said),
                "shards": Shards(**known(Shards, said["shards"])),
                "rows": Rows(**known(Rows, said["rows"])),
                "model": Model(**known(Model, said["model"])),
            }
        )

    def or_fail(self) -> JobStatus:
        """This, unless the job came to a bad end.

        Raises:
            JobFailed: it failed or was cancelled, with reason and hint.
        """
        if self.state == "failed":
            raise JobFailed(self.reason, hint=self.hint)
        if self.state == "cancelled":
            raise JobFailed(
                self.reason or f"the job {self.job} was cancelled",
                hint=self.hint or "what is committed stays; the same submit goes on where it was",
            )
        return self


def known(kind: type[Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are fields of `kind`."""
    return {field.name: said[field.name] for field in fields(kind) if field.name in said}

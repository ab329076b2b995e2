"""The status of a job, as `bei-jobs status --json` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bei_jobs.errors import JobFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Counts of shards, the units of work."""

    total: int
    done: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Counts of rows. The `failed` ones are quarantined; how many is known at the end."""

    total: int
    done: int
    computed: int
    reused: int
    deduplicated: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Which weights, exactly."""

    name: str
    revision: str  # resolved commit of the hub, "" for a directory
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A value that was chosen for the user, and why."""

    value: Any
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """State and counts of one run. Failed rows, tokens and seconds are known at the end.

    `choices` maps an option to what was chosen for it. Only the process that runs the job knows
    them, so they are there after `wait` on a job that was submitted here, and empty otherwise.
    """

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
    choices: Mapping[str, Choice] = field(default_factory=dict, hash=False)

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self.state in ("done", "failed", "cancelled")

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> JobStatus:
        """From the JSON of `bei-jobs status`; keys of a newer version are ignored."""
        return cls(
            **{
                **known(cls, answer),
                "shards": Shards(**known(Shards, answer["shards"])),
                "rows": Rows(**known(Rows, answer["rows"])),
                "model": Model(**known(Model, answer["model"])),
                "choices": {
                    name: Choice(**known(Choice, choice))
                    for name, choice in answer.get("choices", {}).items()
                },
            }
        )

    def or_fail(self) -> JobStatus:
        """This status, unless the job failed or was cancelled.

        Raises:
            JobFailed: with reason and hint.
        """
        if self.state == "failed":
            raise JobFailed(self.reason, hint=self.hint)
        if self.state == "cancelled":
            raise JobFailed(
                self.reason or f"the job {self.job} was cancelled",
                hint=self.hint or "committed parts are kept; the same submit resumes",
            )
        return self


def known(kind: type[Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are fields of `kind`."""
    return {each.name: answer[each.name] for each in fields(kind) if each.name in answer}

"""The status of a job, as `bei-jobs status --json` prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bei_jobs.errors import JobFailed

State = Literal[
    "queued", "waiting for workers", "running", "interrupted", "done", "failed", "cancelled"
]


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
    deduplicated: int = 0
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
class Skipped:
    """An input file that was left out."""

    uri: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The input files of the run, and those that were left out."""

    total: int
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFiles:
    """Counts of input files, against the run that was finished before."""

    new: int
    changed: int
    renamed: int
    gone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedRows:
    """Counts of rows, against the run that was finished before. `changed` is known at the end."""

    added: int
    changed: int | None
    dropped: int
    reused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a run changes: its number of the run before is `since`, None if there was none.

    `first` maps new, changed, renamed and gone to the URIs of the first few such files.
    """

    since: int | None
    files: ChangedFiles
    rows: ChangedRows
    first: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Changes:
        """From its JSON."""
        files, rows = known(ChangedFiles, answer["files"]), known(ChangedRows, answer["rows"])
        return cls(
            **{**known(cls, answer), "files": ChangedFiles(**files), "rows": ChangedRows(**rows)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last failure of an output: of a run, or of a submit that never had one."""

    at: str  # ISO 8601
    reason: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """State and counts of one run. Failed rows, tokens and seconds are known at the end.

    `choices` maps an option to what was chosen for it. Only the process that runs the job knows
    them, so they are there after `wait` on a job that was submitted here, and empty otherwise.
    """

    job: str
    output: str
    run: int
    state: State
    shards: Shards
    rows: Rows
    tokens: int
    truncated: int  # rows
    seconds: float
    model: Model
    reason: str = ""
    hint: str = ""
    choices: Mapping[str, Choice] = field(default_factory=dict, hash=False)
    started: str = ""  # ISO 8601
    finished: str | None = None  # when it was done, failed or was cancelled
    checked: str | None = None  # when a submit last found it complete and its inputs unchanged
    by: str | None = None  # user@host
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    files: Files = Files(total=0)
    changes: Changes | None = None
    last_failure: Failure | None = None
    chunks: int = 0  # rows of the output, where each chunk of a text has one
    tokens_cut: int | None = None  # of truncated rows; None: not known, or none is truncated

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
                "files": _files(answer.get("files", {"total": 0})),
                "changes": Changes.of(changes) if (changes := answer.get("changes")) else None,
                "last_failure": Failure(**known(Failure, failure))
                if (failure := answer.get("last_failure"))
                else None,
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


def _files(answer: Mapping[str, Any]) -> Files:
    skipped = tuple(Skipped(**known(Skipped, each)) for each in answer.get("skipped", ()))
    return Files(total=answer["total"], skipped=skipped)


def known(kind: type[Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are fields of `kind`."""
    return {each.name: answer[each.name] for each in fields(kind) if each.name in answer}

"""The files that a plan does without, each with the reason, and how many there may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import BeiJobsError, InputError
from pipeline.input.discovery import ListedFile
from pipeline.shards import InputFile
from pipeline.spec import failure_budget
from pipeline.store.uris import redact

_REASONS_SHOWN = 3


class BadFiles:
    """Files that cannot be read or do not fit the others, as they are found.

    Args:
        limit: the number or share of files that may be bad, see `failure_budget`.
        files: how many there are.

    Raises:
        UsageError: `limit` is neither.
    """

    def __init__(self, limit: str, files: int) -> None:
        self._limit = limit
        self._files = files
        self._allowed = failure_budget(limit, files, "--max-bad-files")
        self._errors: dict[str, BeiJobsError] = {}

    def __contains__(self, file: ListedFile | InputFile) -> bool:
        return file.uri in self._errors

    def __len__(self) -> int:
        return len(self._errors)

    @property
    def none_allowed(self) -> bool:
        """Whether the first bad file is an error."""
        return not self._allowed

    def add(self, file: ListedFile | InputFile, error: BeiJobsError) -> None:
        """Leave a file out; only its first error counts.

        Raises:
            BeiJobsError: `error` where no file may be bad; one of its kind if there are too many.
        """
        if self.none_allowed:
            raise error
        self._errors.setdefault(file.uri, error)
        if len(self._errors) > self._allowed:
            raise self._too_many()

    def _too_many(self) -> BeiJobsError:
        errors = list(self._errors.values())
        lines = [error.message for error in errors[:_REASONS_SHOWN]]
        if len(errors) > _REASONS_SHOWN:
            lines.append(f"… and {len(errors) - _REASONS_SHOWN} more")
        return type(errors[0])(
            f"more than {self._allowed} of {self._files} input files are bad (--max-bad-files "
            f"{self._limit}):\n  " + "\n  ".join(lines),
            hint=errors[0].hint,
        )

    def reasons(self) -> tuple[tuple[str, str], ...]:
        """(URI, reason) of each, in byte order of the URIs; the reason names the file."""
        return tuple(
            (uri, self._errors[uri].message) for uri in sorted(self._errors, key=str.encode)
        )


def add_other_formats(
    bad: BadFiles, listed: Sequence[ListedFile], known: Mapping[tuple[str, str], tuple[str, str]]
) -> None:
    """Files of one version, read as another format than before, are bad: parts have their names.

    Args:
        bad: where they are added.
        listed: the files.
        known: (URI, version) → format and compression as an earlier run read them.
    """
    for file in listed:
        before, _ = known.get((file.uri, file.version), (file.format, ""))
        if before != file.format:
            error = f"was read as {before} by an earlier run, and would be read as {file.format}"
            hint = f"give --format {before}, or another --output"
            bad.add(file, InputError(f"{redact(file.uri)} {error} now", hint=hint))

"""Every error a user can meet, as one tree.

    BeiJobsError                    exit code 1
    ├── UsageError                  2   options that do not make sense together
    ├── InputError                  1   an input cannot be listed, opened, read or cast
    │   └── InputChanged            1   an input is not the version that was planned
    │       └── InputMissing        1   an input is not there any more, or not on this machine
    ├── CheckpointError             1   a model cannot be found, trusted, matched or loaded
    ├── StorageError                1   a store refused or failed
    │   ├── NotFound                1   the object, bucket or directory does not exist
    │   ├── AccessDenied            1   credentials are missing, wrong or lack permission
    │   └── StoreFull               1   no space left
    ├── OutputConflict              1   the output belongs to another job or another space
    ├── EncodeError                 1   the device or the model failed on a batch
    ├── CanaryDiffers               1   the device computes other values than the run's first one
    ├── BrokerError                 1   Redis cannot be reached or answers nonsense
    ├── JobFailed                   1   a job ended with failed shards or too many failed rows
    └── Interrupted               130   stopped between batches; the same command resumes

The message says what happened and where, `hint` what to do next. Neither ever holds a secret: URIs
are printed through `pipeline.store.uris.redact`.
"""

from __future__ import annotations


class BeiJobsError(Exception):
    """The root: `str(error)` says what happened and where, `error.hint` what to do next."""

    exit_code = 1
    # Whether the same work may succeed if it is retried unchanged.
    transient = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the hint across a process boundary."""
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[BeiJobsError], message: str, hint: str) -> BeiJobsError:
    return kind(message, hint=hint)


class UsageError(BeiJobsError):
    """Options that do not make sense, alone or together."""

    exit_code = 2


class InputError(BeiJobsError):
    """An input cannot be listed, opened, read or cast to the planned schema."""


class InputChanged(InputError):
    """An input is no longer the version that was planned."""


class InputMissing(InputChanged):
    """An input is not there any more, or not on this machine."""


class CheckpointError(BeiJobsError):
    """A model cannot be found, trusted, matched to a family or loaded."""


class StorageError(BeiJobsError):
    """A store refused or failed; worth a retry unless a subclass says otherwise."""

    transient = True


class NotFound(StorageError):
    """The object, bucket or directory does not exist."""

    transient = False


class AccessDenied(StorageError):
    """Credentials are missing, wrong, or lack the permission to do this."""

    transient = False


class StoreFull(StorageError):
    """No space is left on the device, or a quota is exceeded."""

    transient = False


class OutputConflict(BeiJobsError):
    """The output belongs to another job, another model or another embedding space."""


class EncodeError(BeiJobsError):
    """The device or the model failed on a batch."""

    transient = True


class CanaryDiffers(BeiJobsError):
    """The device computes other values of the canary than the first device of the run."""


class BrokerError(BeiJobsError):
    """Redis cannot be reached, refuses us, or holds data that bei-jobs did not write."""

    transient = True


class JobFailed(BeiJobsError):
    """A job ended with failed shards, or with more failed rows than allowed."""


class Interrupted(BeiJobsError):
    """Stopped between batches; committed parts are kept, and the same command resumes."""

    exit_code = 130
    transient = True

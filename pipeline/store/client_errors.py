"""Errors of stores and their clients → the error tree, each with what to do next."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import AccessDenied, BeiJobsError, NotFound, StorageError, StoreFull
from pipeline.store.sections import configured
from pipeline.store.uris import (
    BUCKET_PROTOCOLS,
    S3_PROTOCOLS,
    detail,
    is_local,
    redact,
    split_protocol,
)

_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "TokenRetrievalError",
        "SSOTokenLoadError",
        "ClientAuthenticationError",  # Azure
        "DefaultCredentialsError",  # Google
        "RefreshError",  # Google
    }
)
_CLIENT_LIBRARIES = frozenset(
    {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"}
)
# Of other kinds of store, whatever a call raises is taken for an error of their client.
_TESTED = frozenset({*BUCKET_PROTOCOLS, "http", "https", "memory", "file", "local"})
# What a path may be wrong in: the error → what is wrong.
_WRONG_PATH = {
    errno.ENOTDIR: "a part of the path is a file and no directory",
    errno.EISDIR: "it is a directory and no file",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.EROFS: "the file system is read-only",
    errno.EINVAL: "the file system takes no such name",
    errno.EILSEQ: "the file system takes no such name",
}


@contextmanager
def translated(uri: str, note: str = "") -> Iterator[None]:
    """Translate errors of stores and their clients inside the context into the error tree.

    Args:
        uri: what the context is about.
        note: added to the message.

    Raises:
        NotFound, AccessDenied, StoreFull, StorageError: each names the redacted `uri`. Errors
            of the program itself (such as TypeError) pass through unchanged.
    """
    try:
        yield
    except BeiJobsError:
        raise
    except Exception as error:
        translation = _translate(error, uri, note)
        if translation is None:
            raise
        # A traceback refers to its frames and their callers. An exception that is also a local
        # variable of one of these frames (fsspec's are, `translation` would be) forms a cycle that
        # keeps the callers' objects, such as the bytes of a part, alive until a garbage collection.
        traceback.clear_frames(error.__traceback__)
        try:
            raise translation from error
        finally:
            del translation


def _translate(error: Exception, uri: str, note: str) -> StorageError | None:
    code, _ = store_answer(error)
    shown = redact(uri)
    if isinstance(error, FileNotFoundError) or code in {"NoSuchBucket", "NoSuchKey", "404"}:
        problem = "its bucket does not exist" if code == "NoSuchBucket" else "does not exist"
        kind = split_protocol(uri)[0]
        create = ", or create the bucket" if kind in BUCKET_PROTOCOLS else ""
        hint = f"check the spelling{create}{configured().note(uri)}"
        return NotFound(f"{shown}: {problem}{note}", hint=hint)
    if _is_refusal(error, code):
        # The store's own message may contain an account or a request; the code is enough.
        return AccessDenied(
            f"{shown}: access denied ({code or _reason(error)}){note}", hint=_access_hint(uri)
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFull(
            f"{shown}: no space left ({error.strerror}){note}",
            hint="free some space and run the same command again; committed parts are kept",
        )
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return NotFound(f"{shown}: a link leads back to itself{note}", hint="remove the link")
    if isinstance(error, OSError) and is_local(uri) and error.errno in _WRONG_PATH:
        problem = _WRONG_PATH[error.errno]
        return NotFound(f"{shown}: {problem}{note}", hint="check the path, or give another one")
    if isinstance(error, NotImplementedError):
        kind = split_protocol(uri)[0]
        return NotFound(
            f"{shown}: {kind}:// cannot do this{note}",
            hint="give a directory, or a bucket such as s3://bucket/path",
        )
    if split_protocol(uri)[0] not in {*_TESTED, None} and not isinstance(error, OSError):
        return StorageError(
            f"{shown}: {type(error).__name__}: {detail(error, uri)}{note}",
            hint="check the URI and the options of the store, or fetch the file first",
        )
    if isinstance(error, OSError) or _library(error) in _CLIENT_LIBRARIES:
        what = f"the store answered {code}" if code else type(error).__name__
        return StorageError(f"{shown}: {what}: {detail(error, uri)}{note}", hint=_retry_hint(uri))
    return None


def _is_refusal(error: Exception, code: str) -> bool:
    return (
        isinstance(error, PermissionError)
        or code in {"401", "403"}
        or any(kind.__name__ in _NO_CREDENTIALS for kind in type(error).__mro__)
    )


def store_answer(error: BaseException | None) -> tuple[str, int]:
    """The store's own error code and the HTTP status; "" and 0 if it did not answer.

    They are botocore's (s3fs keeps it in the cause), Google's, Azure's or aiohttp's.
    """
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        # The `code` of aiohttp's errors is 400 for a body that is cut.
        names = ("status",) if _library(error) == "aiohttp" else ("code", "status_code")
        for attribute in names:
            if str(code := getattr(error, attribute, "")).isdigit():
                return str(code), int(code)
        error = error.__cause__
    return "", 0


def _library(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _access_hint(uri: str) -> str:
    if is_local(uri):
        return "check the owner and mode of the file and of the directories above it"
    variables = " (S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role)"
    where = "" if configured().section(uri) else variables
    return (
        f"check the credentials{where} and that they may list, read and write there"
        f"{configured().note(uri)}"
    )


def _retry_hint(uri: str) -> str:
    if is_local(uri):
        return "check the disk, then run the same command again to resume"
    is_s3 = split_protocol(uri)[0] in S3_PROTOCOLS and not configured().section(uri)
    where = " (S3: AWS_ENDPOINT_URL)" if is_s3 else ""
    return (
        f"check the network and the endpoint{where}, then run the same command again to resume"
        f"{configured().note(uri)}"
    )

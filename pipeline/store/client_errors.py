"""Errors of stores and their clients → the error tree, each with what to do next."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import AccessDenied, BeiJobsError, NotFound, StorageError, StoreFull
from pipeline.store.clients import (
    BUCKET_PROTOCOLS,
    WEB_PROTOCOLS,
    access_hint,
    client_of,
    retry_hint,
    spelling_hint,
    split_protocol,
)
from pipeline.store.sections import configured
from pipeline.store.uris import detail, is_local, redact

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
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_CLIENT_LIBRARIES = frozenset(
    {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"}
)
# Of other kinds of store, whatever a call raises is taken for an error of their client.
_TESTED = frozenset({*BUCKET_PROTOCOLS, *WEB_PROTOCOLS, "memory", "file", "local"})
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
    code, status = store_answer(error)
    shown = redact(uri)
    if code in _NO_BUCKET:
        return no_bucket(uri, note)
    if isinstance(error, FileNotFoundError) or status == 404 or code == "NoSuchKey":
        in_bucket = split_protocol(uri)[0] in BUCKET_PROTOCOLS
        hint = spelling_hint(uri) if in_bucket else f"check the spelling{configured().note(uri)}"
        return NotFound(f"{shown}: does not exist{note}", hint=hint)
    if _is_refusal(error, code, status):
        # The store's own message may contain an account or a request; the code is enough.
        return AccessDenied(
            f"{shown}: access denied ({code or _reason(error)}){note}", hint=access_hint(uri)
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
        return StorageError(f"{shown}: {what}: {detail(error, uri)}{note}", hint=retry_hint(uri))
    return None


def no_bucket(uri: str, note: str = "") -> NotFound:
    """The error about a URI whose bucket or container does not exist."""
    problem = f"its {client_of(uri).container} does not exist{note}"
    return NotFound(f"{redact(uri)}: {problem}", hint=spelling_hint(uri))


def _is_refusal(error: Exception, code: str, status: int) -> bool:
    return (
        isinstance(error, PermissionError)
        or status in {401, 403}
        or code == "PublicAccessNotPermitted"  # Azure's, with status 409
        or any(kind.__name__ in _NO_CREDENTIALS for kind in type(error).__mro__)
    )


def store_answer(error: BaseException | None) -> tuple[str, int]:
    """The store's own error code and the HTTP status; "" and 0 if it did not answer.

    They are botocore's (s3fs keeps it in the cause), Google's, Azure's or aiohttp's.
    """
    while error is not None:
        if isinstance(error, OSError) and str(error).startswith("Forbidden: "):  # gcsfs
            return "403", 403
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        # The `code` of aiohttp's errors is 400 for a body that is cut.
        names = ("status",) if _library(error) == "aiohttp" else ("code", "status_code")
        for attribute in names:
            if str(code := getattr(error, attribute, "")).isdigit():
                # Azure's SDK gives a member of an enumeration where it knows the code.
                word = getattr(error, "error_code", None)
                return str(getattr(word, "value", word) or code), int(code)
        error = error.__cause__
    return "", 0


def _library(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__

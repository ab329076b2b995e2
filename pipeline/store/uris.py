"""URIs of every store: made absolute, printed without secrets, opened through fsspec.

A filesystem object is looked up for each operation and never kept: fsspec caches it per process
and drops that cache in a forked child (`fsspec.spec._Cached`), whereas an object carried across a
fork refuses to work ("This class is not fork-safe").
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
from fsspec.core import split_protocol

from pipeline.errors import (
    AccessDenied,
    BeiJobsError,
    NotFound,
    StorageError,
    StoreFull,
    UsageError,
)

LOCAL_PROTOCOLS = frozenset({None, "", "file", "local"})

# user:password@ in the first segment of a URI; host:port is not one.
_CREDENTIALS = re.compile(r"[^/:@]*:(?!\d+(/|$))[^@]*@|[^/:@]*:\d+@")
# In these schemes the part before "@" names a container, not a user.
_CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "wasb", "wasbs"})
_SECRET_PARAMETER = re.compile(r"(?i)sig|token|key|secret|cred|passw|auth|policy")
_URI_IN_TEXT = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_DETAIL_MAX_CHARS = 300

# Only `pipeline.store.retry` retries: botocore's retries, which s3fs would multiply, are off, and
# s3fs' own in `filesystem`. What has no switch: aiohttp sends a request once more where a kept
# connection was closed without an answer (RFC 9112).
_S3_OPTIONS: Mapping[str, Any] = {
    "config_kwargs": {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": 10,  # seconds
        "read_timeout": 30,  # seconds without a byte
        "max_pool_connections": 32,
    }
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"s3": _S3_OPTIONS, "s3a": _S3_OPTIONS}

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


def is_local(uri: str) -> bool:
    """Whether `uri` is a path on this machine: plain, file:// or local://."""
    return split_protocol(uri)[0] in LOCAL_PROTOCOLS


def absolute(uri: str) -> str:
    """The canonical form of a URI: a local path is absolute and plain, no trailing slash.

    Raises:
        UsageError: `uri` is empty.
    """
    if not uri:
        raise UsageError("an empty path is not a file or a directory")
    protocol, path = split_protocol(uri)
    if protocol in LOCAL_PROTOCOLS:
        return str(os.path.abspath(path))
    if protocol == "memory":
        return f"memory://{path.strip('/')}"
    return f"{protocol}://{path.rstrip('/')}"


def redact(uri: str) -> str:
    """`uri` as it may be printed: no user:password@ and no secrets in its query string."""
    return "::".join(_redacted_link(link) for link in uri.split("::"))


def refuse_credentials(uri: str) -> None:
    """Check that `uri` may be stored and printed as it is.

    Raises:
        UsageError: it holds a password or a signature.
    """
    if redact(uri) != uri:
        raise UsageError(
            f"{redact(uri)} was given with a password or a signature, which the job would "
            "store unencrypted",
            hint="set credentials in the environment (AWS_*, GOOGLE_*, AZURE_*), or fetch the "
            "file first",
        )


def _redacted_link(uri: str) -> str:
    if is_local(uri):
        return uri
    scheme, _, location = uri.partition("://")
    # A secret may hold any character, so everything up to the last "@" is removed if it holds a ":"
    # that does not begin a port.
    if "@" in location and _CREDENTIALS.match(location.partition("?")[0]):
        path, mark, query = location.partition("?")
        uri = f"{scheme}://{path.rpartition('@')[2]}{mark}{query}"
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    if at and not (parts.scheme in _CONTAINER_SCHEMES and ":" not in user):
        user, at = "", ""
    query = "&".join(_redacted_parameter(pair) for pair in parts.query.split("&"))
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=query))


def _redacted_parameter(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}=..." if equals and _SECRET_PARAMETER.search(name) else pair


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of an absolute `uri` and the path in it.

    Listings are never cached: another process may have written since. Credentials, region and
    endpoint of S3 are those that botocore finds (`AWS_*`, `AWS_ENDPOINT_URL`, profiles, roles).

    Raises:
        UsageError: the protocol is unknown, or its package is not installed.
    """
    protocol, _ = split_protocol(uri)
    try:
        fs, path = fsspec.core.url_to_fs(
            uri, use_listings_cache=False, **_OPTIONS.get(protocol or "file", {})
        )
    except ImportError as error:
        raise UsageError(
            f"{redact(uri)}: the package that opens {protocol}:// is not installed ({error})",
            hint="install bei-jobs with its extra: s3, gcs or azure",
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{redact(uri)}: {protocol}:// is not a known kind of store",
            hint="give a local path, or a URI such as s3://bucket/path or gs://bucket/path",
        ) from error
    if protocol in _OPTIONS:
        fs.retries = 1  # tries, in s3fs' words
    return fs, path


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
        translation = _translate(error, redact(uri), note, local=is_local(uri))
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


def _translate(error: Exception, uri: str, note: str, *, local: bool) -> StorageError | None:
    code, _ = store_answer(error)
    if isinstance(error, FileNotFoundError) or code in {"NoSuchBucket", "NoSuchKey", "404"}:
        problem = "its bucket does not exist" if code == "NoSuchBucket" else "does not exist"
        return NotFound(f"{uri}: {problem}{note}", hint="check the spelling, or create the bucket")
    if _is_refusal(error, code):
        # The store's own message may contain an account or a request; the code is enough.
        return AccessDenied(
            f"{uri}: access denied ({code or _reason(error)}){note}", hint=_access_hint(local)
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFull(
            f"{uri}: no space left ({error.strerror}){note}",
            hint="free some space and run the same command again; committed parts are kept",
        )
    if isinstance(error, OSError) or _library(error) in _CLIENT_LIBRARIES:
        what = f"the store answered {code}" if code else type(error).__name__
        return StorageError(f"{uri}: {what}: {_detail(error)}{note}", hint=_retry_hint(local))
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


def _detail(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)  # without "[Errno 16]"
    text = _URI_IN_TEXT.sub(lambda match: redact(match.group()), text)
    return " ".join(text.split())[:_DETAIL_MAX_CHARS]


def _access_hint(local: bool) -> str:
    if local:
        return "check the owner and mode of the file and of the directories above it"
    return (
        "check the credentials (S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or "
        "a role) and that they may list, read and write there"
    )


def _retry_hint(local: bool) -> str:
    if local:
        return "check the disk, then run the same command again to resume"
    return (
        "check the network and the endpoint (S3: AWS_ENDPOINT_URL), "
        "then run the same command again to resume"
    )

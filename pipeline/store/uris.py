"""URIs of every store: made absolute, printed without secrets, opened through fsspec.

A filesystem object is looked up for each operation and never kept: fsspec caches it per process
and drops that cache in a forked child (`fsspec.spec._Cached`), whereas an object carried across a
fork refuses to work ("This class is not fork-safe").
"""

from __future__ import annotations

import copy
import errno
import os
import re
import traceback
from collections.abc import Iterator
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
from pipeline.store.clients import (
    LOCAL_PROTOCOLS,
    ONCE_PROTOCOLS,
    S3_PROTOCOLS,
    access_hint,
    client_of,
    options_hint,
    register,
    retry_hint,
    spelling_hint,
)
from pipeline.store.sections import configured

register()

# user:password@ in the first segment of a URI; host:port is not one.
_CREDENTIALS = re.compile(r"[^/:@]*:(?!\d+(/|$))[^@]*@|[^/:@]*:\d+@")
# In these schemes the part before "@" names a container, not a user.
_CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "wasb", "wasbs"})
_SECRET_PARAMETER = re.compile(r"(?i)sig|token|key|secret|cred|passw|auth|policy")
_URI_IN_TEXT = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_DETAIL_MAX_CHARS = 300

# Only `pipeline.store.retry` retries: botocore's retries, which s3fs would multiply, are off, and
# those of s3fs, gcsfs and Azure's SDK in `filesystem`. What has no switch: aiohttp sends a request
# once more where a kept connection was closed without an answer (RFC 9112).
_S3_CONFIG: dict[str, Any] = {
    "retries": {"total_max_attempts": 1},
    "connect_timeout": 10,  # seconds
    "read_timeout": 30,  # seconds without a byte
    "max_pool_connections": 32,
}
# For a request that is part of an upload: eight tries within about a minute.
_S3_RETRIES = {"total_max_attempts": 8, "mode": "standard"}

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


def filesystem(uri: str, name: str = "", *, retrying: bool = False) -> tuple[Any, str]:
    """The fsspec filesystem of an absolute `uri` and the path in it.

    Its options are those of the section that covers `uri`, or the file `name` below it (see
    `pipeline.store.sections`). What it leaves open, the client finds: for S3 in `AWS_*`, profiles
    and roles. fsspec has one filesystem for each set of options, so two accounts share none.

    `retrying` is for calls that cannot be repeated as a whole, the parts of an upload: the client
    tries each request again.

    Raises:
        UsageError: the protocol is unknown, its package is not installed, or it refuses the
            options.
    """
    protocol, _ = split_protocol(uri)
    try:
        return _open(uri, configured().options(f"{uri}/{name}"), retrying)
    except ImportError as error:
        raise UsageError(
            f"{redact(uri)}: the package that opens {protocol}:// is not installed ({error})",
            hint="install bei-jobs with its extra: s3, gcs or azure",
        ) from error
    except (TypeError, ValueError, KeyError) as error:
        if protocol not in fsspec.available_protocols():
            raise UsageError(
                f"{redact(uri)}: {protocol}:// is not a known kind of store",
                hint="give a local path, or a URI such as s3://bucket/path, gs://bucket/path or "
                "az://container/path",
            ) from error
        raise UsageError(
            f"{redact(uri)}: cannot be opened: {detail(error, uri)}",
            hint=options_hint(uri),
        ) from None  # whose text may hold an option


def _open(uri: str, options: dict[str, Any], retrying: bool) -> tuple[Any, str]:
    protocol = split_protocol(uri)[0]
    if protocol in ONCE_PROTOCOLS:
        options["once"] = True
    if is_s3 := protocol in S3_PROTOCOLS:
        config = copy.deepcopy(_S3_CONFIG)  # botocore adds to it
        options["config_kwargs"] = {**config, **options.get("config_kwargs", {})}
        if retrying:
            options["config_kwargs"]["retries"] = dict(_S3_RETRIES)
    # Listings are never cached: another process may have written since.
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
    if is_s3 and fs.retries != 1:  # tries, in s3fs' words
        fs.connect()  # so that a wrong option is met here, and not by a request
        fs.retries = 1
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
        return NotFound(f"{shown}: does not exist{note}", hint=spelling_hint(uri))
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


def detail(error: Exception, uri: str) -> str:
    """What an error says, on one line and without secrets, cut to 300 characters."""
    text = getattr(error, "strerror", None) or str(error)  # without "[Errno 16]"
    text = text.partition("\nTime:")[0]  # Azure's goes on with its whole answer
    text = _URI_IN_TEXT.sub(lambda match: redact(match.group()), configured().scrub(uri, text))
    return " ".join(text.split())[:_DETAIL_MAX_CHARS]

"""URIs of every store: made absolute, printed without secrets, opened through fsspec.

A filesystem object is looked up for each operation and never kept: fsspec caches it per process
and drops that cache in a forked child (`fsspec.spec._Cached`), whereas an object carried across a
fork refuses to work ("This class is not fork-safe").
"""

from __future__ import annotations

import copy
import os
import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipeline.errors import UsageError
from pipeline.store.clients import (
    BUCKET_PROTOCOLS,
    LOCAL_PROTOCOLS,
    ONCE_PROTOCOLS,
    S3_PROTOCOLS,
    WEB_PROTOCOLS,
    options_hint,
    register,
    split_protocol,
)
from pipeline.store.sections import configured

# user:password@ in the first segment of a URI; host:port is not one.
_CREDENTIALS = re.compile(r"[^/:@]*:(?!\d+(/|$))[^@]*@|[^/:@]*:\d+@")
# Of Redis: host, port and database, and parameters, where an "@" is no user's.
_REDIS = re.compile(r"(?:.*?@)?((?:\[[^]@]*\]|[^@/?#:]+)(?::\d+)?(?:/\d*)?\?[a-z_]{2,}=.*)")
_REDIS_URLS = ("redis://", "rediss://")
# In these schemes the part before "@" names a container, not a user.
_CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "wasb", "wasbs"})
_OF_JAVA = re.compile(r"^file:/(?!/)")
_SECRET_PARAMETER = re.compile(r"(?i)sig|token|key|secret|cred|passw|auth|policy")
_URI_IN_TEXT = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_DETAIL_MAX_CHARS = 300
_EXTRAS = {
    **dict.fromkeys(S3_PROTOCOLS, "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
}

# Only `pipeline.store.retry` retries: botocore's retries, which s3fs would multiply, are off, and
# those of s3fs, gcsfs and Azure's SDK in `filesystem`. What has no switch: aiohttp sends a request
# once more where a kept connection was closed without an answer (RFC 9112).
_S3_CONFIG: dict[str, Any] = {
    "retries": {"total_max_attempts": 1},
    "connect_timeout": 10,  # seconds
    "read_timeout": 30,  # seconds without a byte
    "max_pool_connections": 32,
}
_WEB_CONNECT_SECONDS = 30.0
# Without a byte. A server may make what it sends only when it is asked.
_WEB_SILENCE_SECONDS = 300.0
# For a request that is part of an upload: eight tries within about a minute.
_S3_RETRIES = {"total_max_attempts": 8, "mode": "standard"}


def is_local(uri: str) -> bool:
    """Whether `uri` is a path on this machine: plain, file:// or local://."""
    return split_protocol(uri)[0] in LOCAL_PROTOCOLS


def is_web(uri: str) -> bool:
    """Whether `uri` is of a web server, which can only be read from."""
    return split_protocol(uri)[0] in WEB_PROTOCOLS


def absolute(uri: str) -> str:
    """The canonical form of a URI: a local path is absolute and plain, no trailing slash.

    Raises:
        UsageError: `uri` is empty, or names no bucket.
    """
    if not uri:
        raise UsageError("an empty path is not a file or a directory")
    if "\0" in uri:
        raise UsageError(f"{redact(uri)!r} holds a zero byte, which no name does")
    protocol, path = split_protocol(_OF_JAVA.sub("file:///", uri))
    if protocol in LOCAL_PROTOCOLS:
        return str(os.path.abspath(path))
    if protocol == "memory":
        return f"memory://{path.strip('/')}"
    if not path.strip("/") or (
        path.startswith("/") and protocol in BUCKET_PROTOCOLS | WEB_PROTOCOLS
    ):
        slashes = path[: len(path) - len(path.lstrip("/"))]
        shown = redact(f"{protocol}://{path.lstrip('/')}").replace("://", f"://{slashes}", 1)
        raise UsageError(
            f"{shown} names no bucket or host", hint="such as s3://bucket/path or https://host/path"
        )
    return f"{protocol}://{path.rstrip('/')}"


def redact(uri: str) -> str:
    """`uri` as it may be printed: no user:password@ and no secrets in its query string."""
    if uri.startswith(_REDIS_URLS):
        return _redacted_redis(uri)
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


def _redacted_redis(uri: str) -> str:
    """As `redact`: a password may be typed unquoted, so it may hold any character."""
    scheme, _, location = uri.partition("://")
    match = _REDIS.fullmatch(location)
    return _without_secrets(f"{scheme}://{match[1] if match else location.rpartition('@')[2]}")


def _redacted_link(uri: str) -> str:
    if is_local(uri):
        return uri
    scheme, _, location = uri.partition("://")
    # A secret may hold any character, so everything up to the last "@" is removed if it holds a ":"
    # that does not begin a port.
    if "@" in location and _CREDENTIALS.match(location.partition("?")[0]):
        path, mark, query = location.partition("?")
        uri = f"{scheme}://{path.rpartition('@')[2]}{mark}{query}"
    return _without_secrets(uri)


def _without_secrets(uri: str) -> str:
    """A URI without its user, and without secrets in its query string."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets of no address
        return f"{uri.partition('://')[0]}://..."
    user, at, host = parts.netloc.rpartition("@")
    if at and not (parts.scheme in _CONTAINER_SCHEMES and ":" not in user):
        user, at = "", ""
    query = "&".join(_redacted_parameter(pair) for pair in parts.query.split("&"))
    if not parts.netloc and query == parts.query:
        return uri  # of which urlunsplit would drop the slashes
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
            hint=f"install bei-jobs with its extra {_EXTRAS[protocol]}"
            if protocol in _EXTRAS
            else "install that package beside bei-jobs, or fetch the file first",
        ) from error
    except (TypeError, ValueError, KeyError) as error:
        from fsspec import available_protocols

        if protocol not in available_protocols():
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
    from fsspec.core import url_to_fs

    register()
    protocol = split_protocol(uri)[0]
    if protocol in ONCE_PROTOCOLS:
        options["once"] = True
    if is_s3 := protocol in S3_PROTOCOLS:
        config = copy.deepcopy(_S3_CONFIG)  # botocore adds to it
        options["config_kwargs"] = {**config, **options.get("config_kwargs", {})}
        if retrying:
            options["config_kwargs"]["retries"] = dict(_S3_RETRIES)
    elif is_web(uri):
        # A server that compresses what it sends tells no size and takes no ranges.
        options["headers"] = {"Accept-Encoding": "identity", **options.get("headers", {})}
        options["client_kwargs"] = {**_web_limits(), **options.get("client_kwargs", {})}
    # Listings are never cached: another process may have written since.
    fs, path = url_to_fs(uri, use_listings_cache=False, **options)
    if is_s3 and fs.retries != 1:  # tries, in s3fs' words
        fs.connect()  # so that a wrong option is met here, and not by a request
        fs.retries = 1
    return fs, path


def _web_limits() -> dict[str, Any]:
    """How long a web server may take; aiohttp's own limit is five minutes for all of a file."""
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(sock_connect=_WEB_CONNECT_SECONDS, sock_read=_WEB_SILENCE_SECONDS)
    return {"timeout": timeout}


def detail(error: Exception, uri: str) -> str:
    """What an error says, on one line and without secrets, cut to 300 characters."""
    text = getattr(error, "strerror", None) or str(error)  # without "[Errno 16]"
    text = text.partition("\nTime:")[0]  # Azure's goes on with its whole answer
    text = _URI_IN_TEXT.sub(lambda match: redact(match.group()), configured().scrub(uri, text))
    return " ".join(text.split())[:_DETAIL_MAX_CHARS]

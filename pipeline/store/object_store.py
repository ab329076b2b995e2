"""The options of a store for libraries that open it themselves, not through fsspec.

Lance and Delta read `AWS_*` and their like in the environment, as fsspec's clients do. What a
section of the user's file says, they are told in their own words, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import UsageError
from pipeline.store.clients import S3_PROTOCOLS
from pipeline.store.sections import configured
from pipeline.store.uris import detail, redact

# Of a section → of https://docs.rs/object_store.
_S3 = {
    "endpoint_url": "aws_endpoint",
    "key": "aws_access_key_id",
    "secret": "aws_secret_access_key",
    "token": "aws_session_token",
    "client_kwargs.region_name": "aws_region",
}


def object_store_options(uri: str) -> dict[str, str]:
    """The options of the section that covers an absolute `uri`, as object_store names them.

    Raises:
        UsageError: the section has an option that these libraries do not know.
    """
    is_s3 = uri.partition("://")[0] in S3_PROTOCOLS
    options = {"aws_allow_http": "true"} if is_s3 else {}  # of an endpoint that is not https://
    for name, value in _flat(configured().options(uri)):
        if not is_s3 or name not in _S3:
            raise UsageError(
                f"{redact(uri)}: the option {name} of its store is not one that the libraries of "
                "Lance and Delta know",
                hint=f"export --to parquet{configured().note(uri)}",
            )
        options[_S3[name]] = value
    return options


def error_text(error: Exception, uri: str) -> str:
    """What a library says of a store, on one line and without secrets."""
    return detail(error, uri).partition(" 0: ")[0].strip()  # a trace of its frames follows


def _flat(options: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{parent}{name}.")
        else:
            yield parent + name, str(value)

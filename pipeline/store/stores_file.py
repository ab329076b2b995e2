"""The user's file of store options, checked once: `--stores FILE`.

    ["s3://in-bucket"]
    endpoint_url = "https://minio.internal:9000"
    key_env = "IN_KEY"          # NAME_env: the environment variable that holds NAME
    secret_env = "IN_SECRET"

    ["s3://out-bucket/vectors"]
    profile = "vectors"
    s3_additional_kwargs = { ServerSideEncryption = "aws:kms" }

`region` of an S3 store is put where s3fs takes it; every other option goes to fsspec's class.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import fsspec
from fsspec.core import has_magic

from pipeline.errors import UsageError
from pipeline.store.clients import GCS_PROTOCOLS, S3_PROTOCOLS
from pipeline.store.sections import Section, Stores
from pipeline.store.uris import absolute, is_local, redact

logger = logging.getLogger(__name__)

_FROM_ENVIRONMENT = "_env"
_TEXTS = ("endpoint_url", "profile", "region", "key", "secret")
_TABLES = ("client_kwargs", "config_kwargs", "s3_additional_kwargs")
# What bei-jobs itself decides for every store.
_OURS = frozenset({"asynchronous", "loop", "protocol", "use_listings_cache"})
_SECRET_NAME = re.compile(
    r"(?i)secret|passw|token|auth|cred|connection_string|(account|customer|private)_?key$"
)

_PATHS = ("/", "./", "../", "~")
# Tokens of gcsfs that say where credentials are; so do names of files.
_WAYS = ("anon", "browser", "cache", "cloud", "google_default")


def read_stores(file: str, environment: Mapping[str, str]) -> Stores:
    """Read and check a file of store options.

    A file that holds secrets and that all users of the machine may read is warned of.

    Args:
        file: TOML, with one section for each URI prefix.
        environment: of the process, for options whose name ends in `_env`.

    Raises:
        UsageError: the file cannot be read, or a section or option is wrong; file, section and
            option are named, and no value.
    """
    path = os.path.abspath(file)
    try:
        with open(path, "rb") as opened:
            document = tomllib.load(opened)
            mode = os.fstat(opened.fileno()).st_mode
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the stores file {path} cannot be read: {toml_problem(error)}",
            hint="give a TOML file with a section for each URI prefix, or unset BEI_JOBS_STORES",
        ) from error
    if mode & stat.S_IROTH and any(_plain_secrets(document)):
        _warn_of_readers(path)
    return Stores(path, tuple(_sections(path, document, environment)))


def toml_problem(error: OSError | ValueError | RecursionError) -> str:
    """Why a TOML file cannot be read, in words that name nothing of Python."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, RecursionError):
        return "its lists or tables are nested too deeply"
    if isinstance(error, tomllib.TOMLDecodeError | UnicodeDecodeError):
        return str(error)
    return "a number has too many digits"


@cache  # a scheduler reads the file at each look
def _warn_of_readers(path: str) -> None:
    logger.warning(
        "%s holds secrets, and every user of this machine may read it: chmod 600 it, or name "
        'environment variables (secret_env = "...")', path
    )  # fmt: skip


def _plain_secrets(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _plain_secrets(value)
            continue
        public = value in _WAYS or (os.path.isabs(text := str(value)) and os.path.exists(text))
        if _SECRET_NAME.search(key) and not key.endswith(_FROM_ENVIRONMENT) and not public:
            yield key


def _sections(
    path: str, document: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[Section]:
    seen = set()
    for name, table in document.items():
        section = _Checked(path, name, environment)
        prefix = section.prefix(table)
        if prefix in seen:
            raise section.error("is there twice", "put its options into one section")
        seen.add(prefix)
        yield Section(prefix, section.options(table, prefix.partition("://")[0]))


@dataclass(frozen=True, slots=True)
class _Checked:
    """One section while it is checked."""

    path: str
    name: str
    environment: Mapping[str, str]

    def error(self, problem: str, hint: str, key: str = "") -> UsageError:
        name = redact(self.name)
        where = f'{self.path}, section ["{name}"]'
        return UsageError(f"{where}: {key} {problem}" if key else f"{where} {problem}", hint=hint)

    def prefix(self, table: object) -> str:
        """The URI prefix in its canonical form."""
        example = 'such as ["s3://bucket/path"]'
        if not isinstance(table, dict) or "://" not in self.name or "::" in self.name:
            hint = f"begin a section with a URI prefix in quotes, {example}"
            raise self.error("is not a section of options for a URI prefix", hint)
        if redact(self.name) != self.name:
            raise self.error("holds a password or a signature", "give it as an option below")
        if has_magic(self.name):
            raise self.error("holds a pattern", f"give the plain beginning of the URIs, {example}")
        if is_local(self.name):
            raise self.error("is on this machine, which takes no options", "delete it")
        if self.name.partition("://")[0] not in fsspec.available_protocols():
            raise self.error("is of no known kind of store", f"give a URI prefix, {example}")
        return absolute(self.name)

    def options(self, table: Mapping[str, Any], protocol: str) -> Mapping[str, Any]:
        """The options as fsspec's class takes them."""
        options = self._resolved(table)
        for name in _OURS & options.keys():
            raise self.error("is what bei-jobs sets itself", "delete it", name)
        for name in _TEXTS:
            if name in options and (not isinstance(options[name], str) or not options[name]):
                raise self.error("is not a text, or an empty one", "put it in quotes", name)
        if not options.get("endpoint_url", "http://").startswith(("http://", "https://")):
            hint = "such as https://minio.internal:9000"
            raise self.error("is not an http:// or https:// URL", hint, "endpoint_url")
        if protocol in GCS_PROTOCOLS:
            self._check_token(options.get("token"))
        return self._of_s3(options) if protocol in S3_PROTOCOLS else options

    def _check_token(self, token: object) -> None:
        """Refuse the name of a file that is not there: gcsfs takes it for a token, and sends it."""
        named = isinstance(token, str) and (token.startswith(_PATHS) or token.endswith(".json"))
        if named and not os.path.isfile(str(token)):
            raise self.error("names a file that is not there", "give its absolute path", "token")

    def _resolved(self, table: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
        """A table with the values of the environment variables that it names."""
        options: dict[str, Any] = {}
        for key, value in table.items():
            name = key.removesuffix(_FROM_ENVIRONMENT)
            if name in options:
                raise self.error(f"is there with {key} too", "give one of them", parent + name)
            if name != key:
                value = self._variable(parent + key, value)
            elif isinstance(value, dict):
                value = self._resolved(value, f"{parent}{key}.")
            elif not isinstance(value, str | bool | int | float | list):
                hint = "give a text, a number, true, false, a list or a table"
                raise self.error("has a value of a wrong type", hint, parent + key)
            options[name] = value
        return options

    def _variable(self, key: str, variable: object) -> str:
        if not isinstance(variable, str) or not variable:
            raise self.error("is not the name of an environment variable", 'such as "KEY"', key)
        if not (value := self.environment.get(variable)):
            hint = "set it in the environment of this process, on every machine that uses the file"
            raise self.error(f"names {variable}, which is not set", hint, key)
        return value

    def _of_s3(self, options: dict[str, Any]) -> Mapping[str, Any]:
        for name in _TABLES:
            if not isinstance(options.get(name, {}), dict):
                raise self.error("is not a table", f"such as {name} = {{ NAME = 1 }}", name)
        if lacking := {"key", "secret"} - options.keys():
            for name in sorted({"key", "secret", "token"} & options.keys()):
                raise self.error(f"is given without {min(lacking)}", "give both, or none", name)
        elif "profile" in options:
            raise self.error("is given with a key", "give one of them", "profile")
        if "retries" in options.get("config_kwargs", {}):
            key = "config_kwargs.retries"
            raise self.error("is what bei-jobs sets itself: it alone retries", "delete it", key)
        if region := options.pop("region", None):
            clients = options.get("client_kwargs", {})
            options["client_kwargs"] = {**clients, "region_name": region}
        return options

"""How a side is spelled: "MODEL key=value …", with the keys of a job file.

    MODEL                       a name on the hub, a directory or a URI
    job.toml                    a job file
    OUTPUT                      an output of bei-jobs: its model and options, and its rows
    dimensions=128              as the other side, but for this

A side becomes the words that `bei-jobs submit` would be given, so that its options mean there and
here the same, and are refused in the same words.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import click

from jobs.job_file import keys_of
from jobs.submit_options import make_request, submit_options
from jobs.usage_errors import closest, explained
from pipeline.errors import UsageError
from pipeline.output.manifest import require_finished
from pipeline.output.output import Output
from pipeline.request import DEFAULT_MODEL, Request
from pipeline.spec import JobSpec
from pipeline.store.uris import absolute, is_web, redact

# Options of `submit` that say what is read, where results go and who computes them. The others
# decide values, and may differ between two sides.
_SHARED = frozenset({
    "inputs", "output", "task", "text-column", "query-column", "documents-column",
    "document-column", "id-column", "keep", "output-format", "rows-per-shard", "format", "where",
    "csv-escape", "limit", "add", "replace", "prune", "reuse-from", "device", "broker", "wait",
    "max-failed-rows", "max-bad-files", "notify", "report", "metrics-port", "log-format", "json",
    "quiet",
})  # fmt: skip
#: Of queries, which are read with another prompt than documents.
QUERY_KEYS = ("query-prompt", "query-prompt-name")
_SETTING = re.compile(r"([a-z][a-z_-]*)=(.*)", re.DOTALL)
_FLAGS = {"true": "", "yes": "", "1": "", "false": "no-", "no": "no-", "0": "no-"}
# What must be one for both sides: they read the same texts.
_READ_ALIKE = ("text_column", "id_column", "format", "where", "csv_escape")


@click.command(name="submit")
@submit_options
def _submit(**options: Any) -> None:
    """Only parsed."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models, or of the two ways to run one."""

    option: str  # --from or --to
    base: str  # model, job file or output; "" for the default model
    settings: Mapping[str, str] = field(default_factory=dict)  # key → value
    query: Mapping[str, str] = field(default_factory=dict)  # QUERY_KEYS
    inherited: Mapping[str, str] = field(default_factory=dict)  # of an output, below the settings
    reuse_from: str = ""  # an output that may hold the rows already

    @property
    def label(self) -> str:
        """The side as the user may spell it; without secrets."""
        return self._named(redact(self.base or DEFAULT_MODEL))

    @property
    def short(self) -> str:
        """The same with the last part of a path or name only, for a sentence."""
        return self._named(redact(self.base or DEFAULT_MODEL).rstrip("/").rpartition("/")[2])

    def _named(self, base: str) -> str:
        given = {**self.settings, **self.query}
        return " ".join([base, *(f"{key}={_quoted(value)}" for key, value in given.items())])

    @property
    def words(self) -> list[str]:
        """What `bei-jobs submit` is given besides INPUT and --output."""
        named = {} if self.inherited or not self.base or self.is_job_file else {"model": self.base}
        settings = _with_model({**named, **self.inherited}, self.settings)
        words = ["--job-file", self.base] if self.is_job_file else []
        return words + [_word(key, value) for key, value in settings.items()]

    @property
    def is_job_file(self) -> bool:
        """Whether the side is that of a job file."""
        return self.base.endswith(".toml")

    def request(self, inputs: Sequence[str], shared: Sequence[str]) -> Request:
        """The request of `submit` for this side.

        Args:
            inputs: INPUT as typed; () for those of the job file.
            shared: words that both sides have.

        Raises:
            UsageError: an option is wrong; the message says of which side.
        """
        try:
            words = [*shared, *self.words, "--", *inputs]
            with _submit.make_context("submit", words) as context:
                names = {each.name for each in dataclasses.fields(Request)}
                options = {k: v for k, v in context.params.items() if k in names}
                given = options.pop("inputs")
                return make_request(given, options)
        except click.UsageError as error:
            wrong = explained(error)
            raise UsageError(
                f"{self.option} {self.label}: {wrong.message}",
                hint=wrong.hint,
            ) from error


def parse_sides(start: str, end: str) -> tuple[Side, Side]:
    """The values of --from and --to.

    Raises:
        UsageError: one of them is not a side.
        NotFound: an output that is named has no finished run.
    """
    first = _parse("--from", start, None)
    return first, _parse("--to", end, first)


def check_alike(first: Request, second: Request) -> None:
    """Check that both requests read the same texts.

    Raises:
        UsageError: their job files name other columns or rows.
    """
    for name in _READ_ALIKE:
        values = getattr(first, name), getattr(second, name)
        if values[0] != values[1]:
            option = name.replace("_", "-")
            raise UsageError(
                f"--from reads {option} {values[0]!r}, and --to {values[1]!r}: both must read the "
                "same texts",
                hint=f"give --{option} on the command line, for both",
            )


def _parse(option: str, text: str, other: Side | None) -> Side:
    base, given = _split(option, text)
    query = {key: given.pop(key) for key in QUERY_KEYS if key in given}
    for key in given:
        _check_key(option, key)
    if not base and "model" in given:
        base = given.pop("model")
    if not base and other is not None:
        return replace(
            other,
            option=option,
            settings=_with_model(other.settings, given),
            query={**other.query, **query},
            reuse_from="",
        )
    if base and not base.endswith(".toml") and _is_output(base):
        run, _ = require_finished(Output(base))
        reused = "" if given else absolute(base)
        return Side(option, base, given, query, settings_of(run.spec), reused)
    return Side(option, base, given, query)


def _split(option: str, text: str) -> tuple[str, dict[str, str]]:
    """The model, file or output that a side begins with, if any, and its settings."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}", hint="close the quotes") from error
    bases = [word for word in words if not _SETTING.fullmatch(word)]
    if len(bases) > 1 or not words:
        named = f"names {', '.join(map(redact, bases))}" if bases else "is empty"
        raise UsageError(
            f"{option} {named}",
            hint='give one model, job file or output, then settings: "MODEL dimensions=128"; what '
            "holds a space needs quotes of its own",
        )
    pairs = (match for word in words if (match := _SETTING.fullmatch(word)))
    return (bases or [""])[0], {match[1].replace("_", "-"): match[2] for match in pairs}


def _check_key(option: str, key: str) -> None:
    known = sorted(keys_of(_submit.params).keys() - _SHARED | set(QUERY_KEYS))
    if key in _SHARED:
        raise UsageError(
            f"{option}: {key} decides no value, so both sides share it",
            hint=f"a side takes {', '.join(known)}",
        )
    if key not in known:
        close = closest(key, known)
        raise UsageError(
            f"{option}: `submit` has no option {key}",
            hint=f"did you mean {close}?" if close else f"a side takes {', '.join(known)}",
        )


def _is_output(base: str) -> bool:
    """Whether a path or URI is that of an output; a model's name is no path."""
    if is_web(base) or not ("://" in base or os.path.isdir(base)):
        return False
    return Output(absolute(base)).begun()


def settings_of(spec: JobSpec) -> dict[str, str]:
    """The options of `submit` that a spec was made from, as far as they decide values."""
    chunked = {"chunk-tokens": spec.chunk_tokens, "chunk-overlap": spec.chunk_overlap}
    values = {
        "model": spec.model.name,
        "revision": spec.model.revision,
        "prompt": spec.prompt,
        "max-length": spec.max_length,
        **({"long-texts": spec.chunking, **chunked} if spec.chunking else {}),
        **({} if spec.chunking else {"truncate": spec.truncate}),
        "vectors": ",".join(spec.vectors),
        "kind": spec.kind,
        "dimensions": ",".join(map(str, spec.all_dimensions)) or None,
        "output-dtype": ",".join(spec.output_dtypes) if "dense" in spec.vectors else None,
        "normalize": None if spec.normalize is None else str(spec.normalize).lower(),
        "sparse-top-k": spec.sparse_top_k,
        "precision": spec.precision,
    }
    return {
        key: str(value)
        for key, value in values.items()
        if value is not None and (value != "" or key == "prompt")
    }


def _with_model(settings: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Settings and those that come on top; a revision belongs to its model."""
    merged = {**settings, **given}
    if "model" in given and "revision" not in given:
        merged.pop("revision", None)
    if "prompt-name" in given:
        merged.pop("prompt", None)
    return merged


def _word(key: str, value: str) -> str:
    if key == "normalize":
        if value.lower() not in _FLAGS:
            raise UsageError(f"normalize={value}: neither true nor false", hint="give one of them")
        return f"--{_FLAGS[value.lower()]}normalize"
    return f"--{key}={value}"


def _quoted(value: str) -> str:
    return shlex.quote(redact(value))

"""The options of `bei-jobs submit` as Python has them, and the words they become."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, SupportsIndex, TypeAlias, TypedDict

from bei_jobs.errors import UsageError

PathLike: TypeAlias = str | os.PathLike[str]


class SubmitOptions(TypedDict, total=False):
    """The options of `bei-jobs submit`, with underscores for dashes; None means that it is not set.

    docs/commands.md explains each. Missing are --json and --quiet, which are always given, and
    --wait: use `Job.wait`.
    """

    job_file: PathLike | None
    bei_config: PathLike | None
    task: str | None
    model: PathLike | None
    revision: str | None
    output: PathLike | None
    text_column: str | None
    query_column: str | None
    documents_column: str | None
    document_column: str | None
    id_column: str | None
    keep: str | Sequence[str] | None
    prompt_name: str | None
    prompt: str | None
    instruction: str | None
    max_length: int | None
    long_texts: Literal["cut-end", "cut-start", "error", "chunk", "late-chunk", "pool"] | None
    chunk_tokens: int | None
    chunk_overlap: int | None
    truncate: Literal["right", "left", "error"] | None
    vectors: str | Sequence[str] | None
    kind: Literal["query", "document"] | None
    dimensions: int | str | Sequence[int] | None
    output_dtype: str | Sequence[str] | None
    sparse_top_k: int | None
    sparse_terms: bool | None
    output_format: Literal["arrow", "parquet"] | None
    normalize: bool | None
    top_k: int | None
    raw_scores: bool | None
    aggregation: Literal["none", "simple", "first", "average", "max"] | None
    precision: Literal["auto", "float32", "float16", "bfloat16", "int8"] | None
    token_budget: int | None
    rows_per_shard: int | None
    format: Literal["parquet", "arrow", "jsonl", "csv", "tsv"] | None
    where: str | None
    csv_escape: str | None
    limit: int | None
    add: bool | None
    replace: bool | None
    prune: bool | None
    reuse_from: PathLike | None
    device: str | Sequence[str] | None
    broker: str | None
    stores: PathLike | None
    max_failed_rows: int | str | None
    max_bad_files: int | str | None
    report: PathLike | None
    notify: str | Sequence[str] | None
    metrics_port: int | None
    log_format: Literal["text", "json"] | None


#: Options without a value.
_SWITCHES = frozenset({"normalize", "raw_scores", "sparse_terms", "add", "replace", "prune"})
#: Switches with a --no- form. False for one of the others means that it is not set.
_NEGATED = frozenset({"normalize"})
#: Options with several values, joined by commas.
_LISTS = frozenset({"device", "vectors", "dimensions", "output_dtype"})
#: Options that are given once for each value.
_REPEATED = frozenset({"keep"})
#: Options that may hold a secret: given in the environment, since `ps` shows words.
_SECRETS = frozenset({"broker", "notify"})


def absolute(path: PathLike | None) -> str | None:
    """A path that holds from any working directory; "" and None as they are."""
    return os.path.abspath(path) if path else "" if path == "" else None


def submit_words(
    inputs: PathLike | Sequence[PathLike], options: Mapping[str, Any]
) -> tuple[str, ...]:
    """The words after `bei-jobs submit`.

    Raises:
        UsageError: an unknown option, or a value of a kind that the option cannot take. The
            command itself checks what the values mean.
    """
    for name in options:
        if name not in SubmitOptions.__annotations__:
            raise UsageError(f"submit has no option {name!r}", hint=_advice(name))
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    # An empty broker is given as a word, so that it overrides a job file.
    as_words = {name: value for name, value in options.items() if name not in _SECRETS}
    if options.get("broker") == "":
        as_words["broker"] = ""
    given = [word for name, value in as_words.items() for word in _words(name, value)]
    return (*given, "--", *(os.fspath(path) for path in paths))


def submit_environment(options: Mapping[str, Any]) -> dict[str, str]:
    """The variables that hold the options which may be secret.

    Raises:
        UsageError: a value of a kind that the option cannot take.
    """
    urls = options.get("notify") or ()
    lines = [_text("notify", url) for url in ([urls] if isinstance(urls, str) else urls)]
    notify = {"BEI_JOBS_NOTIFY": "\n".join(lines)} if lines else {}
    broker = options.get("broker")
    return {**notify, **({} if broker is None else {"BEI_JOBS_BROKER": broker})}


def _words(name: str, value: Any) -> Sequence[str]:
    dashed = name.replace("_", "-")
    if value is None:
        return ()
    if name in _SWITCHES:
        if not isinstance(value, bool):
            raise UsageError(f"{name} is {value!r}", hint="it takes True or False")
        return (f"--{dashed}",) if value else (f"--no-{dashed}",) if name in _NEGATED else ()
    if name in _REPEATED and isinstance(value, Sequence) and not isinstance(value, str):
        return [word for each in value for word in _words(name, each)]
    # One word each, so that a value that begins with a dash is not taken for an option.
    return (f"--{dashed}={_text(name, value)}",)


def _text(name: str, value: Any) -> str:
    if name in _LISTS and isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):  # NumPy's integers too
        return str(operator.index(value))
    raise UsageError(f"{name} is {value!r}", hint="it takes one value, as on the command line")


def _advice(name: str) -> str:
    if name == "wait":
        return "call wait() on the job that submit returns"
    known = list(SubmitOptions.__annotations__)
    if close := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {close[0]}?"
    return f"it has {', '.join(known)}"

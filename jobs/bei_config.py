"""A deployment's config.yaml as the defaults of a job: what serves online and what backfills
offline share one file.

Reads the `trt_llm` section of Baseten's BEI and BEI-Bert engines
(https://docs.baseten.co/engines/bei/bei-reference); the rest of the file is about serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml

from jobs.options import layered
from pipeline.encoder.checkpoint.download import is_archive
from pipeline.errors import UsageError
from pipeline.tasks import TASKS

_ENGINES = ("encoder", "encoder_bert")
_SCHEMES = {
    "HF": ("",),
    "S3": ("s3://",),
    "GCS": ("gs://", "gcs://"),
    "AZURE": ("az://", "abfs://", "https://"),
    "REMOTE_URL": ("https://", "http://"),
}
_MIN_TOKENS, _MAX_TOKENS, _TOKEN_STEP = 64, 131_072, 64

# The keys of each section. Those that are read nowhere below shape how requests are served and
# not one value of a result.
_TRT_LLM = {"build", "runtime", "inference_stack"}
_BUILD = {
    "base_model", "checkpoint_repository", "max_num_tokens", "quantization_type",
    "num_builder_gpus",
}  # fmt: skip
_REPOSITORY = {"source", "repo", "revision", "runtime_secret_name"}
_RUNTIME = {
    "webserver_default_route", "kv_cache_free_gpu_mem_fraction", "enable_chunked_context",
    "batch_scheduler_policy", "served_model_name",
}  # fmt: skip


def read_bei_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    """Make a deployment's config.yaml the defaults of the command; all else wins over it."""
    if value is not None:
        ctx.default_map = layered(ctx.default_map or {}, options_of(value))
    return value


def options_of(path: Path) -> dict[str, Any]:
    """The options of `submit` that a config.yaml stands for.

    Raises:
        UsageError: the file cannot be read, is no such configuration, or asks for what cannot be
            honoured; the key is named.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    config = _Section(path, "trt_llm", _section(path, document, "trt_llm"), _TRT_LLM)
    build = config.section("build", _BUILD)
    runtime = config.section("runtime", _RUNTIME, required=False)
    if (engine := build.values.get("base_model")) not in _ENGINES:
        build.refuse("base_model", engine, f"encoders have {' or '.join(_ENGINES)}")
    quantization = str(build.values.get("quantization_type") or "no_quant").lower()
    if quantization != "no_quant":
        build.refuse(
            "quantization_type",
            quantization,
            "bei-jobs computes in 16 or 32 bits, whose results an 8- or 4-bit engine's do not "
            "equal; set no_quant, or keep the two apart",
        )
    options = _model(build.section("checkpoint_repository", _REPOSITORY))
    if (tokens := build.values.get("max_num_tokens")) is not None:
        options["token_budget"] = _tokens(build, tokens)
    if (route := runtime.values.get("webserver_default_route")) is not None:
        tasks = {task.bei_route: name for name, task in TASKS.items()}
        if route not in tasks:
            runtime.refuse("webserver_default_route", route, f"known are {', '.join(tasks)}")
        options["task"] = tasks[route]
    return options


class _Section:
    """A mapping of the file whose every key is known."""

    def __init__(self, path: Path, name: str, values: Mapping[str, Any], known: set[str]) -> None:
        self._path = path
        self._name = name
        self.values = values
        if unknown := sorted(set(values) - known):
            raise UsageError(
                f"{path}: {name}.{unknown[0]} is not known to bei-jobs, which would have to "
                "ignore it",
                hint=f"take it out for the backfill; known under {name} are "
                f"{', '.join(sorted(known))}",
            )

    def section(self, key: str, known: set[str], *, required: bool = True) -> _Section:
        values = self.values.get(key)
        if values is None and not required:
            values = {}
        return _Section(
            self._path, f"{self._name}.{key}", _mapping(self._path, f"{self._name}.{key}", values),
            known,
        )  # fmt: skip

    def refuse(self, key: str, value: object, reason: str) -> NoReturn:
        """Raise for a value that cannot be honoured."""
        raise UsageError(f"{self._path}: {self._name}.{key} is {value!r}", hint=reason)


def _section(path: Path, document: object, name: str) -> Mapping[str, Any]:
    whole = _mapping(path, "the document", document)
    return _mapping(path, name, whole.get(name))


def _mapping(path: Path, name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{path}: {name} is missing or holds no keys",
            hint="give the config.yaml of a BEI or BEI-Bert deployment",
        )
    return value


def _model(repository: _Section) -> dict[str, Any]:
    source = str(repository.values.get("source", "HF")).upper()
    repo = repository.values.get("repo")
    revision = repository.values.get("revision")
    if source not in _SCHEMES:
        repository.refuse("source", source, f"known are {', '.join(_SCHEMES)}")
    if not isinstance(repo, str) or not repo.startswith(_SCHEMES[source]):
        schemes = " or ".join(scheme for scheme in _SCHEMES[source] if scheme)
        repository.refuse("repo", repo, f"for {source} give a {schemes or 'name on the hub'}")
    if source == "AZURE" and repo.startswith("https://") and not is_archive(repo):
        repository.refuse(
            "repo",
            repo,
            "https:// serves single files: name an archive (.tar.gz, .tgz, .tar), or the folder as "
            "az://CONTAINER/PATH or abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH",
        )
    if revision is not None and source != "HF":
        repository.refuse("revision", revision, "only a name on the hub has revisions")
    return {"model": repo, **({"revision": str(revision)} if revision is not None else {})}


def _tokens(build: _Section, value: object) -> int:
    fits = isinstance(value, int) and _MIN_TOKENS <= value <= _MAX_TOKENS
    if isinstance(value, int) and fits and value % _TOKEN_STEP == 0:
        return value
    build.refuse(
        "max_num_tokens",
        value,
        f"give a number from {_MIN_TOKENS} to {_MAX_TOKENS:,} in steps of {_TOKEN_STEP}",
    )

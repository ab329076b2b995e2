"""Read a deployment's config.yaml as defaults of a job, so that online serving and offline
backfill share one file.

Only the `trt_llm` section of Baseten's BEI and BEI-Bert engines is read
(https://docs.baseten.co/engines/bei/bei-reference); the other sections configure serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml

from jobs.options import merge_defaults
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

# The keys allowed in each section. Those that are not read below affect how requests are served,
# but no result.
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
    """Use a deployment's config.yaml as defaults; every other source of options overrides it."""
    if value is not None:
        ctx.default_map = merge_defaults(options_of(value), ctx.default_map or {})
    return value


def options_of(path: Path) -> dict[str, Any]:
    """The options of `submit` that a config.yaml sets.

    Raises:
        UsageError: the file cannot be read, is not a BEI configuration, or sets a key to something
            that bei-jobs does not support; the key is named.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    config = _Section(path, "trt_llm", _section(path, document, "trt_llm"), _TRT_LLM)
    build = config.section("build", _BUILD)
    runtime = config.section("runtime", _RUNTIME, required=False)
    if (engine := build.values.get("base_model")) not in _ENGINES:
        build.refuse("base_model", engine, f"give an encoder: {' or '.join(_ENGINES)}")
    quantization = str(build.values.get("quantization_type") or "no_quant").lower()
    if quantization != "no_quant":
        build.refuse(
            "quantization_type",
            quantization,
            "set no_quant, or do not mix the results: bei-jobs computes in 16 or 32 bits, and an "
            "8- or 4-bit engine's results differ",
        )
    options = _model(build.section("checkpoint_repository", _REPOSITORY))
    if (tokens := build.values.get("max_num_tokens")) is not None:
        options["token_budget"] = _tokens(build, tokens)
    if (route := runtime.values.get("webserver_default_route")) is not None:
        tasks = {task.bei_route: name for name, task in TASKS.items()}
        if route not in tasks:
            runtime.refuse("webserver_default_route", route, f"give one of {', '.join(tasks)}")
        options["task"] = tasks[route]
    return options


class _Section:
    """One mapping of the file; unknown keys are refused."""

    def __init__(
        self, path: Path, name: str, values: Mapping[str, Any], allowed_keys: set[str]
    ) -> None:
        self._path = path
        self._name = name
        self.values = values
        if unknown := sorted(set(values) - allowed_keys):
            raise UsageError(
                f"{path}: bei-jobs does not know the key {name}.{unknown[0]}",
                hint=f"remove it for the backfill; {name} may have "
                f"{', '.join(sorted(allowed_keys))}",
            )

    def section(self, key: str, allowed_keys: set[str], *, required: bool = True) -> _Section:
        """The section under `key`; empty where it is missing and not required."""
        values = self.values.get(key)
        if values is None and not required:
            values = {}
        name = f"{self._name}.{key}"
        return _Section(self._path, name, _mapping(self._path, name, values), allowed_keys)

    def refuse(self, key: str, value: object, hint: str) -> NoReturn:
        """Raise UsageError for a value that is not supported."""
        raise UsageError(f"{self._path}: {self._name}.{key} is {value!r}", hint=hint)


def _section(path: Path, document: object, name: str) -> Mapping[str, Any]:
    sections = _mapping(path, "the document", document)
    return _mapping(path, name, sections.get(name))


def _mapping(path: Path, name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{path}: {name} is missing or has no keys",
            hint="give the config.yaml of a BEI or BEI-Bert deployment",
        )
    return value


def _model(repository: _Section) -> dict[str, Any]:
    source = str(repository.values.get("source", "HF")).upper()
    repo = repository.values.get("repo")
    revision = repository.values.get("revision")
    if source not in _SCHEMES:
        repository.refuse("source", source, f"give one of {', '.join(_SCHEMES)}")
    if not isinstance(repo, str) or not repo.startswith(_SCHEMES[source]):
        schemes = " or ".join(scheme for scheme in _SCHEMES[source] if scheme)
        expected = f"URI that starts with {schemes}" if schemes else "name on the hub"
        repository.refuse("repo", repo, f"for {source} give a {expected}")
    if source == "AZURE" and repo.startswith("https://") and not is_archive(repo):
        repository.refuse(
            "repo",
            repo,
            "give an archive (.tar.gz, .tgz, .tar), as https:// serves single files, or the folder "
            "as az://CONTAINER/PATH or abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH",
        )
    if revision is not None and source != "HF":
        repository.refuse("revision", revision, "omit it: only names on the hub have revisions")
    return {"model": repo, **({"revision": str(revision)} if revision is not None else {})}


def _tokens(build: _Section, value: object) -> int:
    in_range = isinstance(value, int) and _MIN_TOKENS <= value <= _MAX_TOKENS
    if isinstance(value, int) and in_range and value % _TOKEN_STEP == 0:
        return value
    build.refuse(
        "max_num_tokens",
        value,
        f"give a number from {_MIN_TOKENS} to {_MAX_TOKENS:,} in steps of {_TOKEN_STEP}",
    )

"""Read a deployment's config.yaml as defaults of a job, so that online serving and offline
backfill share one file.

Of the file only `trt_llm` is read, as Baseten's engines BEI and BEI-Bert know it
(`jobs.bei_schema`). A key that can change a value sets an option or is refused; one that cannot is
named to the user as without effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from jobs.bei_schema import checked
from pipeline.choice import Choice, Choices
from pipeline.encoder.checkpoint.download import is_archive, is_uri
from pipeline.errors import UsageError
from pipeline.store.uris import redact
from pipeline.tasks import TASKS

_SECTION = "trt_llm"
_BUILD, _RUNTIME = f"{_SECTION}.build.", f"{_SECTION}.runtime."
_REPOSITORY = f"{_BUILD}checkpoint_repository."
_ENGINES = ("encoder", "encoder_bert")
_SCHEMES = {
    "S3": ("s3://",),
    "GCS": ("gs://", "gcs://"),
    "AZURE": ("az://", "abfs://", "azure://", "https://"),
    "REMOTE_URL": ("https://", "http://"),
}
# Only Baseten reads a checkpoint there: the command names a copy of it.
_TRAINING = "BASETEN_TRAINING"
_AZURE_FOLDER = re.compile(
    r"(?:azure://(?P<account>[^/?]+)|https://(?P<host>[^./?]+)\.blob\.core\.windows\.net)"
    r"/(?P<container>[^/?]+)/(?P<path>[^?]+)"
)
_NO_QUANTIZATION = "no_quant"
_QUANTIZATIONS = (
    _NO_QUANTIZATION, "fp8", "fp8_kv", "fp8_mlp_only", "fp4", "fp4_kv", "fp4_mlp_only",
    "smooth_quant", "weights_int8", "weights_kv_int8", "weights_int4", "weights_int4_kv_int8",
)  # fmt: skip
# Keys that ask for other weights, or for another kind of model, where they are set.
_REFUSED = {
    f"{_BUILD}speculator": "omit it: speculative decoding is of text generation",
    f"{_BUILD}lora_adapters": "omit it: give a model into which the adapter was merged",
    f"{_BUILD}skip_build_result": "omit it: it takes the weights from elsewhere",
}


@dataclass(frozen=True, slots=True)
class BeiConfig:
    """What a config.yaml means for a job.

    Attributes:
        path: of the file.
        options: name of a parameter of `submit` → value.
        without_effect: the other keys that are set, dotted.
        quantization: of the engine, `no_quant` for none.
    """

    path: Path
    options: Mapping[str, Any]
    without_effect: tuple[str, ...]
    quantization: str

    @property
    def choices(self) -> Choices:
        """What the user is told of it."""
        told: dict[str, Choice[object]] = {}
        if self.quantization != _NO_QUANTIZATION:
            told["quantization"] = Choice(
                "none",
                f"{self.path.name} says {self.quantization}; bei-jobs computes in 16 or 32 bits: "
                "do not mix its values with those of that engine",
            )
        if self.without_effect:
            reason = f"without effect: these keys of {self.path.name} change no value"
            told["bei-config"] = Choice(self.without_effect, reason)
        return told

    def needs_model(self) -> UsageError:
        """The error where its checkpoint cannot be read, and no --model was given."""
        return UsageError(
            f"{self.path}: {_REPOSITORY}source is {_TRAINING}, which only Baseten can read",
            hint="download the checkpoint (`truss train get_checkpoint_urls`), and give its folder "
            "with --model",
        )


def load_bei_config(path: Path) -> BeiConfig:
    """Read a config.yaml.

    Raises:
        UsageError: the file cannot be read, is not a BEI configuration, or sets a key to something
            that bei-jobs does not support; the key is named.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path} cannot be read: {_without_content(error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return _Reader(path, document).config()


def _without_content(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself: it may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and (at := error.problem_mark):
        return f"line {at.line + 1}, column {at.column + 1}: {error.problem}"
    return "it is not YAML"


class _Reader:
    """Takes keys out of a file; what is left over at the end is without effect."""

    def __init__(self, path: Path, document: object) -> None:
        self._path = path
        if not isinstance(document, Mapping) or not isinstance(
            section := document.get(_SECTION), Mapping
        ):
            raise UsageError(
                f"{path}: {_SECTION} is missing or has no keys",
                hint="give the config.yaml of a BEI or BEI-Bert deployment",
            )
        stack = section.get("inference_stack")
        if isinstance(stack, str) and stack != "v1":  # whose keys are others
            hint = "BEI and BEI-Bert are v1; the others generate text"
            self._refuse(f"{_SECTION}.inference_stack", stack, hint)
        self._values = dict(checked(path, section))
        self._others = [str(key) for key, value in document.items() if key != _SECTION and value]

    def config(self) -> BeiConfig:
        """What the whole file means."""
        engine = self._engine()
        for key, hint in _REFUSED.items():
            if value := self._take(key):
                self._refuse(key, value if value is True else "set", hint)
        options = self._model()
        if (tokens := self._take(f"{_BUILD}max_num_tokens")) is not None:
            options["token_budget"] = tokens
        quantization = self._quantization()
        options |= self._task(engine)
        self._take(f"{_SECTION}.inference_stack")
        without_effect = (*self._values, *self._others)
        return BeiConfig(self._path, options, without_effect, quantization)

    def _take(self, key: str, default: Any = None) -> Any:
        return self._values.pop(key, default)

    def _refuse(self, key: str, value: object, hint: str) -> NoReturn:
        held = repr(value) if isinstance(value, bool | int | float) else repr(redact(str(value)))
        raise UsageError(f"{self._path}: {key} is {held}", hint=hint)

    def _engine(self) -> str:
        key = f"{_BUILD}base_model"
        if not any(name.startswith(_BUILD) for name in self._values):
            raise UsageError(
                f"{self._path}: {_SECTION}.build is missing or has no keys",
                hint="give the config.yaml of a BEI or BEI-Bert deployment",
            )
        engine: str = self._take(key, "decoder")  # as the schema says
        if engine not in _ENGINES:
            hint = f"give an encoder, {' or '.join(_ENGINES)}: the others, and none, generate text"
            self._refuse(key, engine, hint)
        return engine

    def _quantization(self) -> str:
        key = f"{_BUILD}quantization_type"
        quantization = str(self._take(key, _NO_QUANTIZATION)).lower()
        if quantization not in _QUANTIZATIONS:
            self._refuse(key, quantization, f"give one of {', '.join(_QUANTIZATIONS)}")
        return quantization

    def _task(self, engine: str) -> dict[str, Any]:
        key = f"{_RUNTIME}webserver_default_route"
        route = self._take(key)
        tasks = {task.bei_route: name for name, task in TASKS.items()}
        if route is None:
            return {}
        if route not in tasks:
            self._refuse(key, route, f"bei-jobs has tasks for {', '.join(tasks)}")
        options = {"task": tasks[route]}
        # BEI infers the limit of an embedding model, and BEI-Bert that of every model.
        if engine == "encoder" and route in ("/predict", "/rerank"):
            longest = self._take(f"{_BUILD}max_seq_len")
            options |= {} if longest is None else {"max_length": longest}
        return options

    def _model(self) -> dict[str, Any]:
        source = str(self._take(f"{_REPOSITORY}source", "HF")).upper()
        repo = self._take(f"{_REPOSITORY}repo", "")
        revision = self._take(f"{_REPOSITORY}revision")
        if source == _TRAINING:
            return {}
        if source != "HF" and source not in _SCHEMES:
            known = ", ".join(("HF", *_SCHEMES, _TRAINING))
            self._refuse(f"{_REPOSITORY}source", source, f"give one of {known}")
        if revision and source != "HF":
            hint = "omit it: only names on the hub have revisions"
            self._refuse(f"{_REPOSITORY}revision", revision, hint)
        model = self._checked_repo(source, repo)
        return {"model": model, **({"revision": revision} if revision else {})}

    def _checked_repo(self, source: str, repo: str) -> str:
        """The model of a checkpoint, as --model takes it."""
        key = f"{_REPOSITORY}repo"
        if source == "HF":
            if not repo or is_uri(repo) or is_archive(repo) or repo.startswith((".", "/")):
                self._refuse(key, repo, "for HF give a name on the hub")
        elif not repo.startswith(_SCHEMES[source]):
            schemes = " or ".join(_SCHEMES[source])
            self._refuse(key, repo, f"for {source} give a URI that starts with {schemes}")
        if source != "AZURE" or repo.startswith(("az://", "abfs://")) or is_archive(repo):
            return repo
        if (folder := _AZURE_FOLDER.fullmatch(repo)) is None:
            self._refuse(
                key,
                repo,
                "give an archive (.tar.gz, .tgz, .tar), or a folder as "
                "azure://ACCOUNT/CONTAINER/PATH, az://CONTAINER/PATH or "
                "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH",
            )
        account = folder["account"] or folder["host"]
        return f"abfs://{folder['container']}@{account}.dfs.core.windows.net/{folder['path']}"

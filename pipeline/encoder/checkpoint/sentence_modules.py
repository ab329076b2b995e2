"""The module files of sentence-transformers: what happens to token vectors after the encoder.

Reads modules.json, the config of each module, sentence_bert_config.json and
config_sentence_transformers.json, in the layouts of sentence-transformers 2 to 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint.config_values import (
    Config,
    is_whole,
    model_class,
    size,
)
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.modules import (
    DenseModule,
    LayerNormModule,
    Module,
    NormalizeModule,
    PoolingMode,
    SentenceModules,
)
from pipeline.encoder.checkpoint.pooling_config import pooling_modes
from pipeline.encoder.checkpoint.sentence_settings import (
    Place,
    check_model_type,
    check_places,
    check_transformer,
    read_prompts,
    truncate_dim,
)
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

# Names of the file with max_seq_length and do_lower_case; the first one that exists is read.
TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
GENERAL = "config_sentence_transformers.json"
# Why a pooling is assumed.
_NO_MODULES = "the checkpoint has no modules.json: assumed, as in sentence-transformers"
_CAUSAL = ", for a causal language model"
_NO_POOLING = (
    "modules.json names no Pooling, without which sentence-transformers gives no vector: assumed"
)
# Modules that cannot be computed without a config.json of their own.
_CONFIGURED = ("Pooling", "Dense", "LayerNorm")
# Classes of torch.nn without weights, with the arguments that they have by default.
DENSE_ACTIVATIONS = (
    *("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU", "LeakyReLU", "ELU", "SELU", "CELU"),
    *("ReLU6", "Mish", "Softplus", "Softsign", "LogSigmoid", "Tanhshrink"),
    *("Hardtanh", "Hardswish", "Hardsigmoid"),
)


def read_modules(
    files: CheckpointFiles, config: Config | None = None, *, embeds: bool = True
) -> SentenceModules:
    """Parse the module files of a checkpoint.

    Without modules.json: mean pooling, or the last token of a causal language model, as
    sentence-transformers does.

    Args:
        files: of the checkpoint.
        config: its config.json, for the rule above.
        embeds: whether the vectors of the modules are what the model gives.

    Raises:
        CheckpointError: bei-jobs does not compute a module type or setting.
    """
    if embeds:
        general = files.path / GENERAL
        check_model_type(files.json(general), general)
        file = transformer_file(files, files.folder)
        check_transformer(files.json(file), file)
    path, config = files.path, config or {}
    listing = path / "modules.json"
    entries = files.modules
    if not entries:
        return _without_modules(files, config)
    pooling: tuple[PoolingMode, ...] | None = None
    include_prompt, transformer = True, ""
    steps: list[Module] = []
    encoder = "StaticEmbedding" if files.static else "Transformer"
    for i, entry in enumerate(entries):
        kind, folder = module_kind(entry, listing), str(entry.get("path") or "")
        settings = module_config(kind, files, folder)
        if kind == encoder and i == 0:
            transformer = folder
        elif kind == "Pooling" and pooling is None and not steps and not files.static:
            pooling = pooling_modes(settings, path / folder / "config.json")
            include_prompt = bool(settings.get("include_prompt", True))
        elif kind in ("Transformer", "Pooling"):
            raise CheckpointError(
                f"{listing} names the module {kind} in place {i + 1}; bei-jobs computes one "
                "Transformer, then one Pooling, then the modules over its vector"
            )
        else:
            steps.extend(module_steps(kind, folder, settings, listing))
    assumed = "" if pooling or files.static else _NO_POOLING
    given = SentenceModules(transformer, pooling or ("mean",), include_prompt, tuple(steps))
    return with_settings(files, replace(given, assumed=assumed))


def module_kind(entry: Mapping[str, Any], listing: Path) -> str:
    """The class of a module, without its package.

    Raises:
        CheckpointError: it is not one of sentence-transformers.
    """
    package, _, kind = str(entry.get("type", "")).rpartition(".")
    if package.split(".")[0] != "sentence_transformers":
        raise CheckpointError(
            f"{listing} names the module {shown(entry.get('type'))}: code of the checkpoint's own, "
            "which bei-jobs never runs",
            hint="use a checkpoint with modules of sentence-transformers only",
        )
    return kind


def module_config(kind: str, files: CheckpointFiles, folder: str) -> dict[str, Any]:
    """The config of a module, {} for modules without one.

    Raises:
        CheckpointError: the module needs one; defaults would silently give other vectors.
    """
    file = files.path / folder / "config.json"
    if kind in _CONFIGURED and (not folder or not file.is_file()):
        raise CheckpointError(
            f"{files.path / 'modules.json'} names a {kind} in {folder!r}, which holds no "
            "config.json",
            hint="download the checkpoint again: it is incomplete",
        )
    return files.json(file) if folder else {}


def module_steps(
    kind: str,
    folder: str,
    settings: Mapping[str, Any],
    listing: Path,
    place: Place = "sentence_embedding",
) -> tuple[Module, ...]:
    """One module after pooling, or over the vectors of tokens; () if it has no effect.

    Raises:
        CheckpointError: bei-jobs does not compute it, or it reads something else than `place`.
    """
    if kind == "LogitScore":  # the score of a reranker: see cross_encoder.py
        return ()
    check_places(kind, settings, listing.parent / folder / "config.json", place)
    try:
        return _step(kind, folder, settings, listing)
    except KeyError as error:
        file = listing.parent / folder / "config.json"
        raise CheckpointError(f"{file} lacks {error}, which a {kind} module needs") from error
    except ValueError as error:
        file = listing.parent / folder / "config.json"
        raise CheckpointError(f"{file}: {error}") from error


def _step(kind: str, folder: str, settings: Mapping[str, Any], listing: Path) -> tuple[Module, ...]:
    """One module after pooling, () if it has no effect at inference."""
    if kind == "Normalize":
        return (NormalizeModule(),)
    if kind == "Dropout":
        return ()
    if kind == "LayerNorm":
        return (LayerNormModule(folder, size(settings, "dimension")),)
    if kind == "Dense":
        return (_dense(folder, settings, listing),)
    raise CheckpointError(
        f"{listing} names the module {one_line(kind)}, which bei-jobs does not compute",
        hint="use a checkpoint with these modules only: Transformer, Pooling, Dense, LayerNorm, "
        "Dropout, Normalize",
    )


def _dense(folder: str, settings: Mapping[str, Any], listing: Path) -> DenseModule:
    activation = settings.get("activation_function", "torch.nn.Tanh")
    activation = "torch.nn.Identity" if activation is None else str(activation)
    name = activation.rpartition(".")[2]
    if not activation.startswith("torch.") or name not in DENSE_ACTIVATIONS:
        raise CheckpointError(
            f"{listing.parent / folder / 'config.json'} names the activation {shown(activation)}",
            hint=f"use one of {', '.join(DENSE_ACTIVATIONS)} of torch.nn",
        )
    return DenseModule(
        folder,
        size(settings, "in_features"),
        size(settings, "out_features"),
        bool(settings.get("bias", True)),
        name,
        bool(settings.get("use_residual", False)),
        "activation_function" in settings,
    )


def _without_modules(files: CheckpointFiles, config: Config) -> SentenceModules:
    if files.static:
        unit = (NormalizeModule(),) if config.get("normalize") else ()
        return with_settings(files, SentenceModules(steps=unit))
    if model_class(config).endswith("ForCausalLM") and config.get("is_causal", True):
        last = SentenceModules(pooling=("lasttoken",), assumed=_NO_MODULES + _CAUSAL)
        return with_settings(files, last)
    return with_settings(files, SentenceModules(assumed=_NO_MODULES))


def transformer_file(files: CheckpointFiles, folder: Path) -> Path:
    """The settings of the Transformer module, in any of their names."""
    candidates = (folder / name for name in TRANSFORMER_CONFIGS)
    return next((file for file in candidates if files.json(file)), files.path / "none")


def with_settings(files: CheckpointFiles, modules: SentenceModules) -> SentenceModules:
    """The modules of a checkpoint with its prompts, limits and the case of its texts.

    Raises:
        CheckpointError: a file of settings is damaged.
    """
    general = files.path / GENERAL
    file = transformer_file(files, files.path / modules.transformer)
    settings = files.json(file)
    prompts, default = read_prompts(files, general)
    length = settings.get("max_seq_length")
    if length is not None and not (is_whole(length) and length >= 1):
        raise CheckpointError(
            f"{file} sets max_seq_length = {shown(length)}, which is not a valid length"
        )
    return replace(
        modules,
        prompts=prompts,
        default_prompt_name=default,
        max_seq_length=None if length is None else int(length),
        do_lower_case=bool(settings.get("do_lower_case", False)),
        truncate_dim=truncate_dim(files.json(general), general),
    )

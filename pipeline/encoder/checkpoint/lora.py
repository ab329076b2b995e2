"""LoRA adapters as peft computes them: W + scale · B·A, and the tensors that an adapter replaces.

Read from headers alone, as everything about a checkpoint; `load_weights` adds the products in
float32. What is not understood is refused by name, and never left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint.config_values import is_whole
from pipeline.encoder.checkpoint.safetensors_headers import (
    UNUSED,
    Lora,
    TensorInfo,
    check_floats,
)
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

Tensors = Mapping[str, TensorInfo]

MERGE_IT = (
    "merge it once where peft is installed: AutoPeftModelForFeatureExtraction (of a classifier: "
    "AutoPeftModelForSequenceClassification) .from_pretrained(DIR).merge_and_unload()"
    ".save_pretrained(NEW_DIR), then copy the tokenizer and module files into NEW_DIR"
)
_NAME = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_(embedding_)?[AB])(\.weight)?"
)
_OTHER = re.compile(r"base_model\.model\.(?P<name>.+\.(weight|bias))")
# Between the parts of a replaced tensor's name, by the layer that holds it in peft.
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")
# Before the names of an encoder, in its own checkpoint or in the model that was trained.
_PREFIXES = ("bert.", "roberta.", "xlm_roberta.", "mpnet.", "new.", "gte.", "model.")

# Keys of adapter_config.json that are read, or known from the tensors' names.
_READ = (
    *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora"),
    *("rank_pattern", "alpha_pattern", "init_lora_weights", "bias", "modules_to_save"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
)
# Of training and of other kinds of layers. peft itself sets fan_in_fan_out aside for linear layers.
_WITHOUT_EFFECT = (
    *("task_type", "auto_mapping", "peft_version", "inference_mode", "lora_dropout"),
    *("fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "loftq_config"),
    *("eva_config", "ensure_weight_tying"),
)
# Others (pissa, olora, loftq, …) change the base's weights as they begin.
_HARMLESS_STARTS = ("gaussian", "orthogonal", "eva")
# A name in rank_pattern or alpha_pattern; peft takes any regular expression.
_PLAIN = re.compile(r"\^?[\w.]+")


def adapted(tensors: Tensors, adapter: Tensors, settings: Mapping[str, Any], file: Path) -> Tensors:
    """The tensors of an encoder with an adapter applied.

    Args:
        tensors: of the base, by published name.
        adapter: the tensors of the adapter by name.
        settings: adapter_config.json.
        file: its path, for messages.

    Raises:
        CheckpointError: the adapter is of another kind, or does not fit the base.
    """
    _check_settings(settings, file)
    check_floats(adapter.values(), str(file.parent))
    found = dict(tensors)
    modules: dict[str, dict[str, TensorInfo]] = {}
    for name, info in adapter.items():
        if part := _NAME.fullmatch(name.replace(".default", "")):
            modules.setdefault(part["module"], {})[part["part"]] = info
        elif ".original_module." not in name:
            _replace(found, name, info)
    if not modules:
        raise refused(f"{file.parent} holds no LoRA in its adapter_model.safetensors")
    for module, parts in modules.items():
        _add(found, module, parts, settings, file)
    return found


def _check_settings(settings: Mapping[str, Any], file: Path) -> None:
    if settings.get("peft_type") != "LORA":
        raise refused(f"{file} is of an adapter of the kind {shown(settings.get('peft_type'))}")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in _HARMLESS_STARTS:
        raise refused(f"{file} sets init_lora_weights = {shown(start)}, which changes the base")
    for key, value in settings.items():
        if value and key not in _READ and key not in _WITHOUT_EFFECT:
            raise refused(f"{file} sets {one_line(key)} = {shown(value)}")


def _replace(found: dict[str, TensorInfo], name: str, info: TensorInfo) -> None:
    """Put a tensor that was trained whole in the place of the base's."""
    match = _OTHER.fullmatch(name)
    published = _published(found, _WRAPPED.sub("", match["name"])) if match else None
    if published is None:
        raise refused(f"{info.file} holds {one_line(name)}, which its base lacks")
    if found[published].shape != info.shape:
        raise _misfit(info, found[published])
    found[published] = info


def _add(
    found: dict[str, TensorInfo],
    module: str,
    parts: Mapping[str, TensorInfo],
    settings: Mapping[str, Any],
    file: Path,
) -> None:
    """Add the product of a module's two matrices to its weight."""
    info = next(iter(parts.values()))
    published = _published(found, f"{module}.weight")
    if published is None:
        if any(pattern.search(f"{module}.weight") for pattern, _ in UNUSED):
            return
        raise refused(f"{info.file} adapts {one_line(module)}, which its base lacks")
    embedding = "lora_embedding_A" in parts
    kind = "lora_embedding_" if embedding else "lora_"
    if parts.keys() != {f"{kind}A", f"{kind}B"} or not _targeted(module, settings):
        raise refused(
            f"{info.file} has {one_line(', '.join(sorted(parts)))} of {one_line(module)}, which "
            f"do not go with {file.name}"
        )
    down, up, weight = parts[f"{kind}A"], parts[f"{kind}B"], found[published]
    rank = _pattern(settings, "rank_pattern", module, settings.get("r"), file)
    if (up.shape[1:], down.shape[:1], len(down.shape)) != ((rank,), (rank,), 2):
        raise refused(f"{file} gives {one_line(module)} the rank {shown(rank)}, its tensors not")
    product = (up.shape[0], down.shape[1])
    if weight.shape != (product[::-1] if embedding else product):
        raise _misfit(down, weight)
    if weight.lora is not None:
        raise refused(f"{down.file} adapts {one_line(published)} twice")
    alpha = _pattern(settings, "alpha_pattern", module, settings.get("lora_alpha"), file)
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    lora = Lora(down.file, down.name, up.name, scale, transposed=embedding)
    found[published] = replace(weight, lora=lora)


def _published(tensors: Tensors, name: str) -> str | None:
    """The base's name of a tensor, which may have another prefix; None if it has no such tensor."""
    names = [name, *(name.removeprefix(p) for p in _PREFIXES), *(p + name for p in _PREFIXES)]
    return next((name for name in names if name in tensors), None)


def _targeted(module: str, settings: Mapping[str, Any]) -> bool:
    """Whether peft would apply this module; an expression, or none, says what the tensors do."""
    targets = settings.get("target_modules")
    if not isinstance(targets, list):
        return True
    return any(f".{module}".endswith(f".{target}") for target in targets)


def _pattern(
    settings: Mapping[str, Any], key: str, module: str, default: Any, file: Path
) -> int | float:
    """The number of a module: that of the first name in a pattern that is its end, or a default."""
    patterns = settings.get(key) or {}
    if not isinstance(patterns, dict):
        raise refused(f"{file} sets {key} = {shown(patterns)}")
    for name in patterns:
        if not _PLAIN.fullmatch(name):
            raise refused(f"{file} has {shown(name)} in its {key}")
    matching = (n for n in patterns if _is_end(n, module))
    value = patterns.get(next(matching, None), default)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (key == "rank_pattern" and not (is_whole(value) and value >= 1)):
        raise refused(f"{file} gives {one_line(module)} the {key[:-8]} {shown(value)}")
    return value  # type: ignore[no-any-return]


def _is_end(name: str, module: str) -> bool:
    return name[1:] == module if name.startswith("^") else f".{module}".endswith(f".{name}")


def _misfit(info: TensorInfo, weight: TensorInfo) -> CheckpointError:
    return refused(
        f"{info.file} has {one_line(info.name)} of {list(info.shape)} for a tensor of "
        f"{list(weight.shape)}: another base"
    )


def refused(problem: str) -> CheckpointError:
    """The error for an adapter that bei-jobs does not apply."""
    return CheckpointError(f"{problem}; bei-jobs does not apply it", hint=MERGE_IT)

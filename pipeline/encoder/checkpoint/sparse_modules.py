"""The module files of a SparseEncoder of sentence-transformers.

Computed are a masked language model with a SpladePooling, and a SparseStaticEmbedding, which needs
no inference. A SparseAutoEncoder (CSR) is refused by its name, as other modules are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.modules import SentenceModules, SparseModule
from pipeline.encoder.checkpoint.sentence_modules import (
    GENERAL,
    module_kind,
    transformer_file,
    with_settings,
)
from pipeline.encoder.checkpoint.sentence_settings import check_transformer
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

# The second is the name of sentence-transformers 5.
_ENCODERS = ("Transformer", "MLMTransformer")
_POOLINGS = ("max", "sum")
_ACTIVATIONS = ("relu", "log1p_relu")


def read_sparse_modules(files: CheckpointFiles) -> SentenceModules | None:
    """The modules of a SparseEncoder; None of another checkpoint.

    Raises:
        CheckpointError: bei-jobs does not compute a module beside them, or a setting.
    """
    listing = files.path / "modules.json"
    kinds = [module_kind(entry, listing) for entry in files.modules]
    if not {"SpladePooling", "SparseStaticEmbedding"} & set(kinds):
        return None
    general = files.path / GENERAL
    model_type = files.json(general).get("model_type")
    if model_type not in (None, "SparseEncoder"):
        raise CheckpointError(
            f"{general} says that this is a {shown(model_type)}, but its modules are those of a "
            "SparseEncoder"
        )
    folders = [str(entry.get("path") or "") for entry in files.modules]
    if kinds == ["SparseStaticEmbedding"]:
        _check_table(files.json(files.folder / "config.json"), files.folder / "config.json")
        sparse = SparseModule(table=True)
    elif len(kinds) == 2 and kinds[0] in _ENCODERS and kinds[1] == "SpladePooling":
        file = transformer_file(files, files.folder)
        check_transformer(files.json(file), file, "fill-mask")
        sparse = _splade(files, files.path / folders[1] / "config.json")
    else:
        raise CheckpointError(
            f"{listing} lists {one_line(', '.join(kinds))}; of a SparseEncoder, bei-jobs computes "
            "a Transformer and a SpladePooling, or a SparseStaticEmbedding alone"
        )
    modules = SentenceModules(transformer=folders[0], pooling=(), sparse=sparse)
    return with_settings(files, modules)


def _splade(files: CheckpointFiles, file: Path) -> SparseModule:
    settings = files.json(file)
    pooling = settings.get("pooling_strategy", "max")
    activation = settings.get("activation_function", "relu")
    for key, value, known in (
        ("pooling_strategy", pooling, _POOLINGS),
        ("activation_function", activation, _ACTIVATIONS),
    ):
        if value not in known:
            raise CheckpointError(
                f"{file} sets {key} = {shown(value)}, which bei-jobs does not compute",
                hint=f"sentence-transformers writes {' or '.join(known)}",
            )
    return SparseModule(pooling=str(pooling), activation=str(activation))


def _check_table(settings: Mapping[str, Any], file: Path) -> None:
    """Refuse weights in a file of JSON, which only a model that was never saved has."""
    if settings.get("path"):
        raise CheckpointError(
            f"{file} names the weights {shown(settings['path'])}; bei-jobs reads a "
            "SparseStaticEmbedding from safetensors",
            hint="save the model once: SparseEncoder(DIR).save_pretrained(NEW_DIR)",
        )

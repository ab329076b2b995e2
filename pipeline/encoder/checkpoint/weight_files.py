"""Which files hold a checkpoint's weights: transformers' order (`_get_resolved_checkpoint_files`).

`transformers_weights` of config.json, else model.safetensors, else the files that
model.safetensors.index.json names. Nothing else is read: no variant (`model.fp16.safetensors`), no
`consolidated.safetensors`, no shard that the index does not name, no pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.encoder.checkpoint.bounds import MAX_NAME_CHARACTERS, MAX_SHARDS
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, NAME_CHECKPOINT, read_json
from pipeline.encoder.checkpoint.safetensors_headers import list_some
from pipeline.encoder.checkpoint.shown import shown
from pipeline.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"
ADAPTER_NAME = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
# Beside the encoder: the linear layer of bge-m3 that weighs each token, and as published, a pickle.
TOKEN_WEIGHTS_NAME = "sparse_linear.safetensors"
TOKEN_WEIGHTS_PICKLE = "sparse_linear.pt"
# The same of the layer that gives each token its vector.
TOKEN_VECTORS_NAME = "colbert_linear.safetensors"
TOKEN_VECTORS_PICKLE = "colbert_linear.pt"
TOKEN_HEADS = (TOKEN_WEIGHTS_NAME, TOKEN_VECTORS_NAME)


def weight_files(folder: Path, explicit: object = None) -> tuple[Path, ...]:
    """The safetensors files of a folder, in the order of the index if that is what is read.

    Args:
        folder: of the encoder's own files.
        explicit: `transformers_weights` of its config.json.

    Raises:
        CheckpointError: there are none, one is missing, or a name leaves the folder.
    """
    names = weight_names(folder, explicit, lambda name: (folder / name).is_file())
    if not names:
        raise no_safetensors(folder)
    for name in names:
        if not (folder / name).is_file():
            by = "its config.json" if name == explicit else "its index"
            raise CheckpointError(
                f"{folder} lacks {name}, which {by} names",
                hint="download the checkpoint again: it is incomplete",
            )
    return tuple(folder / name for name in names)


def weight_names(folder: Path, explicit: object, exists: Callable[[str], bool]) -> tuple[str, ...]:
    """Names of the files that are read, () if there are none; only the index must be local.

    Args:
        folder: of config.json and the index.
        explicit: `transformers_weights` of config.json.
        exists: whether the checkpoint has a file of that name in this folder.

    Raises:
        CheckpointError: a name leaves the folder, or the index names no files.
    """
    if explicit is not None:
        return _explicit(folder, explicit)
    if exists(WEIGHTS_NAME):
        return (WEIGHTS_NAME,)
    return _shards(folder / INDEX_NAME) if exists(INDEX_NAME) else ()


def _explicit(folder: Path, name: object) -> tuple[str, ...]:
    suffixes = (".safetensors", ".safetensors.index.json")
    if not isinstance(name, str) or not name.endswith(suffixes):
        raise CheckpointError(
            f"{folder / 'config.json'} sets transformers_weights = {shown(name)}, which is not a "
            "safetensors file",
            hint=DOWNLOAD_AGAIN,
        )
    _check_name(name, folder / "config.json")
    return _shards(folder / name) if name.endswith(".json") else (name,)


def _shards(index: Path) -> tuple[str, ...]:
    """The files that an index names, each once."""
    content = read_json(index)
    files = content.get("weight_map") if isinstance(content, dict) else None
    names = tuple(dict.fromkeys(map(str, files.values()))) if isinstance(files, dict) else ()
    if not names:
        raise CheckpointError(
            f"{index} has no weight_map that names a file for each tensor", hint=DOWNLOAD_AGAIN
        )
    if len(names) > MAX_SHARDS:
        raise CheckpointError(
            f"{index} names {len(names):,} files; at most {MAX_SHARDS:,} are read",
            hint=DOWNLOAD_AGAIN,
        )
    for name in names:
        _check_name(name, index)
    return names


def _check_name(name: str, source: Path) -> None:
    if Path(name).name != name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise CheckpointError(f"{source} names {shown(name)}, outside its own folder")


def no_safetensors(folder: Path, wanted: str = WEIGHTS_NAME) -> CheckpointError:
    """The error for a folder whose weights cannot be read."""
    present = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    lacks = f"{folder} has no {wanted}" + (f" (nor {INDEX_NAME})" if wanted == WEIGHTS_NAME else "")
    others = [name for name in present if name.endswith(".safetensors")]
    if others and wanted == WEIGHTS_NAME:
        return CheckpointError(
            f"{lacks}, only {list_some(others)}, which transformers does not read either",
            hint=f"rename the file to {WEIGHTS_NAME} if it holds this encoder's weights in the "
            "tensor names of its config.json; an adapter needs adapter_config.json beside it",
        )
    if pickles := [name for name in present if name.endswith(".bin")]:
        return pickle_error(str(folder), pickles)
    return CheckpointError(lacks, hint=NAME_CHECKPOINT)


def pickle_error(where: str, files: Sequence[str], *, advice: str = "") -> CheckpointError:
    """The error for weights in a format that runs code when it is opened.

    Args:
        where: the checkpoint.
        files: the pickles.
        advice: what is known of a revision that has safetensors.
    """
    return CheckpointError(
        f"{where} has its weights only as {list_some(files)}: a pickle, which runs code when it "
        "is opened, so bei-jobs never reads one",
        hint=(advice or "use a revision with model.safetensors")
        + ", or convert once in a sandbox: AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        ", then copy the tokenizer and module files into NEW_DIR",
    )

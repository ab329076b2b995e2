"""The tensors of a checkpoint by name and shape, read from safetensors headers alone.

Format: https://huggingface.co/docs/safetensors/index (8 bytes little-endian header length, then
a JSON header). Nothing here reads weights, imports torch, or unpickles.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.encoder.checkpoint.files import DOWNLOAD_AGAIN, NAME_CHECKPOINT
from pipeline.errors import CheckpointError

# The format's own limit on a header.
MAX_HEADER_BYTES = 100_000_000
# Most names in one message: enough to see the pattern, not a thousand lines.
MAX_LISTED = 24
INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"

# Accepted dtypes of weights: integers and 8-bit floats mean nothing without scales.
_FLOATS = ("F64", "F32", "F16", "BF16")

# Old TensorFlow exports name the scale and shift of a LayerNorm after the paper's symbols.
_LEGACY = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)

# Tensors of a checkpoint that no output depends on, each with the reason.
UNUSED = (
    (re.compile(r"(^|\.)position_ids$"), "a buffer: 0, 1, 2, …"),
    (re.compile(r"(^|\.)rotary_emb\.(\w+_)?inv_freq$"), "a buffer: follows from the config"),
    (re.compile(r"^cls\."), "the masked-language-model head"),
    (re.compile(r"^lm_head\."), "the language-model head"),
)
# The pooler, if neither head nor pooling reads it.
UNUSED_POOLER = re.compile(r"(^|\.)pooler\.(dense\.)?(weight|bias)$")
# gte-multilingual-base weighs each token with it for sparse retrieval; dense vectors do not use it.
UNUSED_TOKEN_WEIGHTS = re.compile(r"^classifier\.(weight|bias)$")
# ModernBERT's masked-language-model head shares the name `head` with its classifiers.
UNUSED_PREDICTION = re.compile(r"^(head\.(dense|norm)|decoder)\.(weight|bias)$")


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The file, dtype and shape of one published tensor."""

    name: str  # as published, before legacy names are translated
    file: Path
    dtype: str  # safetensors' own: F32, F16, BF16, I64, …
    shape: Shape


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, in the order of the index if there is one.

    Raises:
        CheckpointError: there are none, the index names a missing file or leaves the folder.
    """
    if (folder / INDEX_NAME).is_file():
        names = _shards(folder / INDEX_NAME)
    elif (folder / WEIGHTS_NAME).is_file():
        names = (WEIGHTS_NAME,)
    else:
        raise _no_safetensors(folder)
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{folder / INDEX_NAME} names {name!r}, outside its own folder")
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} lacks {name}, which its index names",
                hint="download the checkpoint again: it is incomplete",
            )
    return tuple(folder / name for name in names)


def _shards(index: Path) -> tuple[str, ...]:
    """The files that an index names, each once."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{index} is not JSON: {error}", hint=DOWNLOAD_AGAIN) from error
    files = content.get("weight_map") if isinstance(content, dict) else None
    names = tuple(dict.fromkeys(map(str, files.values()))) if isinstance(files, dict) else ()
    if not names:
        raise CheckpointError(
            f"{index} has no weight_map that names a file for each tensor", hint=DOWNLOAD_AGAIN
        )
    return names


def _no_safetensors(folder: Path) -> CheckpointError:
    pickles = sorted(p.name for p in folder.glob("*.bin")) if folder.is_dir() else []
    if pickles:
        return pickle_error(str(folder), pickles)
    return CheckpointError(
        f"{folder} has no {WEIGHTS_NAME} (nor {INDEX_NAME})",
        hint=NAME_CHECKPOINT,
    )


def pickle_error(where: str, files: Sequence[str]) -> CheckpointError:
    """The error for weights in a format that runs code when it is opened."""
    return CheckpointError(
        f"{where} has its weights only as {list_some(files)}: a pickle, which runs code when it "
        "is opened, so bei-jobs never reads one",
        hint="use a revision with model.safetensors, or convert once in a sandbox: "
        "AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR), then copy the tokenizer and "
        "module files into NEW_DIR",
    )


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file by name.

    Raises:
        CheckpointError: the file is not safetensors.
    """
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        return {
            name: TensorInfo(name, file, entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is not a safetensors file: {error}", hint=DOWNLOAD_AGAIN
        ) from error


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint under its modern name, shards merged."""
    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(folder):
        for name, info in read_header(file).items():
            for pattern, replacement in _LEGACY:
                name = pattern.sub(replacement, name)
            tensors[name] = info
    return tensors


def parameters(tensors: Iterable[TensorInfo]) -> int:
    """Number of weights, without buffers of integers."""
    total = 0
    for info in tensors:
        if info.dtype.startswith(("F", "BF")):
            size = 1
            for length in info.shape:
                size *= length
            total += size
    return total


def check_floats(infos: Iterable[TensorInfo], where: str) -> None:
    """Raise a CheckpointError if weights are stored as anything but plain floats."""
    if odd := [f"{info.name} {info.dtype}" for info in infos if info.dtype not in _FLOATS]:
        raise CheckpointError(
            f"{where} has weights that are not floats of 16 bits or more: {list_some(odd)}",
            hint="use the checkpoint from before it was quantized",
        )


def list_some(names: Sequence[str]) -> str:
    """Names for a message, at most MAX_LISTED of them and the number of the others."""
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class MatchedTensors:
    """Which published tensors make up each tensor of the encoder and its head.

    Several sources are concatenated along their first axis, in order, so that separate query, key
    and value projections become one.
    """

    sources: Mapping[str, tuple[TensorInfo, ...]]  # by bei-jobs' own name
    unused: tuple[str, ...]


def match(
    names: Mapping[str, tuple[str, ...]],
    tensors: Mapping[str, TensorInfo],
    unused: Iterable[re.Pattern[str]],
    where: str,
) -> MatchedTensors:
    """Match bei-jobs' own tensor names with published ones; none may be missing or left over.

    Args:
        names: own name → published names in full.
        tensors: of the checkpoint, by published name.
        unused: patterns of published names that may be left over.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: tensors are missing or left over; the message lists them.
    """
    wanted = {source for sources in names.values() for source in sources}
    missing = sorted(wanted - tensors.keys())
    spare = sorted(tensors.keys() - wanted)
    patterns = tuple(unused)
    left_over = [name for name in spare if not any(p.search(name) for p in patterns)]
    if missing or left_over:
        lists = {"missing": missing, "left over": left_over}
        problems = "; ".join(f"{kind}: {list_some(some)}" for kind, some in lists.items() if some)
        raise CheckpointError(
            f"{where}: the tensors do not match its config; {problems}",
            hint="check that config.json belongs to these weights and that the download is "
            "complete; a random or dropped weight would silently give wrong vectors",
        )
    return MatchedTensors(
        sources={own: tuple(tensors[s] for s in sources) for own, sources in names.items()},
        unused=tuple(spare),
    )

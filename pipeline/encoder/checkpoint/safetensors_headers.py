"""The tensors of a checkpoint by name and shape, read from safetensors headers alone.

Format: https://huggingface.co/docs/safetensors/index (8 bytes little-endian header length, then
a JSON header). Nothing here reads weights, imports torch, or unpickles anything.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CheckpointError

# The format's own limit on a header.
MAX_HEADER_BYTES = 100_000_000
# Tensors that one message names: enough to see the pattern, not a thousand lines.
MAX_LISTED = 24
INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"

_AGAIN = "Fetch the checkpoint again: the file is damaged or was cut short."
# What weights are stored as; integers and 8-bit floats mean nothing without scales.
_FLOATS = ("F64", "F32", "F16", "BF16")

# Old TensorFlow exports name the scale and shift of a LayerNorm after the paper's symbols.
_LEGACY = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)

# Tensors a checkpoint may carry that no output depends on, each with its reason.
UNUSED = (
    (re.compile(r"(^|\.)position_ids$"), "a buffer: 0, 1, 2, …"),
    (re.compile(r"(^|\.)rotary_emb\.(\w+_)?inv_freq$"), "a buffer: follows from the config"),
    (re.compile(r"^cls\."), "the masked-language-model head"),
    (re.compile(r"^lm_head\."), "the language-model head"),
)
# The pooler of a checkpoint whose head or pooling does not read it.
UNUSED_POOLER = re.compile(r"(^|\.)pooler\.(dense\.)?(weight|bias)$")
# gte-multilingual-base weighs each token with it for sparse retrieval; dense vectors do not.
UNUSED_TOKEN_WEIGHTS = re.compile(r"^classifier\.(weight|bias)$")
# ModernBERT's masked-language-model head shares the name `head` with its classifiers.
UNUSED_PREDICTION = re.compile(r"^(head\.(dense|norm)|decoder)\.(weight|bias)$")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one published tensor lies and what it looks like."""

    name: str  # as published, before legacy names are translated
    file: Path
    dtype: str  # safetensors' own: F32, F16, BF16, I64, …
    shape: tuple[int, ...]


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, in the order of the index where it is sharded.

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
                hint="Download the checkpoint again: it is incomplete.",
            )
    return tuple(folder / name for name in names)


def _shards(index: Path) -> tuple[str, ...]:
    """The files that an index names, each once."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{index} is not JSON: {error}", hint=_AGAIN) from error
    found = content.get("weight_map") if isinstance(content, dict) else None
    names = tuple(dict.fromkeys(map(str, found.values()))) if isinstance(found, dict) else ()
    if not names:
        raise CheckpointError(
            f"{index} has no weight_map that names a file for each tensor", hint=_AGAIN
        )
    return names


def _no_safetensors(folder: Path) -> CheckpointError:
    pickles = sorted(p.name for p in folder.glob("*.bin")) if folder.is_dir() else []
    if pickles:
        return pickled(str(folder), pickles)
    return CheckpointError(
        f"{folder} has no {WEIGHTS_NAME} (nor {INDEX_NAME})",
        hint="Name a directory or repository that holds a transformers checkpoint.",
    )


def pickled(where: str, files: Sequence[str]) -> CheckpointError:
    """The error for weights in a format that runs code when it is opened."""
    return CheckpointError(
        f"{where} has its weights only as {list_some(files)}: a pickle, which runs code when it "
        "is opened, so bei-jobs never reads one",
        hint="Use a revision with model.safetensors, or convert once in a sandbox: "
        "AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR), then copy the tokenizer and "
        "module files beside it.",
    )


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Name → tensor of one safetensors file.

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
        raise CheckpointError(f"{file} is not a safetensors file: {error}", hint=_AGAIN) from error


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint under its modern name, shards merged."""
    found: dict[str, TensorInfo] = {}
    for file in weight_files(folder):
        for name, info in read_header(file).items():
            for pattern, replacement in _LEGACY:
                name = pattern.sub(replacement, name)
            found[name] = info
    return found


def parameters(tensors: Iterable[TensorInfo]) -> int:
    """Number of weights, buffers of integers left out."""
    total = 0
    for info in tensors:
        if info.dtype.startswith(("F", "BF")):
            size = 1
            for extent in info.shape:
                size *= extent
            total += size
    return total


def check_floats(infos: Iterable[TensorInfo], where: str) -> None:
    """Raise a CheckpointError where weights are stored as anything but plain floats."""
    if odd := [f"{info.name} {info.dtype}" for info in infos if info.dtype not in _FLOATS]:
        raise CheckpointError(
            f"{where} has weights that are no floats of 16 bits or more: {list_some(odd)}",
            hint="Use the checkpoint before it was quantized.",
        )


def list_some(names: Sequence[str]) -> str:
    """Names for a message; beyond MAX_LISTED only how many more there are."""
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Matched:
    """Which published tensors make up each of ours.

    Several sources are concatenated along their first axis, in order: that is how separate
    query, key and value projections become one.
    """

    sources: Mapping[str, tuple[TensorInfo, ...]]
    unused: tuple[str, ...]


def match(
    names: Mapping[str, tuple[str, ...]],
    tensors: Mapping[str, TensorInfo],
    unused: Iterable[re.Pattern[str]],
    where: str,
) -> Matched:
    """Pair our tensors with published ones; nothing missing, nothing left over.

    Args:
        names: our name → published names, full.
        tensors: what the checkpoint holds.
        unused: published names that may be left over.
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: lists every tensor missing and every one left over.
    """
    wanted = {source for sources in names.values() for source in sources}
    missing = sorted(wanted - tensors.keys())
    spare = sorted(tensors.keys() - wanted)
    patterns = tuple(unused)
    left_over = [name for name in spare if not any(p.search(name) for p in patterns)]
    if missing or left_over:
        lists = {"missing": missing, "left over": left_over}
        found = "; ".join(f"{kind}: {list_some(some)}" for kind, some in lists.items() if some)
        raise CheckpointError(
            f"{where}: the tensors do not match its config; {found}",
            hint="A weight that is random or dropped would give wrong vectors silently. Check "
            "that config.json belongs to these weights and that the download is complete.",
        )
    return Matched(
        sources={ours: tuple(tensors[s] for s in sources) for ours, sources in names.items()},
        unused=tuple(spare),
    )

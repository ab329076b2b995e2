"""The tensors of a checkpoint by name and shape, read from safetensors headers alone.

Format: https://huggingface.co/docs/safetensors/index (8 bytes little-endian header length, then
a JSON header). Nothing here reads weights, imports torch, or unpickles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.encoder.checkpoint.bounds import (
    MAX_JSON_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_SHARDS,
    MAX_TENSORS,
)
from pipeline.encoder.checkpoint.header_entries import Shape, header_entries, no_duplicates
from pipeline.encoder.checkpoint.read_json import (
    DOWNLOAD_AGAIN,
    NAME_CHECKPOINT,
    opened,
    parse_json,
    read_json,
)
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

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
# The heads of classes for answers in a text and among several, which no vector depends on.
UNUSED_ANSWERS = re.compile(r"^(qa_outputs|classifier|head\.(dense|norm))\.(weight|bias)$")
# ModernBERT's masked-language-model head shares the name `head` with its classifiers.
UNUSED_PREDICTION = re.compile(r"^(head\.(dense|norm)|decoder)\.(weight|bias)$")


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
        if Path(name).name != name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
            raise CheckpointError(
                f"{folder / INDEX_NAME} names {shown(name)}, outside its own folder"
            )
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} lacks {name}, which its index names",
                hint="download the checkpoint again: it is incomplete",
            )
    return tuple(folder / name for name in names)


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
    """The tensors of one safetensors file by name; their bytes fill the file without gaps.

    Raises:
        CheckpointError: the file is not safetensors.
    """
    with opened(file) as (handle, size):
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(MAX_JSON_BYTES, size - 8):
            raise _not_safetensors(file, f"a header of {length:,} bytes in a file of {size:,}")
        text = handle.read(length)
    try:
        entries = header_entries(parse_json(text, file, no_duplicates), size - 8 - length)
    except (ValueError, KeyError, TypeError, AttributeError, CheckpointError) as error:
        raise _not_safetensors(file, str(error)) from error
    return {name: TensorInfo(name, file, *entry) for name, entry in entries.items()}


def _not_safetensors(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is not a safetensors file: {one_line(reason)}", hint=DOWNLOAD_AGAIN
    )


def merge_headers(headers: Iterable[Mapping[str, TensorInfo]]) -> dict[str, TensorInfo]:
    """The tensors of all shards under their modern names.

    Raises:
        CheckpointError: there are more tensors, or larger ones, than an encoder has.
    """
    tensors: dict[str, TensorInfo] = {}
    for header in headers:
        for name, info in header.items():
            for pattern, replacement in _LEGACY:
                name = pattern.sub(replacement, name)
            tensors[name] = info
        if len(tensors) > MAX_TENSORS:
            raise CheckpointError(
                f"{info.file.parent} has more than {MAX_TENSORS:,} tensors",
                hint="check that this is the checkpoint of a text encoder",
            )
    return tensors


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint under its modern name, shards merged."""
    return merge_headers(read_header(file) for file in weight_files(folder))


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
    return ", ".join(map(one_line, names[:MAX_LISTED])) + (f" and {more} more" if more > 0 else "")


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

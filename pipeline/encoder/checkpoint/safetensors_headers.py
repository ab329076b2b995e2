"""The tensors of a checkpoint by name and shape, read from safetensors headers alone.

Format: https://huggingface.co/docs/safetensors/index (8 bytes little-endian header length, then
a JSON header). Nothing here reads weights, imports torch, or unpickles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.encoder.checkpoint.bounds import MAX_JSON_BYTES, MAX_TENSORS
from pipeline.encoder.checkpoint.header_entries import Shape, header_entries, no_duplicates
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, opened, parse_json
from pipeline.encoder.checkpoint.shown import one_line
from pipeline.errors import CheckpointError

# Most names in one message: enough to see the pattern, not a thousand lines.
MAX_LISTED = 24

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
    (re.compile(r"^(sparse|colbert)_linear\."), "bge-m3's heads for sparse and multiple vectors"),
)
# The pooler, if neither head nor pooling reads it.
UNUSED_POOLER = re.compile(r"(^|\.)pooler\.(dense\.)?(weight|bias)$")
# gte-multilingual-base weighs each token with it for sparse retrieval; dense vectors do not use it.
UNUSED_TOKEN_WEIGHTS = re.compile(r"^classifier\.(weight|bias)$")
# The heads of classes for answers in a text and among several, which no vector depends on.
UNUSED_ANSWERS = re.compile(r"^(qa_outputs|classifier|head\.(dense|norm))\.(weight|bias)$")
# ColBERT's layer over each token, which is read with the head.
UNUSED_PROJECTION = re.compile(r"^linear\.weight$")
# ModernBERT's masked-language-model head shares the name `head` with its classifiers.
UNUSED_PREDICTION = re.compile(r"^(head\.(dense|norm)|decoder)\.(weight|bias)$")

# What turns images into tokens beside a text model, and the head under its older name.
UNUSED_IMAGES = re.compile(
    r"^(model\.)?(vision_tower|multi_modal_projector)\.|^language_model\.lm_head\."
)


@dataclass(frozen=True, slots=True)
class Lora:
    """What an adapter adds to a tensor: `scale` times the product of two of its own, up · down."""

    file: Path
    down: str  # [rank, in]
    up: str  # [out, rank]
    scale: float
    transposed: bool  # the product is added transposed, as to a table of embeddings


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The file, dtype and shape of one published tensor."""

    name: str  # as published, before legacy names are translated
    file: Path
    dtype: str  # safetensors' own: F32, F16, BF16, I64, …
    shape: Shape
    lora: Lora | None = None


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
        CheckpointError: a tensor comes twice, or there are more than an encoder has.
    """
    tensors: dict[str, TensorInfo] = {}
    for header in headers:
        for name, info in header.items():
            for pattern, replacement in _LEGACY:
                name = pattern.sub(replacement, name)
            if (other := tensors.get(name)) is not None:
                raise CheckpointError(
                    f"{info.file} holds the tensor {one_line(info.name)}, which {other.file.name} "
                    f"holds as {one_line(other.name)}: it is unclear which one is meant",
                    hint=DOWNLOAD_AGAIN,
                )
            tensors[name] = info
        if len(tensors) > MAX_TENSORS:
            raise CheckpointError(
                f"{info.file.parent} has more than {MAX_TENSORS:,} tensors",
                hint="check that this is the checkpoint of a text encoder",
            )
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

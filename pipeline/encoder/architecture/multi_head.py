"""Where a checkpoint has the vectors of tokens, and how texts of either kind are read for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.architecture.published import published_width
from pipeline.encoder.checkpoint.bounds import MAX_JSON_BYTES
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.header_entries import Shape
from pipeline.encoder.checkpoint.module_tensors import module_tensors
from pipeline.encoder.checkpoint.modules import (
    DenseModule,
    Module,
    NormalizeModule,
    SentenceModules,
    TextReading,
)
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, opened
from pipeline.encoder.checkpoint.safetensors_headers import TensorInfo, check_floats
from pipeline.encoder.checkpoint.weight_files import (
    TOKEN_VECTORS_NAME,
    TOKEN_VECTORS_PICKLE,
)
from pipeline.errors import CheckpointError

_TENSORS = {"linear.weight": "colbert_linear.weight", "linear.bias": "colbert_linear.bias"}
CONVERT_VECTORS = (
    f"bge-m3's vectors of tokens need {TOKEN_VECTORS_NAME}; convert the published "
    f"{TOKEN_VECTORS_PICKLE} once, in a sandbox: safetensors.torch.save_file(torch.load("
    f'"{TOKEN_VECTORS_PICKLE}", weights_only=True), "{TOKEN_VECTORS_NAME}")'
)


@dataclass(frozen=True, slots=True)
class MultiHead:
    """How each token of a text gets a vector.

    Attributes:
        steps: the modules over the hidden states of tokens, each with its tensors by own name.
        dimensions: of a vector.
        query: how a query is read.
        document: how a document is read.
        skips_first: whether the first token, which stands for the text, has none.
        markers: what stands before texts as one token, where the vocabulary has it.
        sha256: of weights in a file of their own.
        prompted: whether texts of a kind have a prompt.
    """

    steps: tuple[tuple[Module, Mapping[str, TensorInfo]], ...]
    dimensions: int
    query: TextReading
    document: TextReading
    skips_first: bool = False
    markers: tuple[str, ...] = ()
    sha256: str = ""
    prompted: bool = False

    @property
    def tells_apart(self) -> bool:
        """Whether queries are read otherwise than documents."""
        return self.query != self.document or bool(self.markers) or self.prompted

    def reading(self, kind: str) -> TextReading:
        """How texts of a kind are read; "" is that of documents."""
        return self.query if kind == "query" else self.document

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """All tensors that it reads."""
        return tuple(info for _, infos in self.steps for info in infos.values())

    def identity(self) -> dict[str, Any]:
        """The facts that shape values, as JSON; keys, values and their meaning are frozen."""
        facts: dict[str, Any] = {
            "steps": [type(step).__name__.removesuffix("Module") for step, _ in self.steps],
            "tensors": [info.name for info in self.tensors],
            "dimensions": self.dimensions,
        }
        if self.tells_apart:
            facts |= {
                "query": _as_json(self.query),
                "document": _as_json(self.document),
                "markers": list(self.markers),
            }
        return facts | ({"sha256": self.sha256} if self.sha256 else {})


def _as_json(reading: TextReading) -> dict[str, Any]:
    return asdict(reading) | {"skipped": list(reading.skipped)}


def find_multi_head(
    checkpoint: Checkpoint, modules: SentenceModules, config: EncoderConfig
) -> MultiHead | None:
    """The head that gives each token a vector; None if the checkpoint has none.

    Args:
        checkpoint: whose tensors are looked at.
        modules: of the checkpoint.
        config: of its encoder.

    Raises:
        CheckpointError: its files ask for one, and its tensors do not have it.
    """
    if modules.multi is None:
        return _token_vectors(checkpoint, config) if config.family == "xlm-roberta" else None
    steps = tuple((step, module_tensors(checkpoint.files, step)) for step in modules.steps)
    width = published_width(modules, config)
    if name := modules.multi.projection:
        info = checkpoint.files.tensors.get(name)
        if info is None:
            raise CheckpointError(
                f"{checkpoint.folder} is a ColBERT without {name}, the layer that gives each token "
                "its vector",
                hint=DOWNLOAD_AGAIN,
            )
        linear = _linear({"linear.weight": info}, config, str(checkpoint.folder))
        steps, width = (linear, *steps), info.shape[0]
    multi = modules.multi
    return MultiHead(
        steps,
        width,
        multi.query,
        multi.document,
        markers=multi.markers,
        prompted=any(modules.prompts.values()),
    )


def _token_vectors(checkpoint: Checkpoint, config: EncoderConfig) -> MultiHead | None:
    """bge-m3's layer over each token, in a file of its own or among the encoder's tensors."""
    tensors, where, sha256 = checkpoint.files.tensors, str(checkpoint.folder), ""
    file = checkpoint.folder / TOKEN_VECTORS_NAME
    if file.is_file():
        header = checkpoint.files.header(file)
        bare = {"weight": "linear.weight", "bias": "linear.bias"}
        tensors = {_TENSORS.get(bare.get(name, ""), name): info for name, info in header.items()}
        where, sha256 = str(file), _digest(file)
    elif "colbert_linear.weight" not in tensors:
        return None
    if missing := [name for name in _TENSORS.values() if name not in tensors]:
        raise CheckpointError(
            f"{where}: the layer that gives each token its vector lacks {missing[0]}",
            hint=DOWNLOAD_AGAIN,
        )
    found = {own: checkpoint.files.adapted(name, tensors[name]) for own, name in _TENSORS.items()}
    linear = _linear(found, config, where)
    return MultiHead(
        (linear, (NormalizeModule(), {})),
        found["linear.weight"].shape[0],
        TextReading(),
        TextReading(),
        skips_first=True,
        sha256=sha256,
    )


def _linear(
    tensors: Mapping[str, TensorInfo], config: EncoderConfig, where: str
) -> tuple[Module, Mapping[str, TensorInfo]]:
    """A linear layer over hidden states, as the module that it would be."""
    check_floats(tensors.values(), where)
    weight = tensors["linear.weight"]
    width = weight.shape[0] if weight.shape else 0
    shapes: dict[str, Shape] = {
        "linear.weight": (width, config.hidden_size),
        "linear.bias": (width,),
    }
    for own, info in tensors.items():
        if width < 1 or info.shape != shapes[own]:
            raise CheckpointError(
                f"{where}: {info.name} is {list(info.shape)}, and takes the hidden states of "
                f"{config.hidden_size} values to a vector",
                hint="use the config.json that belongs to these weights",
            )
    bias = "linear.bias" in tensors
    return DenseModule("", config.hidden_size, width, bias, "Identity", residual=False), tensors


def _digest(file: Any) -> str:
    total = hashlib.sha256()
    with opened(file) as (handle, _):
        while piece := handle.read(MAX_JSON_BYTES):
            total.update(piece)
    return total.hexdigest()

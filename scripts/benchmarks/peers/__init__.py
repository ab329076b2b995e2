"""The engines that `scripts/bench encode` compares with ours: every peer that is installed.

Each is called with texts and gives what its users get, tokenizing included; what it needs before
that (weights, an export, its best batch size) is ready before the clock runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.peers import backends
from benchmarks.peers.ctranslate2_int8 import CTranslate2
from benchmarks.peers.library import (
    Batched,
    Embedder,
    LateReranker,
    MultiEmbedder,
    Pipeline,
    Reranker,
    SparseEmbedder,
    load_sentence_transformer,
)
from benchmarks.peers.llama_cpp_q8 import CONVERTER, LlamaCpp

__all__ = [
    "Case",
    "Peer",
    "Runner",
    "library",
    "library_name",
    "load_sentence_transformer",
    "open_peers",
    "peers",
]


class Runner(Protocol):
    """An engine that is ready.

    Attributes:
        precision: of its products, which its share of the matrix rate is of.
        padding: share of the computed tokens that is padding; None where nobody counted.
    """

    precision: str

    @property
    def padding(self) -> float | None: ...

    def __call__(self, inputs: Sequence[Any]) -> object:
        """Compute what a user gets."""

    def values(self, inputs: Sequence[Any]) -> np.ndarray:
        """As `Ours.values`."""


@dataclass(frozen=True)
class Case:
    """What is computed: by every engine alike."""

    folder: Path
    task: str
    device: str
    limit: int
    half: str  # the 16-bit format that loses least
    inputs: Sequence[Any]
    scratch: Path
    vectors: tuple[str, ...] = ("dense",)


@dataclass(frozen=True)
class Peer:
    """An engine that may be installed.

    Attributes:
        name: in the table.
        make: opens it.
        needs: modules that must be installed.
        default: whether its users get it without an option.
        library: whether it is what the authors of such models use.
    """

    name: str
    make: Callable[[], Runner]
    needs: tuple[str, ...] = ()
    default: bool = False
    library: bool = False


def library_name(task: str) -> str:
    """What the authors of a model for a task use."""
    return "sentence-transformers" if task in ("embed", "rerank") else "transformers pipeline"


def library(case: Case, **options: Any) -> Batched:
    """What the authors of a model use, at its defaults but for options of loading: dtype, …"""
    at = (case.folder, case.device, case.limit)
    if case.vectors == ("sparse",):
        return SparseEmbedder(*at, model_kwargs=options)
    if case.vectors == ("multi",):
        late = LateReranker if case.task == "rerank" else MultiEmbedder
        return late(*at, model_kwargs=options)
    if case.task == "embed":
        return Embedder(*at, model_kwargs=options)
    if case.task == "rerank":
        return Reranker(*at, model_kwargs=options)
    return Pipeline(*at, case.task, model_kwargs=options)


def peers(case: Case) -> list[Peer]:
    """Every peer for a case, installed or not; that of the models' authors first."""
    name = library_name(case.task)
    needs = name.partition(" ")[0].replace("-", "_")
    plain = Peer(f"{name}, defaults", lambda: library(case), (needs,), default=True, library=True)
    found = [plain]
    if case.device.startswith("cuda"):
        return found + _on_gpu(case, name, needs)
    found.append(Peer(f"{name}, best batch", lambda: library(case).tune(case.inputs), (needs,)))
    if case.vectors != ("dense",):
        return found
    if case.task in ("embed", "rerank"):
        found += _on_openvino(case) + _on_onnx(case)
    if case.task == "embed":
        at = (case.folder, case.limit, case.scratch, case.inputs)
        found += [
            Peer("ctranslate2 int8", lambda: CTranslate2(*at), ("ctranslate2",)),
            Peer("llama-cpp-python Q8_0", lambda: LlamaCpp(*at), ("llama_cpp", str(CONVERTER))),
        ]
    return found


def open_peers(case: Case, words: str) -> tuple[dict[Peer, Runner], list[str]]:
    """The peers whose names have one of some words, and why others are left out.

    Args:
        case: what they will compute.
        words: comma-separated; "all", or "none".
    """
    opened: dict[Peer, Runner] = {}
    left_out = []
    for peer in peers(case):
        if words != "all" and not any(word in peer.name for word in words.split(",")):
            continue
        if missing := [module for module in peer.needs if not _is_there(module)]:
            left_out.append(f"{peer.name} ({missing[0]} is not installed)")
            continue
        try:
            opened[peer] = peer.make()
        except Exception as error:  # each raises its own, such as for a model that it does not know
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            left_out.append(f"{peer.name} ({reason})")
    return opened, left_out


def _is_there(module: str) -> bool:
    return Path(module).exists() if "/" in module else importlib.util.find_spec(module) is not None


def _on_gpu(case: Case, name: str, needs: str) -> list[Peer]:
    def tuned(**options: str) -> Callable[[], Runner]:
        return lambda: library(case, dtype=case.half, **options).tune(case.inputs)

    flash = tuned(attn_implementation="flash_attention_2")
    return [
        Peer(f"{name} {case.half}, best batch", tuned(), (needs,)),
        Peer(f"{name} FA2, flattened, best batch", flash, (needs, "flash_attn")),
    ]


def _on_openvino(case: Case) -> list[Peer]:
    needs = ("sentence_transformers", "optimum", "openvino")
    at = (case.task, case.folder, case.limit)
    texts = [text if isinstance(text, str) else text[1] for text in case.inputs]

    def int8() -> Runner:
        return backends.on_openvino_int8(*at, case.scratch, texts).tune(case.inputs)

    return [
        Peer("OpenVINO, defaults", lambda: backends.on_openvino(*at), needs, default=True),
        Peer("OpenVINO, best batch", lambda: backends.on_openvino(*at).tune(case.inputs), needs),
        Peer(
            "OpenVINO float32, best batch",
            lambda: backends.on_openvino(*at, exact=True).tune(case.inputs),
            needs,
        ),
        Peer("OpenVINO int8 (NNCF, static), best batch", int8, (*needs, "nncf", "datasets")),
    ]


def _on_onnx(case: Case) -> list[Peer]:
    needs = ("sentence_transformers", "optimum", "onnxruntime")
    at = (case.task, case.folder, case.limit)
    return [
        Peer("ONNX Runtime, defaults", lambda: backends.on_onnx(*at), needs, default=True),
        Peer(
            "ONNX Runtime int8, best batch",
            lambda: backends.on_onnx_int8(*at, case.scratch).tune(case.inputs),
            needs,
        ),
    ]

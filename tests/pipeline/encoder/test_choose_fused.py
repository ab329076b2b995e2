"""Fused kernels are used where a trial shows them to be equal and faster, and nowhere else.

The trial runs on a CPU with stand-ins: a graph's replay calls the function again, and a kernel's
time is what the test says. `interpreted` tests the kernels themselves, `tests/gpu` the real trial.
"""

from __future__ import annotations

import builtins
import logging
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from fixtures_encoder import open_engine

from pipeline.encoder import choose_fused
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.engine import Engine
from pipeline.encoder.model.kernels import PLAIN, Kernels

Golden = Callable[[str], Checkpoint]
MODULE = "pipeline.encoder.model.fused_kernels"


class Replays:
    """Graphs whose replays take the seconds that a test gives to the kernels of its own."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds  # by the name of a fused function; torch's take 1
        self.refuses = ""  # what cannot be captured

    def capture(self, work: Any, stream: Any, pool: Any) -> tuple[Any, Any]:
        out = work()
        name = getattr(work.func, "own", "")
        if name and name == self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay() -> None:
            for old, new in zip(_tensors(out), _tensors(work()), strict=True):
                old.copy_(new)

        return SimpleNamespace(replay=replay, seconds=self.seconds.get(name, 1.0)), out

    def time(self, graph: Any, runs: int) -> float:
        return float(graph.seconds)


def _tensors(out: Any) -> tuple[torch.Tensor, ...]:
    return (out,) if isinstance(out, torch.Tensor) else out


def _own(name: str, call: Any) -> Any:
    def fused(*arguments: Any) -> Any:
        return call(*arguments)

    fused.own = name  # type: ignore[attr-defined]
    return fused


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, gpu: None) -> Callable[..., Replays]:
    """Make kernels importable: torch's own functions, but for those that are given."""

    def make(seconds: dict[str, float], **calls: Any) -> Replays:
        replays, module = Replays(seconds), ModuleType(MODULE)
        names = Kernels.__dataclass_fields__
        fused = {n: _own(n, calls.get(n, getattr(PLAIN, n))) for n in names}
        module.FUSED = Kernels(**fused)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, MODULE, module)
        monkeypatch.setattr(choose_fused, "capture", replays.capture)
        monkeypatch.setattr(choose_fused, "replay_seconds", replays.time)
        return replays

    return make


def _chosen(engine: Engine) -> list[str]:
    used = engine.forward.kernels
    return [n for n in Kernels.__dataclass_fields__ if getattr(used, n) is not getattr(PLAIN, n)]


@pytest.mark.parametrize(
    ("name", "functions"),
    [
        ("bert_mean", ["norm", "add_norm", "pooled"]),
        ("modernbert_cls", ["norm", "add_norm", "rotate_heads", "gate", "pooled"]),
        ("modernbert_reranker", ["norm", "add_norm", "rotate_heads", "gate"]),
        ("nemotron_llama", ["norm", "add_norm", "rotate_heads", "gate", "pooled"]),
        ("qwen3_causal_last", ["norm", "add_norm", "rotate_heads", "gate", "pooled"]),
        ("embeddinggemma", ["norm", "norm_add", "rotate_heads", "gate", "pooled"]),
    ],
)
def test_each_function_of_a_model_is_tried_and_the_faster_ones_are_used(
    name: str, functions: list[str], golden: Golden, offer: Callable[..., Replays]
) -> None:
    offer(dict.fromkeys(Kernels.__dataclass_fields__, 0.5))
    engine = open_engine(golden(name), precision="bfloat16")
    assert _chosen(engine) == functions
    choice = engine.choices["fused-kernels"]
    assert choice.value == ", ".join(functions)
    assert choice.reason.count("2.00 times as fast as torch's") == len(functions)
    if "pooled" in functions:
        assert engine.head.pooled is engine.forward.kernels.pooled is not PLAIN.pooled


def test_a_slower_kernel_and_one_that_gains_nothing_are_not_used(
    golden: Golden, offer: Callable[..., Replays]
) -> None:
    offer({"norm": 1.2, "add_norm": 0.98, "pooled": 0.25})
    engine = open_engine(golden("bert_mean"), precision="float16")
    assert _chosen(engine) == ["pooled"]
    reason = engine.choices["fused-kernels"].reason
    assert reason.startswith("by trial, from 1.05 on: norm 0.83 times as fast as torch's; ")
    assert "add_norm 1.02 times" in reason


def test_a_kernel_with_other_values_is_refused_however_fast(
    golden: Golden, offer: Callable[..., Replays]
) -> None:
    def without_mean(x: torch.Tensor, by: Any) -> torch.Tensor:
        return PLAIN.norm(x + 0.5, by) + 0.004

    offer(dict.fromkeys(Kernels.__dataclass_fields__, 0.1), norm=without_mean)
    engine = open_engine(golden("bert_mean"), precision="float16")
    assert _chosen(engine) == ["add_norm", "pooled"]
    assert "norm refused: other values than torch's;" in engine.choices["fused-kernels"].reason


def test_a_kernel_that_is_wrong_in_a_graph_alone_is_refused(
    golden: Golden, offer: Callable[..., Replays]
) -> None:
    calls: list[int] = []

    def once(x: torch.Tensor, by: Any) -> torch.Tensor:
        calls.append(1)
        return PLAIN.norm(x, by) if len(calls) == 1 else torch.zeros_like(x)

    offer(dict.fromkeys(Kernels.__dataclass_fields__, 0.1), norm=once)
    engine = open_engine(golden("bert_mean"), precision="float16")
    assert _chosen(engine) == ["add_norm", "pooled"]
    assert "norm refused: other values than torch's in a graph;" in str(engine.choices)


def test_a_kernel_that_raises_and_one_that_no_graph_holds_are_refused_with_the_reason(
    golden: Golden, offer: Callable[..., Replays], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no C compiler\nwas found")

    replays = offer(dict.fromkeys(Kernels.__dataclass_fields__, 0.1), add_norm=fail)
    replays.refuses = "norm"
    with caplog.at_level(logging.INFO):
        engine = open_engine(golden("bert_mean"), precision="float16")
    assert _chosen(engine) == ["pooled"]
    reason = engine.choices["fused-kernels"].reason
    assert "add_norm refused: no C compiler was found;" in reason
    assert "norm refused: operation not permitted when stream is capturing;" in reason
    assert f"fused kernels: pooled: {reason}" in caplog.text


@pytest.mark.usefixtures("gpu")
def test_where_triton_is_missing_or_broken_torch_computes_all(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    engine = open_engine(golden("bert_mean"), precision="float16")
    assert engine.forward.kernels is PLAIN
    choice = engine.choices["fused-kernels"]
    assert choice.value == "none"
    assert choice.reason.startswith("Triton cannot be imported: ")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_cpu_tries_nothing_imports_no_triton_and_says_nothing(
    precision: str, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        assert name.partition(".")[0] != "triton"
        assert name != MODULE
        return sound(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    engine = open_engine(golden("bert_mean"), precision=precision)
    assert engine.forward.kernels is PLAIN
    assert sorted(engine.choices) == ["precision", "token-budget"]


@pytest.mark.usefixtures("gpu")
def test_a_model_that_no_graph_holds_keeps_torch(golden: Golden) -> None:
    engine = open_engine(golden("jina_en"), precision="float16")
    assert engine.forward.kernels is PLAIN
    assert "fused-kernels" not in engine.choices

"""Which fused kernels a GPU computes a model with: those that a trial shows to be equal and faster.

The trial is made when the model is loaded, on the model's own shapes and weights: a kernel in
Triton and the same function in torch, each in a CUDA graph, are replayed in turn. One that fails,
cannot be captured, differs by more than rounding, or gains too little is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.choice import Choice, Choices
from pipeline.encoder.checkpoint.shown import one_line
from pipeline.encoder.device.graph_capture import capture, replay_seconds
from pipeline.encoder.model.encoder import Encoder
from pipeline.encoder.model.heads import SentenceHead
from pipeline.encoder.model.kernels import PLAIN, Kernels
from pipeline.encoder.model.load import ForwardPass, Head
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.encoder.model.positions import rotations

logger = logging.getLogger(__name__)

# The trial batch: sequences of one length, then unused entries as a graph's shape has them.
_SEQUENCES = 32
_LENGTH = 128
_UNUSED = 8
_ROUNDS = 5
_RUNS = 10
_LEAST_GAIN = 1.05
# Largest difference, as a share of the row's largest value: two roundings of 16 bits that go the
# other way, and the order of a float32 sum.
_ROUNDINGS = 2
_FLOAT32_SHARE = 1e-5

# A function's arguments, made anew: some of the functions overwrite theirs.
_Make = Callable[[], tuple[Any, ...]]


def choose_fused(forward: ForwardPass, head: Head) -> Choices:
    """Give the fused kernels that are faster on this device to an encoder and its head.

    Returns:
        Which, and the reason; nothing where no graph holds the forward pass, as on a CPU: there,
        all stays in torch, and Triton is not imported.
    """
    if not isinstance(forward, Encoder) or not forward.capturable:
        return {}
    try:
        from pipeline.encoder.model.fused_kernels import FUSED
    except Exception as error:  # not installed, or not for this torch
        choice = Choice("none", f"Triton cannot be imported: {one_line(error)}")
    else:
        choice = _try_each(forward, head, FUSED)
    logger.info("fused kernels: %s: %s", choice.value, choice.reason)
    return {"fused-kernels": choice}


def _try_each(encoder: Encoder, head: Head, fused: Kernels) -> Choice[str]:
    chosen: dict[str, Any] = {}
    found: list[str] = []
    for name, make in _functions(encoder, head).items():
        try:
            gain = _gain(getattr(PLAIN, name), getattr(fused, name), make, encoder.device)
        except Exception as error:  # whatever it raises, torch computes it
            found.append(f"{name} refused: {one_line(error)}")
            continue
        found.append(f"{name} {gain:.2f} times as fast as torch's")
        if gain >= _LEAST_GAIN:
            chosen[name] = getattr(fused, name)
    torch.cuda.empty_cache()
    encoder.kernels = replace(PLAIN, **chosen)
    if isinstance(head, SentenceHead):
        head.pooled = encoder.kernels.pooled
    reason = f"by trial, from {_LEAST_GAIN} on: {'; '.join(found)}"
    return Choice(", ".join(chosen) or "none", reason)


def _functions(encoder: Encoder, head: Head) -> dict[str, _Make]:
    """The functions of `Kernels` that a model calls, each with what makes its arguments."""
    config, tokens = encoder.config, _SEQUENCES * _LENGTH
    by = next(n for n in encoder.norms.values() if n.weight.shape == (config.hidden_size,))

    def random(*shape: int) -> Tensor:
        source = torch.Generator(encoder.device).manual_seed(sum(shape))
        values = torch.randn(*shape, generator=source, device=encoder.device)
        return (values + 0.5).to(encoder.dtype)  # off centre, so that a mean matters

    def hidden() -> Tensor:
        return random(tokens, config.hidden_size)

    def heads() -> tuple[Any, ...]:
        turned, size = config.heads + config.kv_heads, config.head_dim
        wide = random(tokens, turned + config.kv_heads, size)  # the values are beside them
        table = rotations(config.ropes[0], _LENGTH).repeat(_SEQUENCES, 1).to(encoder.device)
        norms = encoder.norms.get("layers.0.q_norm"), encoder.norms.get("layers.0.k_norm")
        return wide[:, :turned], config.heads, table.unsqueeze(1), None if None in norms else norms

    residual = "norm_add" if config.norm_placement == "sandwich" else "add_norm"
    functions: dict[str, _Make] = {
        "norm": lambda: (hidden(), by),
        residual: lambda: (hidden(), hidden().flip(0), by),
    }
    if config.ropes:
        functions["rotate_heads"] = heads
    if config.gated:
        functions["gate"] = lambda: (
            random(tokens, 2 * config.intermediate_size),
            config.activation,
            config.gate_first,
        )
    if isinstance(head, SentenceHead):
        functions["pooled"] = lambda: _pooling(hidden(), head)
    return functions


def _pooling(hidden: Tensor, head: SentenceHead) -> tuple[Any, ...]:
    ends = [_LENGTH * i for i in range(_SEQUENCES + 1)]
    offsets = ends + ends[-1:] * _UNUSED
    ids = torch.zeros(ends[-1], dtype=torch.int32, device=hidden.device)
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32).to(hidden.device)
    batch = PackedBatch(ids, cu_seqlens, offsets, _LENGTH, None)
    if head.pools[0] == "read":
        hidden = hidden[: len(offsets) - 1]
    return hidden, batch, head.pools[0], head.prompt_tokens, head.unit


@torch.inference_mode()
def _gain(
    plain: Callable[..., Any], fused: Callable[..., Any], make: _Make, device: torch.device
) -> float:
    """How many times as fast the fused function is.

    Raises:
        ValueError: it gives other values.
        Exception: whatever it raises.
    """
    _compare(fused(*make()), plain(*make()), "")
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    graphs, outs = [], []
    for function in (plain, fused):
        arguments = make()
        pool = torch.cuda.graph_pool_handle()
        graph, out = capture(partial(function, *arguments), stream, pool)
        _refill(arguments, make())
        graph.replay()
        graphs.append(graph)
        outs.append(_copies(out))
    _compare(outs[1], outs[0], " in a graph")
    best = [float("inf")] * len(graphs)
    for _ in range(_ROUNDS):  # in turn: a change of the clock meets both
        best = [min(b, replay_seconds(g, _RUNS)) for b, g in zip(best, graphs, strict=True)]
    return best[0] / best[1]


def _refill(arguments: tuple[Any, ...], fresh: tuple[Any, ...]) -> None:
    for old, new in zip(arguments, fresh, strict=True):
        if isinstance(old, Tensor):
            old.copy_(new)


def _copies(out: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.clone() for x in ((out,) if isinstance(out, Tensor) else out))


def _compare(found: Any, expected: Any, where: str) -> None:
    pairs = zip(_copies(found), _copies(expected), strict=True)
    if not all(is_same(*pair) for pair in pairs):
        raise ValueError(f"other values than torch's{where}")


def is_same(found: Tensor, expected: Tensor) -> bool:
    """Whether a kernel's output is that of its twin up to rounding; both may be NaN."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    share = _FLOAT32_SHARE
    if expected.dtype != torch.float32:
        share = _ROUNDINGS * torch.finfo(expected.dtype).eps
    allowed = share * expected.float().abs().nan_to_num(0.0).amax(-1, keepdim=True)
    same = (found.float() - expected.float()).abs() <= allowed
    return bool((same | (found.isnan() & expected.isnan())).all())

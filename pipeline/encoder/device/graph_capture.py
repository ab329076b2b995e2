"""Capture what a function launches as a CUDA graph; a failed capture leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Runs before a capture, in which libraries choose kernels and allocate workspaces.
_WARM_UPS = 2


def capture(work: Callable[[], Tensor], stream: Any, pool: Any) -> tuple[Any, Tensor]:
    """Run `work` twice, then capture it.

    Other threads may use the device's allocator meanwhile, so only calls of this thread can
    invalidate the capture.

    Args:
        work: launches kernels on the current stream and never waits for the device.
        stream: a torch.cuda.Stream of the device. Not torch's own for captures, which is one of
            the device that was current first: on any other, nothing would be captured.
        pool: from `torch.cuda.graph_pool_handle`. Graphs that are replayed one after the other on
            one stream may share their memory.

    Returns:
        The torch.cuda.CUDAGraph, and the tensor that `work` returned, which every replay rewrites.

    Raises:
        torch.OutOfMemoryError: the graph does not fit into the device's memory.
        RuntimeError: `work` did something that cannot be captured.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            work()
        stream.synchronize()
        torch.cuda.empty_cache()  # the pool cannot use free blocks of the general pool
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            out = work()
            graph.capture_end()
        except BaseException:
            _abandon(graph, stream.device, pool)
            raise
    current.wait_stream(stream)
    return graph, out


def replay_seconds(graph: Any, runs: int) -> float:
    """Seconds of one replay on the current stream, the mean of so many."""
    begin, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    begin.record()
    for _ in range(runs):
        graph.replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / runs


def _abandon(graph: Any, device: torch.device, pool: Any) -> None:
    """End a capture that failed.

    If ending it fails too, torch 2.11 and 2.13 leave the allocator in capture mode, and the next
    `empty_cache` fails. This makes the calls that they skip, by their private names.
    """
    try:
        graph.capture_end()
    except RuntimeError:
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            with contextlib.suppress(Exception):  # absent, or already done
                getattr(torch._C, name)(device.index, pool)
        return
    graph.reset()

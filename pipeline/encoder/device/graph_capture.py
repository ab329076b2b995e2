"""Record what a function launches as a CUDA graph; a recording that fails leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Runs before a recording: libraries choose their kernels and take their workspaces.
_WARM_UPS = 2


def capture(work: Callable[[], Tensor], stream: Any, pool: Any) -> tuple[Any, Tensor]:
    """Run `work` twice, then record it.

    Other threads use the device's allocator meanwhile; theirs are not the calls to object to, so
    the recording is strict with this thread alone.

    Args:
        work: launches kernels on the current stream and never waits for the device.
        stream: a torch.cuda.Stream of the device. Not torch's own for captures, which is one of
            whatever device was current first: on another, nothing would be recorded.
        pool: from `torch.cuda.graph_pool_handle`. Graphs that replay one after the other on one
            stream may share their memory.

    Returns:
        The torch.cuda.CUDAGraph, and what `work` returned: written anew by every replay.

    Raises:
        torch.OutOfMemoryError: what is recorded does not fit into the device's memory.
        RuntimeError: `work` did what cannot be recorded.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            work()
        stream.synchronize()
        torch.cuda.empty_cache()  # the pool cannot use what the general one holds free
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


def _abandon(graph: Any, device: torch.device, pool: Any) -> None:
    """End a recording that failed.

    Where ending it fails too, torch 2.11 and 2.13 leave the allocator in recording mode, and the
    next `empty_cache` fails: what they skip is called here, by its private names.
    """
    try:
        graph.capture_end()
    except RuntimeError:
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            with contextlib.suppress(Exception):  # absent, or already done
                getattr(torch._C, name)(device.index, pool)
        return
    graph.reset()

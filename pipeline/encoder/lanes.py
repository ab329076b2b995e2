"""How batches pass through a device: a CPU and a GPU lane with one interface.

A lane decides where and when a batch is computed, and brings its outputs to the host; the engine
decides what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.choice import Choice
from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.device.devices import cpu_streams, resident_bytes, thread_per_core
from pipeline.encoder.graph_shapes import gpu_tokens

# Tokens of a batch on a CPU: enough to keep the matrix units busy, few enough for a core's caches.
_CPU_TOKENS = 2048
# Of a model that is a table: a batch costs more to start than its tokens to look up.
_TABLE_TOKENS = 65_536
# Batches whose outputs are copied to the host while later ones compute. The launching thread may
# wait milliseconds for the GIL while another thread copies token ids, and a batch of a small model
# takes two milliseconds.
_GPU_IN_FLIGHT = 4
# What scaled_dot_product_attention may choose on a GPU. Not cuDNN, which it prefers on Hopper: it
# plans every new shape, and almost every group of equal lengths is a new shape.
_SDPA = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

# Outputs of a batch: one tensor, and three more for each head that makes lists.
Parts = tuple[Tensor, ...]
# Waits for the outputs of a batch and returns them on the host.
Arrival = Callable[[], Parts]


class Lane(Protocol):
    """How one device takes batches."""

    @property
    def device_name(self) -> str:
        """The device in words, for provenance: a GPU's product name, or "cpu"."""
        ...

    @property
    def ahead(self) -> int:
        """Batches to launch before waiting for the outputs of the first."""
        ...

    def placed(self) -> AbstractContextManager[None]:
        """A context in which this device is torch's current one."""
        ...

    def launch(self, compute: Callable[[], Parts]) -> Arrival:
        """Compute outputs, now or in a thread, and start copying them to the host."""
        ...

    def release_memory(self) -> None:
        """Release memory that the device's allocator caches."""
        ...

    def memory_in_use(self) -> int:
        """Bytes of a GPU that torch holds; on a CPU, of this process."""
        ...


class CpuLane:
    """Every core computes a batch of its own, so no core waits for another inside a batch."""

    device_name = "cpu"

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        streams = cpu_streams(threads)
        self._pool: ThreadPoolExecutor | None = None
        if streams > 1:
            self._pool = thread_per_core(streams, threads)
        self.ahead = streams if streams > 1 else 0

    def placed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def launch(self, compute: Callable[[], Parts]) -> Arrival:
        if self._pool is not None:
            return self._pool.submit(compute).result
        outputs = compute()
        return lambda: outputs

    def release_memory(self) -> None:
        """Do nothing: torch caches no CPU memory."""

    def memory_in_use(self) -> int:
        return resident_bytes()


class GpuLane:
    """One stream computes while another copies outputs of earlier batches to the host."""

    ahead = _GPU_IN_FLIGHT

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self._device)

    @contextmanager
    def placed(self) -> Iterator[None]:
        with torch.cuda.device(self._device), sdpa_kernel(_SDPA):
            yield

    def launch(self, compute: Callable[[], Parts]) -> Arrival:
        outputs = compute()
        host = tuple(torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in outputs)
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            for target, source in zip(host, outputs, strict=True):
                target.copy_(source, non_blocking=True)
                # The allocator must not reuse the outputs before the copy has read them.
                source.record_stream(self._copies)
        copied = self._copies.record_event()

        def wait_for_copy() -> Parts:
            copied.synchronize()
            return host

        return wait_for_copy

    def release_memory(self) -> None:
        torch.cuda.empty_cache()

    def memory_in_use(self) -> int:
        return torch.cuda.memory_reserved(self._device)


def make_lane(device: torch.device) -> Lane:
    """The lane of a device."""
    return GpuLane(device) if device.type == "cuda" else CpuLane()


def choose_token_budget(device: torch.device, config: EncoderConfig, precision: str) -> Choice[int]:
    """Tokens per batch where the user sets none, and why.

    On a GPU this reads the free memory, so call it once the weights are loaded.
    """
    if config.static:
        return Choice(_TABLE_TOKENS, "few batches: a table is read, nothing is multiplied")
    if device.type != "cuda":
        return Choice(_CPU_TOKENS, "keeps the cores busy and stays in their caches")
    free, _ = torch.cuda.mem_get_info(device)
    tokens = gpu_tokens(config, free, 4 if precision == "float32" else 2)
    return Choice(tokens, f"few launches, and room in {free / 2**30:.0f} GiB of free memory")

"""One model on one device: batches in, float32 rows out.

    engine = Engine(resolve("sentence-transformers/all-MiniLM-L6-v2"), "embed")
    for batch, rows in engine.run(batches): ...

On a GPU the copy of one batch's rows to the host overlaps the computation of the next. On a CPU
every core computes a batch of its own: no core waits for another inside a batch, and a row's
values do not depend on how many there are.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.card import resolve_precision
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.cuda_graphs import CudaGraphs
from pipeline.encoder.device.devices import find_device, thread_a_core
from pipeline.encoder.device.out_of_memory import is_out_of_memory
from pipeline.encoder.graph_shapes import gpu_tokens
from pipeline.encoder.model.heads import SentenceHead
from pipeline.encoder.model.int8 import INT8_SCHEME
from pipeline.encoder.model.int8_error import probe
from pipeline.encoder.model.load import ForwardPass, HeadOptions, open_model
from pipeline.encoder.model.packed_batch import PackedBatch, to_device
from pipeline.errors import EncodeError, Interrupted, UsageError
from pipeline.packing import Batch, gather

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]

# Batches whose rows may be on their way to the host while later ones compute: the thread that
# launches may wait milliseconds for Python's lock while another copies token ids under it, and a
# batch of a small model takes two.
_IN_FLIGHT = 4
# What scaled_dot_product_attention may choose on a GPU. Not cuDNN, which it prefers on Hopper: that
# makes a plan for every new shape, and runs of equal lengths are nothing but new shapes.
_SDPA = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# Batches that are computed at once on a CPU: each takes memory, so that many cores share one.
_CPU_STREAMS = 8
# Tokens of a batch by default, see `Engine.token_budget`.
_CPU_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch whose rows are computed, or on their way."""

    batch: Batch
    rows: Callable[[], Tensor]  # waits for them; on the host


class Engine:
    """A checkpoint ready to compute one task.

    Attributes:
        checkpoint: where it was loaded from.
        encoder: the settings of the model.
        device: where it computes: "cpu", "cuda", "cuda:1", …
        precision: float32, float16, bfloat16 or int8.
        quantization: the scheme of int8 and its error on this model's weights; else "".
        output_size: width of a row: dimensions of a vector, or number of classes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        task: str,
        *,
        device: str = "cpu",
        precision: str = "auto",
        dimensions: int | None = None,
        normalize: bool | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        """Load the model.

        Args:
            checkpoint: from `resolve`.
            task: embed, rerank, classify or tag.
            device: a torch device.
            precision: of the encoder; pooling and heads are always float32. `auto`: float32 on a
                CPU, on a GPU float16, or bfloat16 where the family overflows. int8: on a CPU.
            dimensions: leading dimensions of a vector to keep, None for all.
            normalize: vectors of unit length or not, None for what the checkpoint does.
            prompt_tokens: what the prompt takes at the front of every sequence; left out of
                pooling where the checkpoint says so (`tokenizer.prompt_tokens`).

        Raises:
            CheckpointError: the model does not fit the task or its files do not fit each other.
            UsageError: an option does not fit the model.
        """
        self.device = device
        self._device = find_device(device)
        options = HeadOptions(dimensions, normalize, prompt_tokens)
        self.checkpoint = checkpoint
        model = open_model(checkpoint, task, self._device, options)
        self.encoder: EncoderConfig = model.encoder
        self.precision = resolve_precision(precision, model.encoder, device)
        self.output_size = model.head.output_size
        self._head = model.head
        self._per_token = task == "tag"
        self._load = model.load
        with self._placed():
            self._encode = model.load(self.precision)
        self.quantization = ""
        if self.precision == "int8":
            error = probe(self._encode, model.load("float32"), model.encoder)
            self.quantization = f"{INT8_SCHEME}; {error}"
        self._graphs: CudaGraphs | None = None
        if getattr(self._encode, "capturable", False):
            limit = self.encoder.max_length if self.encoder.position_table else None
            self._graphs = CudaGraphs(
                self._rows, self._device, per_token=self._per_token, limit=limit
            )
        self._exact: ForwardPass | None = None
        self._copies = (
            torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            if self._on_gpu
            else None
        )
        self._token_budget = _CPU_TOKENS
        if self._on_gpu:
            free, _ = torch.cuda.mem_get_info(self._device)
            item = 4 if self.precision == "float32" else 2
            self._token_budget = gpu_tokens(self.encoder, free, item)
        threads = torch.get_num_threads()
        self._streams = 1 if self._on_gpu else min(threads, _CPU_STREAMS)
        self._pool: ThreadPoolExecutor | None = None
        if self._streams > 1:
            self._pool = thread_a_core(self._streams, threads)
        #: Tokens that a batch may hold, once one was too large for the device's memory.
        self._token_limit: int | None = None

    @property
    def device_name(self) -> str:
        """The device in words, for provenance: the GPU's product name, or "cpu"."""
        return torch.cuda.get_device_name(self._device) if self._on_gpu else self._device.type

    @property
    def token_budget(self) -> int:
        """Tokens a batch should hold where the user does not say.

        On a CPU, enough to keep the matrix units busy and little enough to stay in its caches;
        a GPU takes as much as keeps its launches few and fits into its memory.
        """
        return self._token_budget

    @property
    def _ahead(self) -> int:
        """Batches that are taken before the first one's rows are waited for."""
        if self._pool is not None:
            return self._streams
        return _IN_FLIGHT if self._on_gpu else 0

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    def run(
        self, batches: Iterable[Batch], should_stop: Callable[[], bool] | None = None
    ) -> Iterator[tuple[Batch, Rows]]:
        """Compute batches in order.

        A sequence whose values are not finite is computed again in float32; if they still are
        not, or if it has no tokens, its values are NaN and the caller decides what becomes of it.

        Args:
            batches: taken a few ahead of the results.
            should_stop: asked before each batch.

        Yields:
            Each batch with its rows: embed [S, output_size]; rerank and classify [S, classes], or
            [S] with a single class; tag [T, classes].

        Raises:
            EncodeError: a batch cannot be computed on this device.
            UsageError: a sequence is longer than the model's positions.
            Interrupted: should_stop said so.
        """
        launched: deque[_Launched] = deque()
        for batch in batches:
            if should_stop is not None and should_stop():
                raise Interrupted("stopped between batches")
            launched.append(self._launch(batch))
            if len(launched) > self._ahead:
                yield self._finish(launched.popleft())
        while launched:
            yield self._finish(launched.popleft())

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Inside, our GPU is the current one, whichever it was: what torch does without being told
        where (streams, captures, pinned memory) it does there.
        """
        if not self._on_gpu:
            yield
            return
        with torch.cuda.device(self._device), sdpa_kernel(_SDPA):
            yield

    def _launch(self, batch: Batch) -> _Launched:
        self._check(batch)
        if self._pool is not None:
            return _Launched(batch, self._pool.submit(self._fit, batch).result)
        with self._placed():
            rows = self._fit(batch)
            return _Launched(batch, self._on_the_way(rows))

    def _on_the_way(self, rows: Tensor) -> Callable[[], Tensor]:
        """Start to copy rows to the host; what is returned waits for them."""
        if self._copies is None:
            return lambda: rows
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            host.copy_(rows, non_blocking=True)
            # The allocator must not reuse the rows before the copy has read them.
            rows.record_stream(self._copies)
        copied = self._copies.record_event()

        def arrived() -> Tensor:
            copied.synchronize()
            return host

        return arrived

    def _finish(self, launched: _Launched) -> tuple[Batch, Rows]:
        batch, rows = launched.batch, launched.rows().numpy()
        broken = self._broken(batch, rows)
        if broken.size:
            with self._placed():
                self._repair(batch, rows, broken)
        return batch, rows

    def _check(self, batch: Batch) -> None:
        table, limit = self.encoder.position_table, self.encoder.max_length
        if table and limit is not None and batch.max_seqlen > limit:
            raise UsageError(
                f"a sequence has {batch.max_seqlen} tokens; this model's position table holds "
                f"{limit}",
                hint=f"Use --max-length {limit} or less.",
            )
        if batch.tokens and int(batch.ids.max()) >= self.encoder.vocab_size:
            raise EncodeError(
                f"token {int(batch.ids.max())} is outside the model's vocabulary of "
                f"{self.encoder.vocab_size}: the tokenizer belongs to another model"
            )

    def _fit(self, batch: Batch) -> Tensor:
        """Compute a batch, in halves where the device's memory does not hold it at once."""
        if self._token_limit is not None and batch.tokens > self._token_limit and len(batch) > 1:
            return self._halve(batch)
        try:
            return self._compute(batch, self._encode)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise EncodeError(
                    f"a sequence of {batch.tokens} tokens does not fit into the memory of "
                    f"{self.device}",
                    hint="Use a smaller --max-length or --token-budget, or a larger device.",
                ) from error
        # Outside the handler: its traceback would keep the failed batch's memory alive.
        if self._graphs is not None:
            self._graphs.clear()
        if self._on_gpu:
            torch.cuda.empty_cache()
        self._token_limit = batch.tokens // 2
        logger.warning(
            "%d tokens do not fit into the memory of %s: going on with batches of half",
            batch.tokens,
            self.device,
        )
        return self._halve(batch)

    def _halve(self, batch: Batch) -> Tensor:
        middle = len(batch) // 2
        halves = (np.arange(middle), np.arange(middle, len(batch)))
        return torch.cat([self._fit(_select(batch, half)) for half in halves])

    @torch.inference_mode()
    def _compute(self, batch: Batch, encode: ForwardPass) -> Tensor:
        """Rows of a batch, on the device."""
        if batch.tokens == 0:
            return self._nothing(batch)
        if self._graphs is not None and encode is self._encode:
            rows = self._graphs.run(batch)
            if rows is not None:
                return rows
        packed = self._pack(batch)
        return self._head(encode(packed), packed)

    def _rows(self, packed: PackedBatch) -> Tensor:
        return self._head(self._encode(packed), packed)

    def _nothing(self, batch: Batch) -> Tensor:
        """Rows of sequences without any token."""
        if self._per_token:
            return torch.empty(0, self.output_size, device=self._device)
        single = self.output_size == 1 and not isinstance(self._head, SentenceHead)
        shape = (len(batch),) if single else (len(batch), self.output_size)
        return torch.full(shape, torch.nan, device=self._device)

    def _pack(self, batch: Batch) -> PackedBatch:
        types = batch.type_ids
        return PackedBatch(
            ids=to_device(batch.ids, self._device),
            cu_seqlens=to_device(batch.cu_seqlens, self._device),
            offsets=batch.cu_seqlens.tolist(),
            max_seqlen=batch.max_seqlen,
            type_ids=None if types is None else to_device(types.astype(np.int32), self._device),
        )

    def _broken(self, batch: Batch, rows: Rows) -> npt.NDArray[np.int64]:
        """Sequences with tokens whose rows are not all finite."""
        if np.isfinite(rows).all():
            return np.empty(0, dtype=np.int64)
        fine = np.isfinite(rows).reshape(rows.shape[0], -1).all(axis=1)
        if self._per_token:
            owner = np.repeat(np.arange(len(batch)), np.diff(batch.cu_seqlens))
            return np.unique(owner[~fine])
        return np.flatnonzero(~fine & (np.diff(batch.cu_seqlens) > 0))

    def _repair(self, batch: Batch, rows: Rows, broken: npt.NDArray[np.int64]) -> None:
        """Compute the broken sequences again in float32, in place; NaN where that fails too."""
        if self.precision != "float32" and self._exact is None:
            logger.warning("values overflow in %s: loading float32 beside it", self.precision)
            self._exact = self._load("float32")
        offsets = batch.cu_seqlens
        for sequence in broken:
            target = slice(int(sequence), int(sequence) + 1)
            if self._per_token:
                target = slice(int(offsets[sequence]), int(offsets[sequence + 1]))
            exact: Rows = np.full_like(rows[target], np.nan)
            if self._exact is not None:
                output_lock = _select(batch, np.array([sequence]))
                exact = self._compute(output_lock, self._exact).cpu().numpy()
            rows[target] = exact if np.isfinite(exact).all() else np.nan


def _select(batch: Batch, sequences: npt.NDArray[np.int64]) -> Batch:
    """Some sequences of a batch as a batch of their own."""
    return gather(batch.ids, batch.cu_seqlens.astype(np.int64), sequences, batch.type_ids)

"""One model on one device: batches in, float32 outputs out.

    engine = Engine(open_card("sentence-transformers/all-MiniLM-L6-v2"))
    for batch, outputs in engine.run_all(batches): ...

The engine keeps the order of batches and repairs outputs that are not finite; its lane passes
batches through the device.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.encoder.choose_fused import choose_fused
from pipeline.encoder.cpu_trials import bfloat16_gain
from pipeline.encoder.cuda_graphs import CudaGraphs
from pipeline.encoder.device.devices import find_device, loading_threads
from pipeline.encoder.device.out_of_memory import is_out_of_memory
from pipeline.encoder.halving import Halving
from pipeline.encoder.lanes import Arrival, choose_token_budget, make_lane
from pipeline.encoder.model.head_outputs import (
    Parts,
    as_outputs,
    empty_parts,
    non_finite,
    repaired,
)
from pipeline.encoder.model.int8 import INT8_SCHEME
from pipeline.encoder.model.int8_error import int8_error
from pipeline.encoder.model.load import ForwardPass, HeadOptions, open_model
from pipeline.encoder.model.packed_batch import PackedBatch, pack_batch
from pipeline.encoder.precision import choose_precision
from pipeline.errors import EncodeError, Interrupted, UsageError
from pipeline.outputs import FOLDED, Float32Array, Int64Array, Outputs
from pipeline.packing import Batch, some_of

logger = logging.getLogger(__name__)

# Entries of a sequence's list, an id and a value each, that memory is planned for.
_TYPICAL_ENTRIES = 1024


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch whose outputs are computed or being computed."""

    batch: Batch
    outputs: Arrival


class Engine:
    """A model ready to compute.

    Attributes:
        card: of the model.
        config: the settings of its encoder.
        device: where it computes: "cpu", "cuda", "cuda:1", …
        precision: float32, float16, bfloat16 or int8.
        token_budget: tokens per batch where the user sets none.
        chosen_precision: the same with the reason for it.
        choices: precision, token budget, and fused kernels of a GPU, each with the reason for it.
        quantization: the scheme of int8 and its error on this model's weights; else "".
        per_token: whether outputs belong to tokens, not to sequences.
        lists: the kinds of vectors that are lists.
        output_size: width of an output of `run`: dimensions of a vector, or number of classes.
        memory_size: values of an output that memory is planned for, without vectors of tokens.
        forward: the encoder in `precision`.
        head: what turns hidden states into outputs.
        lane: passes batches through the device.
        graphs: the CUDA graphs, None if the encoder cannot be captured.
        halving: computes a batch, in halves where the device's memory is short.
    """

    def __init__(
        self,
        card: ModelCard,
        options: HeadOptions | None = None,
        *,
        device: str = "cpu",
        precision: str = "auto",
        cache_dir: Path | None = None,
    ) -> None:
        """Load the model.

        Args:
            card: from `open_card`.
            options: of the vectors of an embedding model; None for what the checkpoint says.
            device: a torch device.
            precision: of the encoder, see `choose_precision`; heads are always float32.
            cache_dir: where the trial behind `auto` is kept; None to repeat it.

        Raises:
            CheckpointError: the weights are damaged.
            UsageError: an option does not fit the model or the device.
        """
        self.card = card
        self.config = card.config
        self.device = device
        self._torch_device = find_device(device)
        self.lane = make_lane(self._torch_device)
        options = options or HeadOptions()
        self._model = open_model(card, self._torch_device, options)
        self.head = self._model.head
        self.lists = tuple(kind for kind in options.vectors if kind != "dense")
        self.output_size = self.head.output_size + len(self.lists) * FOLDED
        self.memory_size = self.head.output_size
        if "sparse" in self.lists:
            self.memory_size += 2 * _TYPICAL_ENTRIES
        self.per_token = card.head == "token_classifier"
        gain = functools.partial(bfloat16_gain, card.config, cache_dir)
        chosen = choose_precision(precision, card.config, device, gain)
        self.precision = chosen.value
        with self.lane.placed():
            self.forward = self.load(self.precision)
            fused = choose_fused(self.forward, self.head)
        budget = choose_token_budget(self._torch_device, card.config, self.precision)
        self.token_budget = budget.value
        self.chosen_precision = chosen
        self.choices: Choices = {"precision": chosen, "token-budget": budget, **fused}
        self.quantization = ""
        if self.precision == "int8":
            error = int8_error(self.forward, self.load("float32"), card.config)
            self.quantization = f"{INT8_SCHEME}; {error}"
        self.graphs = self._make_graphs(options)
        self._padding_taken = 0
        self._exact: ForwardPass | None = None
        self._exact_fits = True
        self.halving = Halving(device)

    def _make_graphs(self, options: HeadOptions) -> CudaGraphs | None:
        # A graph's shapes know no spans, and how long a list is, is read back.
        if not self.forward.capturable or options.late_chunks or self.lists:
            return None
        limit = self.config.max_length if self.config.position_table else None
        return CudaGraphs(self.outputs, self._torch_device, per_token=self.per_token, limit=limit)

    @property
    def device_name(self) -> str:
        """The device in words: the GPU's product name, or "cpu"."""
        return self.lane.device_name

    def take_padding(self) -> int:
        """Tokens that were computed for the shape of a batch alone, since the last call."""
        if self.graphs is None:
            return 0
        padding, self.graphs.padding_tokens = self.graphs.padding_tokens, 0
        self._padding_taken += padding
        return padding

    @property
    def padding(self) -> int:
        """All tokens so far that were computed for the shape of a batch alone."""
        return self._padding_taken + (self.graphs.padding_tokens if self.graphs else 0)

    def load(self, precision: str) -> ForwardPass:
        """The encoder in any precision, on the engine's device."""
        with loading_threads(self.card.parameters):
            return self._model.load(precision)

    def run(
        self, batches: Iterable[Batch], should_stop: Callable[[], bool] | None = None
    ) -> Iterator[tuple[Batch, Float32Array]]:
        """As `run_all`, for outputs that are only to be compared.

        Yields:
            Each batch with its outputs: [S, output_size] of vectors, lists folded; [S, classes] of
            a sequence classifier, or [S] of a single class; [T, classes] of a token classifier; of
            late chunks, [K, output_size].
        """
        for batch, outputs in self.run_all(batches, should_stop):
            yield batch, outputs.comparable()

    def run_all(
        self, batches: Iterable[Batch], should_stop: Callable[[], bool] | None = None
    ) -> Iterator[tuple[Batch, Outputs]]:
        """Compute batches in order.

        A sequence whose values are not finite is computed again in float32, if that is another
        precision and fits into memory. If they still are not, or if it has no tokens, its values
        are NaN.

        Args:
            batches: consumed a few ahead of the results.
            should_stop: called before each batch.

        Raises:
            EncodeError: a batch cannot be computed on this device.
            UsageError: a sequence is longer than the model's positions.
            Interrupted: should_stop returned True.
        """
        launched: deque[_Launched] = deque()
        for batch in batches:
            if should_stop is not None and should_stop():
                raise Interrupted("stopped between batches")
            launched.append(self._launch(batch))
            if len(launched) > self.lane.ahead:
                yield self._finish(launched.popleft())
        while launched:
            yield self._finish(launched.popleft())

    def _launch(self, batch: Batch) -> _Launched:
        self._check(batch)
        with self.lane.placed():
            return _Launched(batch, self.lane.launch(lambda: self._fitted(batch)))

    def _finish(self, launched: _Launched) -> tuple[Batch, Outputs]:
        batch, outputs = launched.batch, as_outputs(launched.outputs(), self.lists)
        broken = non_finite(outputs, batch, per_token=self.per_token)
        if broken.size:
            with self.lane.placed():
                outputs = self._repair(batch, outputs, broken)
        return batch, outputs

    def _check(self, batch: Batch) -> None:
        table, limit = self.config.position_table, self.config.max_length
        if table and limit is not None and batch.max_seqlen > limit:
            raise UsageError(
                f"a sequence has {batch.max_seqlen} tokens; this model's position table holds "
                f"{limit}",
                hint=f"use --max-length {limit} or less",
            )
        if batch.tokens and int(batch.ids.max()) >= self.config.vocab_size:
            raise EncodeError(
                f"token {int(batch.ids.max())} is outside the model's vocabulary of "
                f"{self.config.vocab_size}: the tokenizer belongs to another model"
            )

    def _fitted(self, batch: Batch) -> Parts:
        """Outputs of a batch, whatever the device's memory holds of it at once."""
        compute = functools.partial(self._compute, forward=self.forward)
        return self.halving(batch, compute, self._release)

    def _release(self) -> None:
        """Free what is kept on the device for speed alone."""
        if self.graphs is not None:
            self.graphs.clear()
        self.lane.release_memory()

    @torch.inference_mode()
    def _compute(self, batch: Batch, forward: ForwardPass) -> Parts:
        """Outputs of a batch, on the device."""
        if batch.tokens == 0:
            return empty_parts(self.head, batch, self._torch_device, per_token=self.per_token)
        if self.graphs is not None and forward is self.forward:
            captured = self.graphs.run(batch)
            if captured is not None:
                return (captured,)
        packed = pack_batch(batch, self._torch_device, batch.spans, batch.masks)
        outputs = self.head(forward(packed), packed)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def outputs(self, packed: PackedBatch) -> Tensor:
        """Rows of a packed batch, on the device; this is what CUDA graphs capture."""
        outputs = self.head(self.forward(packed), packed)
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def _repair(self, batch: Batch, outputs: Outputs, broken: Int64Array) -> Outputs:
        """Compute broken sequences again in float32; NaN if that is not finite either."""
        for sequence in broken:
            exact = None
            if self.precision != "float32" and self._exact_fits:
                exact = self._in_float32(some_of(batch, np.array([sequence])))
            outputs = repaired(outputs, batch, int(sequence), exact, per_token=self.per_token)
        return outputs

    def _in_float32(self, batch: Batch) -> Outputs | None:
        """Outputs of a batch in float32; None if that does not fit into memory, now or later."""
        try:
            if self._exact is None:
                logger.warning("values overflow in %s: loading float32 as well", self.precision)
                self._release()
                self._exact = self.load("float32")
            parts = self._compute(batch, self._exact)
            return as_outputs(tuple(part.cpu() for part in parts), self.lists)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: its traceback would keep the failed batch's memory alive.
        self._exact, self._exact_fits = None, False
        self._release()
        logger.warning(
            "float32 does not fit into the memory of %s as well: values that overflow in %s have "
            "no result",
            self.device,
            self.precision,
        )
        return None

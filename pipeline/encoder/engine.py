"""One model on one device: batches in, float32 outputs out.

    engine = Engine(open_card("sentence-transformers/all-MiniLM-L6-v2"))
    for batch, outputs in engine.run(batches): ...

The engine keeps the order of batches, halves those that do not fit into memory, and repairs outputs
that are not finite; its lane passes batches through the device.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.encoder.choose_fused import choose_fused
from pipeline.encoder.cpu_trials import bfloat16_gain
from pipeline.encoder.cuda_graphs import CudaGraphs
from pipeline.encoder.device.devices import find_device, loading_threads
from pipeline.encoder.device.out_of_memory import is_out_of_memory
from pipeline.encoder.lanes import Arrival, choose_token_budget, make_lane
from pipeline.encoder.model.heads import SentenceHead
from pipeline.encoder.model.int8 import INT8_SCHEME
from pipeline.encoder.model.int8_error import int8_error
from pipeline.encoder.model.load import ForwardPass, HeadOptions, open_model
from pipeline.encoder.model.packed_batch import PackedBatch, pack_batch
from pipeline.encoder.precision import between_products, choose_precision
from pipeline.errors import EncodeError, Interrupted, UsageError
from pipeline.packing import Batch, gather

logger = logging.getLogger(__name__)

Outputs = npt.NDArray[np.float32]


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
        output_size: width of an output: dimensions of a vector, or number of classes.
        forward: the encoder in `precision`.
        head: what turns hidden states into outputs.
        lane: passes batches through the device.
        graphs: the CUDA graphs, None if the encoder cannot be captured.
        token_limit: the most tokens per batch, set when one was too large for the device's memory.
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        device: str = "cpu",
        precision: str = "auto",
        dimensions: int | None = None,
        normalize: bool | None = None,
        prompt_tokens: int = 0,
        late_chunks: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        """Load the model.

        Args:
            card: from `open_card`.
            device: a torch device.
            precision: of the encoder, see `choose_precision`; heads are always float32.
            dimensions: leading dimensions of a vector to keep, None for all.
            normalize: whether vectors have unit length, None for what the checkpoint does.
            prompt_tokens: leading tokens of every sequence that belong to the prompt
                (`tokenizer.prompt_tokens`); omitted from pooling where the checkpoint says so.
            late_chunks: whether batches have spans, each of which gives an output.
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
        self._model = open_model(
            card, self._torch_device, HeadOptions(dimensions, normalize, prompt_tokens, late_chunks)
        )
        self.head = self._model.head
        self.output_size = self.head.output_size
        self.per_token = card.head == "token_classifier"
        gain = functools.partial(bfloat16_gain, card.config, cache_dir)
        chosen = choose_precision(precision, card.config, device, gain)
        self.precision = chosen.value
        int8 = self.precision == "int8"
        self._between = between_products(card.config, gain) if int8 else "float32"
        with self.lane.placed():
            self.forward = self.load(self.precision)
            fused = choose_fused(self.forward, self.head)
        budget = choose_token_budget(self._torch_device, card.config, self.precision)
        self.token_budget = budget.value
        self.chosen_precision = chosen
        self.choices: Choices = {"precision": chosen, "token-budget": budget, **fused}
        self.quantization = ""
        if int8:
            error = int8_error(self.forward, self.load("float32"), card.config)
            self.quantization = f"{INT8_SCHEME}, {self._between} between them; {error}"
        self.graphs: CudaGraphs | None = None
        if self.forward.capturable and not late_chunks:  # a graph's shapes know no spans
            limit = self.config.max_length if self.config.position_table else None
            self.graphs = CudaGraphs(
                self.outputs, self._torch_device, per_token=self.per_token, limit=limit
            )
        self._exact: ForwardPass | None = None
        self.token_limit: int | None = None

    @property
    def device_name(self) -> str:
        """The device in words, for provenance: the GPU's product name, or "cpu"."""
        return self.lane.device_name

    def take_padding(self) -> int:
        """Tokens that were computed for the shape of a batch alone, since the last call."""
        if self.graphs is None:
            return 0
        padding, self.graphs.padding_tokens = self.graphs.padding_tokens, 0
        return padding

    def load(self, precision: str) -> ForwardPass:
        """The encoder in any precision, on the engine's device."""
        with loading_threads(self.card.parameters):
            return self._model.load(precision, self._between)

    def run(
        self, batches: Iterable[Batch], should_stop: Callable[[], bool] | None = None
    ) -> Iterator[tuple[Batch, Outputs]]:
        """Compute batches in order.

        A sequence whose values are not finite is computed again in float32, unless that is the
        engine's precision. If they still are not finite, or if it has no tokens, its values are NaN
        and the caller decides what to do.

        Args:
            batches: consumed a few ahead of the results.
            should_stop: called before each batch.

        Yields:
            Each batch with its outputs: of an embedding model [S, output_size]; of a sequence
            classifier [S, classes], or [S] with a single class; of a token classifier
            [T, classes]; of late chunks, [K, output_size].

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
            return _Launched(batch, self.lane.launch(lambda: self._fit(batch)))

    def _finish(self, launched: _Launched) -> tuple[Batch, Outputs]:
        batch, outputs = launched.batch, launched.outputs().numpy()
        broken = self._non_finite(batch, outputs)
        if broken.size:
            with self.lane.placed():
                self._repair(batch, outputs, broken)
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

    def _fit(self, batch: Batch) -> Tensor:
        """Compute a batch, in halves if it does not fit into the device's memory at once."""
        if self.token_limit is not None and batch.tokens > self.token_limit and len(batch) > 1:
            return self._halve(batch)
        try:
            return self._compute(batch, self.forward)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise EncodeError(
                    f"a sequence of {batch.tokens} tokens does not fit into the memory of "
                    f"{self.device}",
                    hint="use a smaller --max-length or --token-budget, or a larger device",
                ) from error
        # Outside the handler: its traceback would keep the failed batch's memory alive.
        if self.graphs is not None:
            self.graphs.clear()
        self.lane.release_memory()
        self.token_limit = batch.tokens // 2
        logger.warning(
            "%d tokens do not fit into the memory of %s: continuing with half as many",
            batch.tokens,
            self.device,
        )
        return self._halve(batch)

    def _halve(self, batch: Batch) -> Tensor:
        middle = len(batch) // 2
        halves = (np.arange(middle), np.arange(middle, len(batch)))
        return torch.cat([self._fit(_select(batch, half)) for half in halves])

    @torch.inference_mode()
    def _compute(self, batch: Batch, forward: ForwardPass) -> Tensor:
        """Outputs of a batch, on the device."""
        if batch.tokens == 0:
            return self._empty_rows(batch)
        if self.graphs is not None and forward is self.forward:
            outputs = self.graphs.run(batch)
            if outputs is not None:
                return outputs
        packed = pack_batch(batch, self._torch_device, batch.spans)
        return self.head(forward(packed), packed)

    def outputs(self, packed: PackedBatch) -> Tensor:
        """Outputs of a packed batch, on the device; this is what CUDA graphs capture."""
        return self.head(self.forward(packed), packed)

    def _empty_rows(self, batch: Batch) -> Tensor:
        """Outputs of sequences that all have no tokens."""
        if self.per_token:
            return torch.empty(0, self.output_size, device=self._torch_device)
        single = self.output_size == 1 and not isinstance(self.head, SentenceHead)
        shape = (len(batch),) if single else (len(batch), self.output_size)
        return torch.full(shape, torch.nan, device=self._torch_device)

    def _non_finite(self, batch: Batch, outputs: Outputs) -> npt.NDArray[np.int64]:
        """Sequences with tokens whose outputs are not all finite."""
        if np.isfinite(outputs).all():
            return np.empty(0, dtype=np.int64)
        finite = np.isfinite(outputs).reshape(outputs.shape[0], -1).all(axis=1)
        bounds = batch.output_bounds(per_token=self.per_token)
        if bounds is not None:
            owner = np.repeat(np.arange(len(batch)), np.diff(bounds))
            return np.unique(owner[~finite])
        return np.flatnonzero(~finite & (np.diff(batch.cu_seqlens) > 0))

    def _repair(self, batch: Batch, outputs: Outputs, broken: npt.NDArray[np.int64]) -> None:
        """Compute broken sequences again in float32, in place; NaN if that is not finite either."""
        if self.precision != "float32" and self._exact is None:
            logger.warning("values overflow in %s: loading float32 as well", self.precision)
            self._exact = self.load("float32")
        bounds = batch.output_bounds(per_token=self.per_token)
        for sequence in broken:
            target = slice(int(sequence), int(sequence) + 1)
            if bounds is not None:
                target = slice(int(bounds[sequence]), int(bounds[sequence + 1]))
            exact: Outputs = np.full_like(outputs[target], np.nan)
            if self._exact is not None:
                single = _select(batch, np.array([sequence]))
                exact = self._compute(single, self._exact).cpu().numpy()
            outputs[target] = exact if np.isfinite(exact).all() else np.nan


def _select(batch: Batch, sequences: npt.NDArray[np.int64]) -> Batch:
    """Some sequences of a batch as a batch of their own."""
    offsets = batch.cu_seqlens.astype(np.int64)
    return gather(batch.ids, offsets, sequences, batch.type_ids, batch.spans)

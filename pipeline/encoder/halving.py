"""Batches that do not fit into a device's memory are computed in halves, and so are all later ones
of that size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from pipeline.encoder.device.out_of_memory import is_out_of_memory
from pipeline.encoder.model.head_outputs import Parts, concatenated
from pipeline.errors import EncodeError
from pipeline.packing import Batch, some_of

logger = logging.getLogger(__name__)


class Halving:
    """Computes batches, in halves where memory is short.

    Attributes:
        token_limit: the most tokens per batch, set when one was too large for the device's memory.
    """

    def __init__(self, device: str) -> None:
        """Start without a limit; `device` is whose memory it is, in words."""
        self._device = device
        self.token_limit: int | None = None

    def __call__(
        self, batch: Batch, compute: Callable[[Batch], Parts], release: Callable[[], None]
    ) -> Parts:
        """Outputs of a batch.

        Args:
            batch: of any size.
            compute: outputs of a batch that fits.
            release: frees what the device's memory holds for speed alone.

        Raises:
            EncodeError: a sequence alone does not fit.
        """
        if self.token_limit is not None and batch.tokens > self.token_limit and len(batch) > 1:
            return self._halves(batch, compute, release)
        try:
            return compute(batch)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise EncodeError(
                    f"a sequence of {batch.tokens} tokens does not fit into the memory of "
                    f"{self._device}",
                    hint="use a smaller --max-length or --token-budget, or a larger device",
                ) from error
        # Outside the handler: its traceback would keep the failed batch's memory alive.
        release()
        self.token_limit = batch.tokens // 2
        logger.warning(
            "%d tokens do not fit into the memory of %s: continuing with half as many",
            batch.tokens,
            self._device,
        )
        return self._halves(batch, compute, release)

    def _halves(
        self, batch: Batch, compute: Callable[[Batch], Parts], release: Callable[[], None]
    ) -> Parts:
        middle = len(batch) // 2
        halves = (np.arange(middle), np.arange(middle, len(batch)))
        return concatenated([self(some_of(batch, half), compute, release) for half in halves])

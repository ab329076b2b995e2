"""CTranslate2's encoder in int8: a BERT converted by its own converter, pooled here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.peers.library import fastest

_TUNING_ROWS = 256
_BATCH_SIZES = (8, 16, 32, 64, 128)


class CTranslate2:
    """Texts are sorted by length, and each batch is computed by one or by all threads."""

    precision = "int8"

    def __init__(self, folder: Path, limit: int, scratch: Path, inputs: Sequence[str]) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        converted = scratch / "ctranslate2"
        TransformersConverter(str(folder)).convert(str(converted), quantization="int8")
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
        self._mean = bool(pooling["pooling_mode_mean_tokens"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit)
        threads = torch.get_num_threads()
        self._encoders = {
            streams: ctranslate2.Encoder(
                str(converted), device="cpu", compute_type="int8",
                inter_threads=streams, intra_threads=threads // streams,
            )
            for streams in {1, threads}
        }  # fmt: skip
        self._real = self._padded = 0
        self._setting = (1, 32)
        self._tune(list(inputs[:: max(1, len(inputs) // _TUNING_ROWS)][:_TUNING_ROWS]))

    @property
    def batch_size(self) -> int:
        return self._setting[1]

    @property
    def padding(self) -> float | None:
        return 1 - self._real / self._padded if self._padded else None

    def __call__(self, inputs: Sequence[str]) -> np.ndarray:
        streams, size = self._setting
        encoder = self._encoders[streams]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(inputs))]
        order = np.argsort([-len(sequence) for sequence in ids], kind="stable")
        batches = [order[start : start + size] for start in range(0, len(order), size)]

        def compute(batch: np.ndarray) -> np.ndarray:
            sequences = [ids[i] for i in batch]
            hidden = np.array(encoder.forward_batch(sequences).last_hidden_state)
            return self._pool(hidden, np.array([len(sequence) for sequence in sequences]))

        with ThreadPoolExecutor(streams) as pool:
            parts = list(pool.map(compute, batches))
        vectors = np.empty((len(ids), parts[0].shape[1]), dtype=np.float32)
        for batch, part in zip(batches, parts, strict=True):
            vectors[batch] = part
        return vectors

    values = __call__

    def _pool(self, hidden: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        self._real += int(lengths.sum())
        self._padded += hidden.shape[0] * hidden.shape[1]
        vectors = hidden[:, 0]
        if self._mean:
            mask = np.arange(hidden.shape[1]) < lengths[:, None]
            vectors = np.einsum("btw,bt->bw", hidden, mask.astype(np.float32)) / lengths[:, None]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _tune(self, sample: list[str]) -> None:
        def take(setting: tuple[int, int]) -> None:
            self._setting = setting

        settings = [(streams, size) for streams in self._encoders for size in _BATCH_SIZES]
        fastest(settings, take, lambda: self(sample))

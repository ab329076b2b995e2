"""llama-cpp-python's embeddings in Q8_0: a GGUF made by llama.cpp's own script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.peers.library import fastest

#: Where scripts/peer-environment puts it: PyPI has it in llama-cpp-python's source alone.
CONVERTER = Path(sys.prefix) / "llama.cpp" / "convert_hf_to_gguf.py"

_TUNING_ROWS = 128
_BATCH_TOKENS = (256, 512, 1024, 2048)


class LlamaCpp:
    """Llama.embed: it packs texts in their order, without padding.

    Texts are cut to the limit beforehand, outside of the clock: it has none but that of a batch.
    """

    precision = "int8"
    padding = 0.0

    def __init__(self, folder: Path, limit: int, scratch: Path, inputs: Sequence[str]) -> None:
        file = scratch / "q8_0.gguf"
        command = [sys.executable, CONVERTER, folder, "--outtype", "q8_0", "--outfile", file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit)
        self._cut: dict[str, str] = {}
        sample = list(inputs[:: max(1, len(inputs) // _TUNING_ROWS)][:_TUNING_ROWS])
        # A text must fit into a batch.
        settings = [
            (max(tokens, limit), flash)
            for tokens in _BATCH_TOKENS
            if tokens * 2 > limit
            for flash in (False, True)
        ]
        self._models = {setting: _model(file, *setting) for setting in settings}

        def take(setting: tuple[int, bool]) -> None:
            self._model = self._models[setting]

        chosen = fastest(settings, take, lambda: self(sample))
        self._models = {chosen: self._model}
        self.batch_size = f"{chosen[0]} tokens"

    def __call__(self, inputs: Sequence[str]) -> list[list[float]]:
        return self._model.embed([self._fitting(text) for text in inputs], normalize=True)

    def values(self, inputs: Sequence[str]) -> np.ndarray:
        return np.array(self(inputs), dtype=np.float32)

    def _fitting(self, text: str) -> str:
        if text not in self._cut:
            encoding = self._tokenizer.encode(text)
            whole = not encoding.overflowing
            self._cut[text] = text if whole else text[: max(end for _, end in encoding.offsets)]
        return self._cut[text]


def _model(file: Path, tokens: int, flash: bool) -> Any:
    from llama_cpp import Llama

    threads = torch.get_num_threads()
    return Llama(
        str(file), embedding=True, n_ctx=tokens, n_batch=tokens, n_ubatch=tokens,
        n_threads=threads, n_threads_batch=threads, flash_attn=flash, verbose=False,
    )  # fmt: skip

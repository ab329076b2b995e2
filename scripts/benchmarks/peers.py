"""The engines that `scripts/bench encode` compares: ours, and every peer that is installed.

Each is called with texts and returns their vectors, tokenizing included; what it needs beyond
that (weights, compilation, its best batch size) is ready before the clock runs.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.encoder.card import open_card
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.packing import Batch, gather, pack
from pipeline.prefetch import prefetch
from pipeline.tokenize.texts import TextTokenizer, Tokens

# As in pipeline.blocks: rows sorted and packed together.
_WINDOW_ROWS = 16_384
_BATCH_SIZES = (32, 64, 128, 256, 512)
# Texts that a batch size is chosen on.
_TUNING_ROWS = 512

Vectors = np.ndarray


class Ours:
    """bei-jobs' encoder: tokenizing in one thread, computing in the other."""

    def __init__(
        self, folder: Path, device: str, precision: str, limit: int, budget: int | None = None
    ) -> None:
        card = open_card(str(folder))
        self.engine = Engine(card, device=device, precision=precision)
        self._budget = budget or self.engine.token_budget
        self.tokenizer = load_tokenizer(card)
        self._limit = limit

    def __call__(self, texts: list[str]) -> Vectors:
        out = np.empty((len(texts), self.engine.output_size), dtype=np.float32)
        with prefetch(self._windows(texts), 2) as ahead:
            done = 0
            for tokens in ahead:
                for batch, rows in self.engine.run(self._batches(tokens)):
                    out[done + batch.sequences] = rows
                done += tokens.rows
        return out

    def tokenized(self, texts: list[str]) -> Callable[[list[str]], Vectors]:
        """The same without tokenizing and packing: these texts, prepared beforehand."""
        tokens = [(w, list(self._batches(w))) for w in self._windows(texts)]

        def run(_: list[str]) -> Vectors:
            parts = []
            for window, batches in tokens:
                part = np.empty((window.rows, self.engine.output_size), dtype=np.float32)
                for batch, rows in self.engine.run(batches):
                    part[batch.sequences] = rows
                parts.append(part)
            return np.concatenate(parts)

        return run

    def lengths(self, texts: list[str]) -> np.ndarray:
        """Tokens of each text."""
        return np.concatenate([w.lengths for w in self._windows(texts)])

    def _windows(self, texts: list[str]) -> Iterator[Tokens]:
        tokenizer = TextTokenizer(self.tokenizer, self._limit, "right")  # remembers no words
        for start in range(0, len(texts), _WINDOW_ROWS):
            yield tokenizer.encode(texts[start : start + _WINDOW_ROWS])

    def _batches(self, tokens: Tokens) -> Iterator[Batch]:
        for sequences in pack(tokens.lengths, self._budget):
            yield gather(tokens.ids, tokens.offsets, sequences)


def load_sentence_transformer(folder: Path, device: str, **options: Any) -> Any:
    """A sentence_transformers.SentenceTransformer that tokenizes as the checkpoint says.

    transformers gives some families (Qwen) a class of their own, whatever tokenizer_config.json
    names: of a shape's WordPiece file that would make a token a letter.
    """
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device=device, **options)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        from transformers import PreTrainedTokenizerFast

        model[0].processor = PreTrainedTokenizerFast.from_pretrained(str(folder))
    return model


class SentenceTransformers:
    """The reference library, at its defaults or tuned."""

    def __init__(self, folder: Path, device: str, limit: int, **options: Any) -> None:
        self.batch_size = options.pop("batch_size", 32)
        self.model = load_sentence_transformer(folder, device, **options)
        if type(self.model[0]).__name__ != "StaticEmbedding":  # which has no limit
            self.model.max_seq_length = limit
        self.real = self.padded = 0

    def __call__(self, texts: list[str]) -> Vectors:
        return self.model.encode(texts, batch_size=self.batch_size, show_progress_bar=False)

    def tune(self, texts: list[str]) -> None:
        """Take the batch size that encodes a sample fastest; one that does not fit is skipped."""
        best = float("inf")
        chosen = self.batch_size
        for self.batch_size in _BATCH_SIZES:
            try:
                self(texts[: self.batch_size])
                start = time.perf_counter()
                self(texts[:_TUNING_ROWS])
            except torch.OutOfMemoryError:
                break
            seconds = time.perf_counter() - start
            if seconds < best:
                best, chosen = seconds, self.batch_size
        self.batch_size = chosen

    def count_padding(self) -> None:
        """From the next call on, count the tokens that are real and those that are computed."""

        def look(_: Any, args: tuple[Any, ...]) -> None:
            mask = args[0].get("attention_mask")
            if mask is not None:
                self.real += int(mask.sum())
                self.padded += mask.numel()

        self.model[0].register_forward_pre_hook(look)

    @property
    def padding(self) -> str:
        """Share of the computed tokens that were padding."""
        return f"{100 * (1 - self.real / self.padded):.0f} %" if self.padded else "0 %"


def peers(
    folder: Path, device: str, limit: int, half: str, texts: list[str]
) -> Iterator[tuple[str, Callable[[], SentenceTransformers]]]:
    """Name and maker of every peer that this machine can run, its defaults first."""

    def make(tuned: bool, **options: Any) -> Callable[[], SentenceTransformers]:
        def build() -> SentenceTransformers:
            engine = SentenceTransformers(folder, device, limit, **options)
            if tuned:
                engine.tune(texts)
            return engine

        return build

    yield "sentence-transformers, defaults", make(False)
    if device.startswith("cuda"):
        dtype = {"dtype": getattr(torch, half)}
        yield f"sentence-transformers {half}, tuned batch", make(True, model_kwargs=dtype)
        if importlib.util.find_spec("flash_attn"):
            flash = {**dtype, "attn_implementation": "flash_attention_2"}
            yield "sentence-transformers FA2, flattened, tuned", make(True, model_kwargs=flash)
        return
    yield "sentence-transformers, tuned batch", make(True)
    if importlib.util.find_spec("optimum") and importlib.util.find_spec("openvino"):
        # Its own choice is bfloat16 where the chip has it.
        exact = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
        yield (
            "sentence-transformers OpenVINO float32",
            make(False, backend="openvino", model_kwargs=exact),
        )
        yield "sentence-transformers OpenVINO, its precision", make(False, backend="openvino")
    if importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.onnxruntime"):
        yield "sentence-transformers ONNX", make(False, backend="onnx")
        yield "sentence-transformers ONNX int8", lambda: _quantized_onnx(folder, limit)
    elif importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        for quantize in (False, True):
            name = "sentence-transformers on ONNX Runtime" + (" int8" if quantize else "")
            yield name, lambda q=quantize: on_onnx_runtime(make(False)(), q)


def _quantized_onnx(folder: Path, limit: int) -> SentenceTransformers:
    """sentence-transformers' own int8 for CPUs with VNNI: dynamic, one scale a channel."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / folder.name))
        model = SentenceTransformer(str(copy), device="cpu", backend="onnx")
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(copy))
        file = {"file_name": "onnx/model_qint8_avx512_vnni.onnx"}
        return SentenceTransformers(copy, "cpu", limit, backend="onnx", model_kwargs=file)


def on_onnx_runtime(engine: SentenceTransformers, quantize: bool) -> SentenceTransformers:
    """Let ONNX Runtime compute the encoder of a loaded model: its ONNX backend needs a package
    that does not install beside current transformers. int8 is its own dynamic quantization.
    """
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    transformer = engine.model[0]
    transformer.model.set_attn_implementation("eager")  # what the exporter can trace
    names = ("input_ids", "attention_mask", "token_type_ids")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        axes = {name: {0: "texts", 1: "tokens"} for name in (*names, "hidden")}
        torch.onnx.export(
            _Hidden(transformer.model), (torch.ones(2, 8, dtype=torch.long),) * len(names),
            file, input_names=list(names), output_names=["hidden"], dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
        if quantize:
            exact, file = file, Path(folder) / "int8.onnx"
            quantize_dynamic(exact, file, per_channel=True)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    transformer.model = _Session(session, transformer.model.config)
    return engine


class _Hidden(torch.nn.Module):
    """A model whose only output is its hidden states."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model = model

    def encode(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        # A mask of four dimensions is taken as it is: what makes one cannot be traced.
        wide = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        out = self._model(input_ids=ids, attention_mask=wide, token_type_ids=types)
        return out.last_hidden_state


class _Session(torch.nn.Module):
    """An ONNX session where sentence-transformers expects a model."""

    dtype = torch.float32

    def __init__(self, session: Any, config: Any) -> None:
        super().__init__()
        self._session = session
        self._wanted = {i.name for i in session.get_inputs()}
        self.config = config

    def encode(self, **inputs: torch.Tensor) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        ids = inputs["input_ids"]
        arrays = {"token_type_ids": torch.zeros_like(ids), **inputs}
        feeds = {name: arrays[name].numpy() for name in self._wanted}
        (hidden,) = self._session.run(["hidden"], feeds)
        return BaseModelOutput(last_hidden_state=torch.from_numpy(hidden))

"""What the authors of a model use: sentence-transformers, and transformers' pipeline for labels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from benchmarks.shapes import GENERIC_TOKENIZER
from pipeline.outputs import Lists

_BATCH_SIZES = {"cpu": (8, 16, 32, 64, 128), "cuda": (32, 64, 128, 256, 512)}
# Texts that a batch size is chosen on.
_TUNING_ROWS = {"cpu": 256, "cuda": 512}


def load_sentence_transformer(folder: Path, device: str, **options: Any) -> Any:
    """A sentence_transformers.SentenceTransformer that tokenizes as the checkpoint says.

    transformers gives some families (Qwen) a class of their own, whatever tokenizer_config.json
    names: of a shape's WordPiece file that would make a token a letter.
    """
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device=device, **options)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    if settings.get("tokenizer_class") == GENERIC_TOKENIZER:
        from transformers import PreTrainedTokenizerFast

        model[0].processor = PreTrainedTokenizerFast.from_pretrained(str(folder))
    return model


class Padding:
    """Counts the tokens of a module's inputs that are real, and those that are computed."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._real = self._padded = 0
        module.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, _: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = {**(args[0] if args and isinstance(args[0], Mapping) else {}), **named}
        if (mask := given.get("attention_mask")) is not None:
            self._real += int(mask.sum())
            self._padded += mask.numel()

    @property
    def share(self) -> float | None:
        """Share of the computed tokens that were padding; None before the first."""
        return 1 - self._real / self._padded if self._padded else None


class Batched:
    """A peer that takes texts in batches of a size that its user may choose.

    Attributes:
        precision: what it computes in.
        batch_size: texts of a batch.
    """

    def __init__(self, device: str, module: torch.nn.Module, precision: str) -> None:
        self.precision = precision
        self.batch_size = 32
        self._device = device.partition(":")[0]
        self._padding = Padding(module)

    def __call__(self, inputs: Sequence[Any]) -> object:
        raise NotImplementedError

    @property
    def padding(self) -> float | None:
        return self._padding.share

    def tune(self, inputs: Sequence[Any]) -> Self:
        """Take the batch size that is fastest on a sample; one that does not fit is skipped."""
        count = _TUNING_ROWS[self._device]
        sample = list(inputs[:: max(1, len(inputs) // count)][:count])

        def take(size: int) -> None:
            self.batch_size = size

        sizes = dict.fromkeys((self.batch_size, *_BATCH_SIZES[self._device]))
        fastest(list(sizes), take, lambda: self(sample))
        return self


def fastest(choices: Sequence[Any], take: Callable[[Any], None], work: Callable[[], object]) -> Any:
    """Take each of some settings in turn, twice, and keep the one with the least time."""
    best: dict[Any, float] = {}
    for choice in (*choices, *choices):
        take(choice)
        start = time.perf_counter()
        try:
            work()
        except torch.OutOfMemoryError:
            continue
        best[choice] = min(best.get(choice, float("inf")), time.perf_counter() - start)
    chosen = min(best, key=lambda choice: best[choice])
    take(chosen)
    return chosen


class Embedder(Batched):
    """SentenceTransformer.encode."""

    def __init__(
        self, folder: Path, device: str, limit: int, *, precision: str | None = None, **options: Any
    ) -> None:
        self.model = load_sentence_transformer(folder, device, **options)
        if type(self.model[0]).__name__ != "StaticEmbedding":  # which has no limit
            self.model.max_seq_length = limit
        super().__init__(device, self.model[0], precision or dtype_of(self.model))

    def __call__(self, inputs: Sequence[str]) -> np.ndarray:
        return self.model.encode(list(inputs), batch_size=self.batch_size, show_progress_bar=False)

    values = __call__


class Reranker(Batched):
    """CrossEncoder.predict."""

    def __init__(
        self, folder: Path, device: str, limit: int, *, precision: str | None = None, **options: Any
    ) -> None:
        from sentence_transformers import CrossEncoder

        self.model = CrossEncoder(str(folder), device=device, max_length=limit, **options)
        super().__init__(device, self.model[0], precision or dtype_of(self.model))

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> np.ndarray:
        return self.model.predict(list(inputs), batch_size=self.batch_size, show_progress_bar=False)

    def values(self, inputs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.asarray(self(inputs), dtype=np.float32).reshape(len(inputs), -1)


class SparseEmbedder(Batched):
    """SparseEncoder.encode."""

    def __init__(self, folder: Path, device: str, limit: int, **options: Any) -> None:
        from sentence_transformers import SparseEncoder

        self.model = SparseEncoder(str(folder), device=device, **options)
        self.model.max_seq_length = limit
        super().__init__(device, self.model[0], dtype_of(self.model))

    def __call__(self, inputs: Sequence[str]) -> list[Any]:
        # Each on its own, in the host's memory: stacked, rows of 250,000 terms take terabytes.
        return self.model.encode(
            list(inputs), batch_size=self.batch_size, convert_to_tensor=False, save_to_cpu=True,
            show_progress_bar=False,
        )  # fmt: skip

    def values(self, inputs: Sequence[str]) -> np.ndarray:
        rows = [row.coalesce() for row in self(inputs)]
        counts = np.array([len(row.values()) for row in rows])
        ids = torch.cat([row.indices()[0] for row in rows]).int().numpy()
        return Lists(
            counts, ids, torch.cat([row.values() for row in rows]).float().numpy()
        ).folded()


class MultiEmbedder(Batched):
    """MultiVectorEncoder.encode_document."""

    def __init__(self, folder: Path, device: str, limit: int, **options: Any) -> None:
        from sentence_transformers import MultiVectorEncoder

        self.model = MultiVectorEncoder(str(folder), device=device, **options)
        self.model[0].document_length = limit
        super().__init__(device, self.model[0], dtype_of(self.model))

    def __call__(self, inputs: Sequence[Any]) -> Any:
        return self._documents(inputs, convert_to_numpy=True)

    def _documents(self, texts: Sequence[str], **options: Any) -> Any:
        return self.model.encode_document(
            list(texts), batch_size=self.batch_size, show_progress_bar=False, **options
        )

    def values(self, inputs: Sequence[Any]) -> np.ndarray:
        rows = self(inputs)
        counts = np.array([len(row) for row in rows])
        ids = np.concatenate([np.arange(count) for count in counts]).astype(np.int32)
        return Lists(counts, ids, np.concatenate(rows).astype(np.float32)).folded()


class LateReranker(MultiEmbedder):
    """MultiVectorEncoder on pairs: each query once, then similarity_pairwise."""

    def __call__(self, inputs: Sequence[tuple[str, str]]) -> np.ndarray:
        queries = list(dict.fromkeys(query for query, _ in inputs))
        asked = self.model.encode_query(
            queries, batch_size=self.batch_size, show_progress_bar=False
        )
        vectors = dict(zip(queries, asked, strict=True))
        documents = self._documents([document for _, document in inputs])
        pairs = [vectors[query] for query, _ in inputs]
        return self.model.similarity_pairwise(pairs, documents).float().cpu().numpy()

    def values(self, inputs: Sequence[tuple[str, str]]) -> np.ndarray:
        return self(inputs).reshape(len(inputs), -1)


class Pipeline(Batched):
    """transformers.pipeline of a classifier of texts or of tokens."""

    def __init__(self, folder: Path, device: str, limit: int, task: str, **options: Any) -> None:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), model_max_length=limit)
        self._tags = task == "tag"
        kind = "token-classification" if self._tags else "text-classification"
        self.pipeline = transformers.pipeline(
            kind, model=str(folder), tokenizer=tokenizer, device=device, **options
        )
        super().__init__(device, self.pipeline.model, dtype_of(self.pipeline.model))
        self.batch_size = 1  # its default

    def __call__(self, inputs: Sequence[str]) -> list[Any]:
        if self._tags:
            return self._run(inputs, aggregation_strategy="simple")
        return self._run(inputs, top_k=None, truncation=True)

    def values(self, inputs: Sequence[str]) -> np.ndarray:
        if self._tags:
            found = self._run(inputs, aggregation_strategy="none", ignore_labels=[])
            return np.array([token["score"] for text in found for token in text], np.float32)
        found = self(inputs)
        return np.array([[label["score"] for label in text] for text in found], np.float32)

    def _run(self, inputs: Sequence[str], **options: Any) -> list[Any]:
        return self.pipeline(list(inputs), batch_size=self.batch_size, **options)


def dtype_of(model: torch.nn.Module) -> str:
    """The type of a model's weights, such as bfloat16."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")

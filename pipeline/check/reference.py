"""The values of a sample beside those of the authors' own library, one text at a time in float32.

That is sentence-transformers for vectors and rerankers, and transformers for classifiers. Neither
runs code of a checkpoint nor opens a pickle here, and neither asks the network.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np

from pipeline.agreement import TOLERANCE, distance
from pipeline.check.precision import row_cosines
from pipeline.check.sample import Sample
from pipeline.check.tokens import encode, open_tokenizer
from pipeline.encoder.checkpoint.shown import one_line
from pipeline.output.certificate import Proof
from pipeline.outputs import Lists
from pipeline.tasks.base import Float32Array

NAME = "values"

Reference = Callable[[Any], Float32Array]  # a text or pair → [1, width], or [tokens, width]


def prove_values(
    sample: Sample, exact: Float32Array, device: str, *, rows: int, seconds: float
) -> Proof:
    """Compare values in float32 with the library's.

    Pairs of which a document was cut are left out: the libraries cut the query too.

    Args:
        sample: tokenized rows.
        exact: outputs in float32, [S, width] or [T, width].
        device: where the library computes.
        rows: the most sequences to compare.
        seconds: after so long no other one is begun.
    """
    library = _library(sample)
    if departs := sample.card.tokenizer.departs:
        return Proof(NAME, None, 0, note=departs)
    if recipe := sample.card.cross_encoder.recipe:
        note = f"a {recipe} is computed as its authors' own code does, not as {library} does"
        return Proof(NAME, None, 0, note=note)
    if importlib.util.find_spec(library.replace("-", "_")) is None:
        return Proof(NAME, None, 0, note=f"{library} is not installed")
    try:
        with _no_random_weights():
            reference = _open(sample, library, device)
    except Exception as error:  # they raise anything, as for custom code
        return Proof(NAME, None, 0, note=f"{library} cannot load it: {one_line(error)[:200]}")
    ours, theirs = [], []
    deadline = time.monotonic() + seconds
    for sequence, given in _compared(sample)[:rows]:
        try:
            theirs.append(reference(given))
        except Exception as error:
            return Proof(
                NAME, None, 0, note=f"{library} cannot compute it: {one_line(error)[:200]}"
            )
        ours.append(sample.values_of(exact, sequence))
        if time.monotonic() > deadline:
            break
    return _compare(ours, theirs, f"{library} {version(library)}", sample)


def _compare(ours: list[Any], theirs: list[Any], library: str, sample: Sample) -> Proof:
    if not ours:
        return Proof(NAME, None, 0, note="no text of the sample can be compared")
    shapes = [(a.shape, b.shape) for a, b in zip(ours, theirs, strict=True)]
    if other := [pair for pair in shapes if pair[0] != pair[1]]:
        note = f"{library} has other shapes: {other[0][1]}, not {other[0][0]}"
        return Proof(NAME, False, len(ours), note=note)
    a, b = np.concatenate(ours), np.concatenate(theirs)
    apart = distance(a, b, logits=sample.card.head != "embedding")
    difference = np.abs(a - b)
    measured = {"difference": float(np.nan_to_num(difference).max(initial=0.0))}
    if a.shape[1] > 1:
        measured["cosine"] = float(np.nan_to_num(row_cosines(a, b)).min(initial=1.0))
    if sample.card.labels and a.shape[1] > 1:
        measured["other labels"] = float((a.argmax(axis=1) != b.argmax(axis=1)).sum())
    passed = apart <= TOLERANCE["float32"]
    worst = int(difference.max(axis=1).argmax())
    note = (
        f"as {library}'s" if passed else f"not {library}'s: {apart:.1e} apart, output {worst + 1}"
    )
    return Proof(NAME, passed, len(ours), measured, note)


def _library(sample: Sample) -> str:
    """The library that the authors of such a model use."""
    pairs = sample.task.list_columns(sample.spec)
    embeds = sample.card.head == "embedding"
    return "sentence-transformers" if embeds or pairs else "transformers"


def _compared(sample: Sample) -> list[tuple[int, Any]]:
    """Sequences and their inputs, without those that a library reads otherwise."""
    cut, row_of = sample.tokens.truncated, sample.tokens.row_of
    return [
        (sequence, given)
        for sequence, given in enumerate(sample.inputs())
        if given is not None and not (isinstance(given, tuple) and cut[row_of[sequence]])
    ]


def _open(sample: Sample, library: str, device: str) -> Reference:
    _refuse(sample)
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    settings = {
        "dtype": torch.float32,
        "attn_implementation": "eager",
        "use_safetensors": True,
    }
    if library == "transformers":
        return _transformers(sample, device, settings)
    shared: dict[str, Any] = {
        "device": device,
        "trust_remote_code": False,
        "local_files_only": True,
        "model_kwargs": settings,
    }
    path, spec = str(sample.card.checkpoint.path), sample.spec
    pairs = sample.task.list_columns(spec)
    if spec.vectors == ("sparse",):
        return _sparse_encoder(sample, shared)
    if spec.vectors == ("multi",) and sample.card.head == "embedding" and not pairs:
        return _multi_vector_encoder(sample, shared)
    if sample.card.head == "embedding":
        from sentence_transformers import SentenceTransformer

        embedder = SentenceTransformer(path, **shared)
        if not sample.card.config.static:  # which has no limit
            embedder.max_seq_length = spec.max_length
        return lambda text: np.asarray(
            embedder.encode([text], prompt="", show_progress_bar=False), dtype=np.float32
        )
    from sentence_transformers import CrossEncoder

    silent: dict[str, Any] = {
        "activation_fn": torch.nn.Identity(),
        "show_progress_bar": False,
    }
    ranker = CrossEncoder(path, max_length=spec.max_length, **shared)
    return lambda pair: np.asarray(
        ranker.predict([pair], prompt=spec.prompt or None, **silent), dtype=np.float32
    ).reshape(1, -1)


def _sparse_encoder(sample: Sample, settings: dict[str, Any]) -> Reference:
    """Sparse vectors, folded as an engine's are where they are compared."""
    from sentence_transformers import SparseEncoder

    encoder = SparseEncoder(str(sample.card.checkpoint.path), **settings)
    encoder.max_seq_length = sample.spec.max_length
    chosen: dict[str, Any] = {"task": sample.spec.kind} if sample.spec.kind else {}

    def folded(text: str) -> Float32Array:
        vector = encoder.encode(
            [text], prompt="", convert_to_sparse_tensor=False, show_progress_bar=False, **chosen
        )
        values = np.asarray(vector, dtype=np.float32)[0]
        terms = np.flatnonzero(values).astype(np.int32)
        return Lists(np.array([len(terms)]), terms, values[terms]).folded()

    return folded


def _multi_vector_encoder(sample: Sample, settings: dict[str, Any]) -> Reference:
    """Vectors of tokens, folded as an engine's are where they are compared."""
    from sentence_transformers import MultiVectorEncoder

    encoder = MultiVectorEncoder(str(sample.card.checkpoint.path), **settings)
    options: dict[str, Any] = {"prompt": "", "show_progress_bar": False, "convert_to_numpy": True}
    task = sample.spec.kind or "document"

    def folded(text: str) -> Float32Array:
        (vectors,) = encoder.encode([text], task=task, **options)
        places = np.arange(len(vectors), dtype=np.int32)
        return Lists(np.array([len(vectors)]), places, vectors.astype(np.float32)).folded()

    return folded


def _transformers(sample: Sample, device: str, settings: dict[str, Any]) -> Reference:
    """Logits of a classifier, of sequences or of tokens."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    per_token = sample.task.per_token
    kind = AutoModelForTokenClassification if per_token else AutoModelForSequenceClassification
    model = kind.from_pretrained(
        sample.card.checkpoint.folder, trust_remote_code=False, local_files_only=True, **settings
    )
    model = model.to(device).eval()
    tokenizer = open_tokenizer(sample.card)

    def logits(text: str) -> Float32Array:
        encoded = encode(sample, tokenizer, text).convert_to_tensors("pt", prepend_batch_axis=True)
        with torch.inference_mode():
            values = model(**encoded.to(device)).logits
        found: Float32Array = values[0].float().cpu().numpy()
        return found if per_token else found[None]

    return logits


def _refuse(sample: Sample) -> None:
    """Refuse what the libraries could not load as its authors mean it.

    Raises:
        ValueError: it needs custom code, without which they load another model or random weights;
            or it has an adapter in a pickle, which peft would open.
    """
    checkpoint = sample.card.checkpoint
    if checkpoint.config.get("auto_map"):
        raise ValueError("its authors' code is in the checkpoint, and bei-jobs runs none of it")
    adapter = checkpoint.folder / "adapter_config.json"
    if adapter.exists() and not adapter.with_name("adapter_model.safetensors").exists():
        raise ValueError("its adapter is not in safetensors")


@contextmanager
def _no_random_weights() -> Iterator[None]:
    """A context in which a library loads weights.

    Raises:
        ValueError: it has initialised some at random; those of a pooler are read by nothing.
    """
    missing: list[str] = []

    class Report(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines = record.getMessage().splitlines()
            missing.extend(x for x in lines if "MISSING" in x and "|" in x and "pooler" not in x)

    report, logger = Report(), logging.getLogger("transformers")
    logger.addHandler(report)
    try:
        yield
    finally:
        logger.removeHandler(report)
    if missing:
        raise ValueError(f"it would compute with random weights: {one_line(missing[0])}")

"""Tables of token vectors against sentence-transformers, one text at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import torch
from fixtures_encoder import fresh_card, open_engine
from safetensors.torch import load_file, save_file

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError, UsageError
from pipeline.tokenize.texts import NO_TOKENS, TextTokenizer

Compute = Callable[..., list[Any]]

TEXTS = [
    "What are pandas?",
    "the giant panda, also known as the panda bear, is a bear native to south central China. " * 9,
    "Résumé for the café, 中文 and ΑΒΓ",
    "a",
    "[CLS] is written out [SEP], and so is [UNK]",
    "\N{EGYPTIAN HIEROGLYPH A001} \N{EGYPTIAN HIEROGLYPH A002}",
]
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "StaticEmbedding": layouts.static_embedding,
    "StaticEmbedding, Normalize": lambda path: layouts.static_embedding(path, normalize=True),
    "StaticEmbedding in float16": lambda path: layouts.static_embedding(path, dtype=torch.float16),
    "model2vec": layouts.model2vec,
    "model2vec, quantised vocabulary": lambda path: layouts.model2vec(path, rows=90),
    "model2vec, weights": lambda path: layouts.model2vec(path, weights=True),
    "model2vec, quantised, weights": lambda path: layouts.model2vec(path, rows=90, weights=True),
}


@pytest.fixture
def opened(tmp_path: Path, cache: Path) -> Callable[[Callable[[Path], Path]], Checkpoint]:
    """The checkpoint that a layout writes."""
    return lambda layout: resolve(str(layout(tmp_path / "static")), cache_dir=cache)


def sequences(checkpoint: Checkpoint, texts: list[str], limit: int | None = None) -> list[Any]:
    """Token ids as a job gives them."""
    card = fresh_card(checkpoint)
    tokenizer = TextTokenizer(load_tokenizer(card), limit or card.default_max_length, "right")
    tokens = tokenizer.encode(texts)
    return np.split(tokens.ids, tokens.offsets[1:-1])


def reference(path: Path, texts: list[str], **options: Any) -> Any:
    """Vectors of sentence-transformers in float32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu", **options).float()
    return np.concatenate([model.encode([text], show_progress_bar=False) for text in texts])


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_table_gives_what_sentence_transformers_gives(
    name: str, opened: Callable[..., Checkpoint], compute: Compute
) -> None:
    checkpoint = opened(LAYOUTS[name])
    engine, texts = open_engine(checkpoint), sequences(checkpoint, TEXTS)
    expected = reference(checkpoint.path, TEXTS)
    np.testing.assert_allclose(compute(engine, texts), expected, rtol=0, atol=1e-6)
    alone = compute(engine, texts, token_budget=1)
    backwards = compute(engine, texts[::-1], token_budget=100_000)[::-1]
    np.testing.assert_allclose(backwards, alone, rtol=0, atol=1e-7)


def test_model2vec_without_module_files_has_the_length_that_its_config_says(
    opened: Callable[..., Checkpoint], compute: Compute, tmp_path: Path
) -> None:
    checkpoint = opened(lambda path: layouts.model2vec(path, modules=False))
    expected = reference(layouts.model2vec(tmp_path / "with modules"), TEXTS)
    got = compute(open_engine(checkpoint), sequences(checkpoint, TEXTS))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    file = checkpoint.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalize": False}))
    lengths = np.linalg.norm(compute(open_engine(checkpoint), sequences(checkpoint, TEXTS)), axis=1)
    assert (np.abs(lengths - 1) > 0.01).all()


def test_leading_dimensions_and_unit_length_are_those_of_sentence_transformers(
    opened: Callable[..., Checkpoint], compute: Compute
) -> None:
    checkpoint = opened(layouts.static_embedding)
    engine = open_engine(checkpoint, dimensions=16, normalize=True)
    expected = reference(checkpoint.path, TEXTS, truncate_dim=16)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    got = compute(engine, sequences(checkpoint, TEXTS))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_a_text_of_any_length_counts_in_full(
    opened: Callable[..., Checkpoint], compute: Compute
) -> None:
    checkpoint = opened(layouts.static_embedding)
    card = fresh_card(checkpoint)
    assert card.max_length is None
    text = "one two three four five six seven " * 4000
    (ids,) = sequences(checkpoint, [text])
    assert len(ids) > 20_000
    (got,) = compute(open_engine(checkpoint), [ids])
    (expected,) = reference(checkpoint.path, [text])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_the_truncation_of_the_tokenizer_file_is_the_limit(
    opened: Callable[..., Checkpoint], compute: Compute
) -> None:
    checkpoint = opened(layouts.static_embedding)
    _tokenizer(checkpoint, direction="Right", max_length=7, strategy="LongestFirst", stride=0)
    assert fresh_card(checkpoint).max_length == 7
    got = compute(open_engine(checkpoint), sequences(checkpoint, TEXTS))
    expected = reference(checkpoint.path, TEXTS)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    _tokenizer(checkpoint, direction="Left", max_length=7, strategy="LongestFirst", stride=0)
    with pytest.raises(CheckpointError, match="cuts the end of a text"):
        fresh_card(checkpoint)


def _tokenizer(checkpoint: Checkpoint, **truncation: Any) -> None:
    file = checkpoint.folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation": truncation}))


def test_a_text_without_tokens_has_no_vector(opened: Callable[..., Checkpoint]) -> None:
    checkpoint = opened(layouts.model2vec)
    card = fresh_card(checkpoint)
    tokens = TextTokenizer(load_tokenizer(card), card.default_max_length, "right").encode(["", "a"])
    assert tokens.errors == {0: NO_TOKENS}


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_table_in_sixteen_bits_is_close(
    precision: str, opened: Callable[..., Checkpoint], compute: Compute
) -> None:
    checkpoint = opened(layouts.model2vec)
    texts = sequences(checkpoint, TEXTS)
    exact = np.stack(compute(open_engine(checkpoint), texts))
    short = np.stack(compute(open_engine(checkpoint, precision=precision), texts))
    assert (exact * short).sum(1).min() > 0.999


def test_integer_products_are_refused_where_nothing_is_multiplied(
    opened: Callable[..., Checkpoint],
) -> None:
    with pytest.raises(UsageError, match="it multiplies nothing"):
        Engine(fresh_card(opened(layouts.model2vec)), precision="int8")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"spare": torch.zeros(3)}, "left over: spare"),
        ({"embeddings": torch.zeros(90)}, r"embeddings has the shape \[90\] where 2 axes"),
        (
            {"embeddings": torch.zeros(90, 64).char()},
            "not floats of 16 bits or more: embeddings I8",
        ),
        ({"mapping": torch.zeros(400)}, "mapping has the type F32, not integers"),
        ({"weights": torch.zeros(399)}, r"weights has the shape \[399\] where 400 values"),
        ({"mapping": torch.full((400,), 90)}, "names the rows 90 to 90 of a table of 90"),
        ({"mapping": torch.arange(400) - 1}, "names the rows -1 to 398 of a table of 90"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    changed: dict[str, torch.Tensor], named: str, opened: Callable[..., Checkpoint]
) -> None:
    checkpoint = opened(lambda path: layouts.model2vec(path, rows=90, weights=True))
    file = checkpoint.path / "model.safetensors"
    save_file(load_file(file) | changed, file)
    with pytest.raises(CheckpointError, match=named):
        open_engine(checkpoint)


@pytest.mark.parametrize("module", ["Pooling", "Transformer"])
def test_a_module_that_needs_token_vectors_is_refused_after_a_table(
    module: str, opened: Callable[..., Checkpoint]
) -> None:
    checkpoint = opened(layouts.static_embedding)
    file = checkpoint.path / "modules.json"
    added = {"idx": 1, "name": "1", "path": "1", "type": f"sentence_transformers.models.{module}"}
    file.write_text(json.dumps([*json.loads(file.read_text()), added]))
    (checkpoint.path / "1").mkdir()
    (checkpoint.path / "1" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(CheckpointError, match=f"names the module {module}"):
        fresh_card(checkpoint)

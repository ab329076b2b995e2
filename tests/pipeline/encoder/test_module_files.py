"""Module files in every spelling: the vectors of sentence-transformers, or a refusal by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import fresh_card, open_engine
from safetensors.torch import save_file

from pipeline.encoder.checkpoint.checkpoint import resolve
from pipeline.encoder.checkpoint.sentence_modules import DENSE_ACTIVATIONS
from pipeline.encoder.tokenizer import load_tokenizer, prompt_tokens
from pipeline.errors import CheckpointError
from pipeline.planning.choices import model_choices

Compute = Callable[..., list[Any]]
Equal = Callable[..., None]

TEXTS = ["a small library", "fonts for the console, in many sizes and encodings", "x"]
GENERAL = "config_sentence_transformers.json"
OLD, NEW = "sentence_transformers.models", "sentence_transformers"
TRANSFORMER = f"{OLD}.Transformer"
POOLING = f"{OLD}.Pooling"
DENSE = f"{OLD}.Dense"
NORMALIZE = f"{OLD}.Normalize"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """bert_mean with a Dense that no modules.json names yet."""
    path = tmp_path / "model"
    shutil.copytree(GOLDENS / "bert_mean", path, ignore=shutil.ignore_patterns("cases.json"))
    (path / "2_Dense").mkdir()
    torch.manual_seed(1)
    tensors = {"linear.weight": torch.randn(16, 32), "linear.bias": torch.randn(16)}
    save_file(tensors, path / "2_Dense" / "model.safetensors")
    write(path, "2_Dense/config.json", {"in_features": 32, "out_features": 16, "bias": True})
    return path


def write(folder: Path, file: str, content: object) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content))


def list_modules(folder: Path, *modules: tuple[str, str]) -> None:
    """modules.json with these types and folders."""
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (kind, path) in enumerate(modules)
    ]
    write(folder, "modules.json", entries)


@pytest.fixture
def equal(folder: Path, cache: Path, compute: Compute) -> Equal:
    """Compare the folder's vectors with those of sentence-transformers."""

    def check(prompt: str = "") -> None:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu")
        expected = model.encode(TEXTS, prompt=prompt or None)
        card = fresh_card(resolve(str(folder), cache_dir=cache))
        tokenizer = load_tokenizer(card)
        skipped = prompt_tokens(tokenizer, prompt) if prompt else 0
        engine = open_engine(card.checkpoint, prompt_tokens=skipped)
        got = np.array(compute(engine, [tokenizer.encode(prompt + text).ids for text in TEXTS]))
        assert got.shape == expected.shape == (len(TEXTS), card.dimensions)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)

    return check


FLAGS = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")
FLAGS += ("weightedmean_tokens", "lasttoken")


def _flags(*true: str, width: str = "word_embedding_dimension") -> dict[str, Any]:
    return {width: 32, **{f"pooling_mode_{flag}": flag in true for flag in FLAGS}}


@pytest.mark.parametrize(
    "config",
    [
        *(_flags(flag) for flag in FLAGS),
        _flags("cls_token", "weightedmean_tokens", "lasttoken"),
        _flags(*FLAGS),
        _flags(),
        {"word_embedding_dimension": 32},
        {"word_embedding_dimension": 32, "pooling_mode_cls_token": True},  # version 0.2
        _flags("weightedmean_tokens", width="embedding_dimension"),
        _flags("lasttoken") | {"include_prompt": False},
        _flags("cls_token") | {"pooling_mode": "weightedmean"},
        {"embedding_dimension": 32, "pooling_mode": "mean_sqrt_len_tokens"},
        {"embedding_dimension": 32, "pooling_mode": ["weightedmean"]},
        {"embedding_dimension": 32, "pooling_mode": ["lasttoken", "cls", "cls"]},
        {"embedding_dimension": 32, "pooling_mode": "weightedmean", "include_prompt": False},
        {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": None},
    ],
)
@pytest.mark.parametrize("prompt", ["", "represent this: "])
def test_every_spelling_of_a_pooling(
    config: dict[str, Any], prompt: str, folder: Path, equal: Equal
) -> None:
    write(folder, "1_Pooling/config.json", config)
    list_modules(folder, (TRANSFORMER, ""), (POOLING, "1_Pooling"))
    equal(prompt)


SIZES = {"in_features": 32, "out_features": 16}


@pytest.mark.parametrize(
    "config",
    [
        SIZES,
        SIZES | {"bias": True, "projection_name": "of PyLate"},
        *(
            SIZES | {"activation_function": f"torch.nn.{place}{name}"}
            for name, place in zip(
                DENSE_ACTIVATIONS,
                ["modules.linear.", "", *["modules.activation."] * len(DENSE_ACTIVATIONS)],
                strict=False,
            )
        ),
    ],
)
def test_every_spelling_of_a_dense(config: dict[str, Any], folder: Path, equal: Equal) -> None:
    write(folder, "2_Dense/config.json", config)
    list_modules(folder, (TRANSFORMER, ""), (POOLING, "1_Pooling"), (DENSE, "2_Dense"))
    equal()


def test_a_dense_without_bias(folder: Path, equal: Equal) -> None:
    save_file({"linear.weight": torch.randn(16, 32)}, folder / "2_Dense" / "model.safetensors")
    write(folder, "2_Dense/config.json", SIZES | {"bias": False})
    list_modules(folder, (TRANSFORMER, ""), (POOLING, "1_Pooling"), (DENSE, "2_Dense"))
    equal()


def test_a_default_that_was_read_otherwise_before_changes_the_space(
    folder: Path, cache: Path
) -> None:
    """A Dense that names no activation had none in version 0.1.0."""
    list_modules(folder, (TRANSFORMER, ""), (POOLING, "1_Pooling"), (DENSE, "2_Dense"))
    identity = fresh_card(resolve(str(folder), cache_dir=cache)).identity()
    assert identity["default_activations"] == ["2_Dense"]
    config = SIZES | {"activation_function": "torch.nn.Tanh"}
    write(folder, "2_Dense/config.json", config)
    assert "default_activations" not in fresh_card(resolve(str(folder), cache_dir=cache)).identity()


@pytest.mark.parametrize(
    "kinds",
    [
        (TRANSFORMER, POOLING, DENSE, f"{OLD}.Dropout", NORMALIZE),
        (
            f"{NEW}.models.Transformer.Transformer",
            f"{NEW}.models.Pooling.Pooling",
            f"{NEW}.models.Dense.Dense",
            f"{NEW}.models.Dropout.Dropout",
            f"{NEW}.models.Normalize.Normalize",
        ),
        (
            f"{NEW}.base.modules.transformer.Transformer",
            f"{NEW}.sentence_transformer.modules.pooling.Pooling",
            f"{NEW}.base.modules.dense.Dense",
            f"{NEW}.sentence_transformer.modules.dropout.Dropout",
            f"{NEW}.base.modules.normalize.Normalize",
        ),
    ],
)
def test_every_spelling_of_a_module_type(
    kinds: tuple[str, ...], folder: Path, equal: Equal
) -> None:
    write(folder, "3_Dropout/config.json", {"dropout": 0.5})
    paths = ("", "1_Pooling", "2_Dense", "3_Dropout", "4_Normalize")
    list_modules(folder, *zip(kinds, paths, strict=True))
    equal()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (GENERAL, {"similarity_fn_name": "dot", "model_type": "SentenceTransformer"}),
        (GENERAL, {"truncate_dim": 8}),
        (GENERAL, {"truncate_dim": 32}),
        (GENERAL, {"truncate_dim": 999}),
        (GENERAL, {"truncate_dim": None, "prompts": {}, "default_prompt_name": None}),
        ("sentence_roberta_config.json", {"max_seq_length": 4}),
        ("sentence_bert_config.json", {"max_seq_length": 4, "unpad_inputs": False}),
        (
            "sentence_bert_config.json",
            {
                "transformer_task": "feature-extraction",
                "modality_config": {
                    "text": {"method": "forward", "method_output_name": "last_hidden_state"}
                },
                "module_output_name": "token_embeddings",
                "query_length": 3,
                "document_length": 4,
            },
        ),
        (
            "sentence_bert_config.json",
            {"model_args": {"add_pooling_layer": False}, "tokenizer_args": {"use_fast": True}},
        ),
    ],
)
def test_settings_of_sentence_transformers(
    file: str, content: dict[str, Any], folder: Path, cache: Path, equal: Equal
) -> None:
    (folder / "sentence_bert_config.json").unlink()
    write(folder, file, content)
    limit = content.get("max_seq_length")
    if limit:
        card = fresh_card(resolve(str(folder), cache_dir=cache))
        assert card.max_length == limit
    else:
        equal()


def test_what_sentence_transformers_saves_today(folder: Path, equal: Equal) -> None:
    from sentence_transformers import SentenceTransformer

    list_modules(folder, (TRANSFORMER, ""), (POOLING, "1_Pooling"), (DENSE, "2_Dense"))
    SentenceTransformer(str(folder), device="cpu").save(str(folder))
    equal()


def test_a_truncated_vector_is_not_made_a_unit_vector_again(folder: Path, cache: Path) -> None:
    write(folder, GENERAL, {"truncate_dim": 8})
    card = fresh_card(resolve(str(folder), cache_dir=cache))
    assert (card.dimensions, card.gives_unit_length(())) == (8, False)
    assert card.modules.step_names == ["Normalize", "Truncate"]


@pytest.mark.parametrize(
    ("modules", "pooling", "reason"),
    [
        ([], "mean", "has no modules.json"),
        ([(TRANSFORMER, "")], "mean", "modules.json names no Pooling"),
        ([(TRANSFORMER, ""), (POOLING, "1_Pooling")], None, ""),
    ],
)
def test_a_pooling_that_no_file_states_is_a_choice(
    modules: list[tuple[str, str]],
    pooling: str | None,
    reason: str,
    folder: Path,
    cache: Path,
) -> None:
    (folder / "modules.json").unlink()
    if modules:
        list_modules(folder, *modules)
    card = fresh_card(resolve(str(folder), cache_dir=cache))
    choice = model_choices(card).get("pooling")
    assert (choice and choice.value) == pooling
    assert reason in (choice.reason if choice else "")


def test_without_modules_json_the_vectors_are_those_of_sentence_transformers(
    folder: Path, equal: Equal
) -> None:
    (folder / "modules.json").unlink()
    equal()


def _settings(file: str, **content: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder, file, content)


def _listed(*kinds: str) -> Callable[[Path], None]:
    """A modules.json with these kinds, each in the golden's folder of that kind."""
    places = {"Pooling": "1_Pooling", "Dense": "2_Dense"}
    modules = [(f"{OLD}.{kind}", places.get(kind, "")) for kind in kinds]
    return lambda folder: list_modules(folder, *modules)


def _normalize(**settings: Any) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        write(folder, "2_Normalize/config.json", settings)

    return harm


BERT = "sentence_bert_config.json"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        *(
            (_listed("Transformer", kind), f"the module {kind}, which bei-jobs does not compute")
            for kind in ("CNN", "LSTM", "WeightedLayerPooling", "WordWeights", "Asym", "Router")
        ),
        *(
            (_listed(kind, "Pooling"), f"the module {kind}, which bei-jobs does not compute")
            for kind in ("WordEmbeddings", "BoW", "CLIPModel")
        ),
        (_listed("Transformer", "Normalize", "Pooling"), "the module Pooling in place 3"),
        (_listed("Transformer", "Pooling", "Dense", "Pooling"), "the module Pooling in place 4"),
        (_listed("Transformer", "Transformer"), "the module Transformer in place 2"),
        (_normalize(module_input_name="token_embeddings"), "module_input_name = 'token_embeddi"),
        (_settings("1_Pooling/config.json", pooling_mode=[]), r"the pooling \[\]"),
        (_settings("1_Pooling/config.json", pooling_mode="Mean"), "the pooling 'Mean'"),
        (_settings("1_Pooling/config.json", pooling_mode_median=True), "sets pooling_mode_median"),
        (_settings(BERT, transformer_task="fill-mask"), "transformer_task = 'fill-mask'"),
        (_settings(BERT, module_output_name="sentence_embedding"), "module_output_name = 'sent"),
        (_settings(BERT, modality_config={"image": {}}), "modality_config = "),
        (_settings(BERT, processing_kwargs={"text": {"max_length": 3}}), "processing_kwargs = "),
        (_settings(BERT, config_args={"is_causal": True}), r"config_args\.is_causal = True"),
        (_settings(BERT, tokenizer_name_or_path="x/y"), "tokenizer_name_or_path = 'x/y'"),
        (_settings(BERT, something_new=1), "something_new = 1"),
        (_settings(GENERAL, model_type="SparseEncoder"), "this is a 'SparseEncoder'"),
        (_settings(GENERAL, model_type="MultiVectorEncoder"), "this is a 'MultiVectorEncoder'"),
        (_settings(GENERAL, truncate_dim=0), "truncate_dim = 0"),
        (_settings(GENERAL, truncate_dim="8"), "truncate_dim = '8'"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    harm: Callable[[Path], None], message: str, folder: Path, cache: Path
) -> None:
    harm(folder)
    with pytest.raises(CheckpointError, match=message):
        fresh_card(resolve(str(folder), cache_dir=cache))


@pytest.mark.parametrize(("name", "included"), [("instructor-large", False), ("other", True)])
def test_the_prompt_of_an_instructor_is_left_out_of_the_pooling(
    name: str, included: bool, folder: Path, cache: Path
) -> None:
    """As sentence-transformers does by name, where no file says so."""
    checkpoint = replace(resolve(str(folder), cache_dir=cache), name=f"hkunlp/{name}")
    assert fresh_card(checkpoint).modules.include_prompt is included

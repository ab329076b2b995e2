"""Module files of sentence-transformers: parsed, computed, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_encoder import fresh_card, open_engine

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.pooling_config import POOLING_MODES
from pipeline.encoder.checkpoint.sentence_modules import read_modules
from pipeline.encoder.model.heads import pool
from pipeline.encoder.model.packed_batch import PackedBatch
from pipeline.encoder.tokenizer import load_tokenizer, prompt_tokens
from pipeline.errors import CheckpointError, UsageError

Bent = Callable[..., Checkpoint]
Compute = Callable[..., list[Any]]

TEXTS = ["a small library", "fonts for the console, in many sizes and encodings", "x"]


def _save(model: Any, path: Path) -> Path:
    model.save(str(path))
    return path


def _sentence_transformer(golden: Path, *steps: Any) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    return SentenceTransformer(modules=[Transformer(str(golden)), *steps], device="cpu")


def _vectors(path: Path, cache: Path, compute: Compute, **options: Any) -> Any:
    checkpoint = resolve(str(path), cache_dir=cache)
    tokenizer = load_tokenizer(fresh_card(checkpoint))
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    return np.array(compute(open_engine(checkpoint, **options), ids))


def _steps() -> dict[str, list[Any]]:
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    torch.manual_seed(1)
    tanh = Dense(32, 48)
    plain = Dense(32, 24, bias=False, activation_function=torch.nn.Identity())
    residual = Dense(32, 16, activation_function=torch.nn.GELU(), use_residual=True)
    same = Dense(32, 32, use_residual=True)
    singles: dict[str, list[Any]] = {mode: [Pooling(32, mode)] for mode in POOLING_MODES}
    return singles | {
        "cls and mean": [Pooling(32, ("cls", "mean"))],
        "dense": [Pooling(32, "mean"), tanh, Normalize()],
        "dense without bias": [Pooling(32, "cls"), plain],
        "dense with a residual": [Pooling(32, "mean"), residual],
        "dense with a plain residual": [Pooling(32, "mean"), same],
        "layer norm": [Pooling(32, "mean"), LayerNorm(32), Normalize()],
        "normalise in the middle": [Pooling(32, "mean"), Normalize(), tanh],
    }


@pytest.mark.parametrize(
    "name",
    [
        *POOLING_MODES,
        "cls and mean",
        "dense",
        "dense without bias",
        "dense with a residual",
        "dense with a plain residual",
        "layer norm",
        "normalise in the middle",
    ],
)
def test_module_files_give_the_vectors_of_sentence_transformers(
    name: str, tmp_path: Path, cache: Path, compute: Compute, golden: Callable[[str], Checkpoint]
) -> None:
    model = _sentence_transformer(golden("bert_mean").path, *_steps()[name])
    expected = model.encode(TEXTS)
    got = _vectors(_save(model, tmp_path / "saved"), cache, compute)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "weightedmean", "cls", "max", "lasttoken"])
def test_a_prompt_is_left_out_of_pooling_where_the_files_say_so(
    mode: str, tmp_path: Path, cache: Path, compute: Compute, golden: Callable[[str], Checkpoint]
) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    pooling = Pooling(32, mode, include_prompt=False)
    model = _sentence_transformer(golden("bert_mean").path, pooling)
    prompt = "represent this: "
    expected = model.encode(TEXTS, prompt=prompt)
    checkpoint = resolve(str(_save(model, tmp_path / "saved")), cache_dir=cache)
    tokenizer = load_tokenizer(fresh_card(checkpoint))
    engine = open_engine(checkpoint, prompt_tokens=prompt_tokens(tokenizer, prompt))
    got = compute(engine, [tokenizer.encode(prompt + text).ids for text in TEXTS])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dimensions", [1, 20, 32])
def test_dimensions_truncate_then_renormalise(
    dimensions: int, cache: Path, compute: Compute, golden: Callable[[str], Checkpoint]
) -> None:
    path = golden("bert_mean").path
    full = _vectors(path, cache, compute, normalize=False)[:, :dimensions]
    expected = full / np.linalg.norm(full, axis=1, keepdims=True)
    got = _vectors(path, cache, compute, dimensions=dimensions)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_nomic_norms_its_layer_before_it_truncates(
    cache: Path, compute: Compute, golden: Callable[[str], Checkpoint]
) -> None:
    path = golden("nomic_old_config").path
    full = torch.from_numpy(_vectors(path, cache, compute))
    normed = torch.nn.functional.layer_norm(full, (32,))[:, :16]
    expected = torch.nn.functional.normalize(normed).numpy()
    np.testing.assert_allclose(_vectors(path, cache, compute, dimensions=16), expected, atol=1e-6)


@pytest.mark.parametrize("dimensions", [0, 33])
def test_dimensions_that_the_model_does_not_have_are_refused(
    dimensions: int, golden: Callable[[str], Checkpoint]
) -> None:
    with pytest.raises(UsageError, match="vectors have 32"):
        open_engine(golden("bert_mean"), dimensions=dimensions)


def test_normalize_can_be_asked_for_and_refused(
    cache: Path, compute: Compute, golden: Callable[[str], Checkpoint]
) -> None:
    dot = golden("mpnet_cls_dot").path
    raw = np.linalg.norm(_vectors(dot, cache, compute), axis=1)
    unit = np.linalg.norm(_vectors(dot, cache, compute, normalize=True), axis=1)
    assert (np.abs(raw - 1) > 0.1).all()
    np.testing.assert_allclose(unit, 1, atol=1e-6)
    cosine = golden("bert_mean").path
    raw = np.linalg.norm(_vectors(cosine, cache, compute, normalize=False), axis=1)
    assert (np.abs(raw - 1) > 0.1).all()


def test_without_module_files_tokens_are_averaged(bent: Bent) -> None:
    checkpoint = bent("bert_mean")
    (checkpoint.path / "modules.json").unlink()
    modules = read_modules(CheckpointFiles(checkpoint.path), checkpoint.config)
    assert modules.pooling == ("mean",)
    assert not modules.normalize


def test_without_module_files_a_causal_language_model_gives_its_last_token(bent: Bent) -> None:
    checkpoint = bent("qwen3_causal_last", architectures=["Qwen3ForCausalLM"])
    (checkpoint.path / "modules.json").unlink()
    assert read_modules(CheckpointFiles(checkpoint.path), checkpoint.config).pooling == (
        "lasttoken",
    )


def test_prompts_lengths_and_the_default_prompt_are_read(golden: Any) -> None:
    gemma = read_modules(golden("embeddinggemma").files)
    assert gemma.prompts["query"] == "task: search result | query: "
    assert gemma.default_prompt_name is None
    assert gemma.max_seq_length == 900


def _modules(path: Path, *kinds: str) -> Path:
    entries = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": kind}
        for i, kind in enumerate(("sentence_transformers.models.Transformer", *kinds))
    ]
    (path / "modules.json").write_text(json.dumps(entries))
    return path


def test_an_unknown_module_is_named(bent: Bent) -> None:
    path = _modules(bent("bert_mean").path, "sentence_transformers.models.WordWeights")
    with pytest.raises(CheckpointError, match="the module WordWeights"):
        read_modules(CheckpointFiles(path))


def test_a_module_of_the_checkpoints_own_is_never_run(bent: Bent) -> None:
    path = _modules(bent("bert_mean").path, "custom_st.Transformer")
    with pytest.raises(CheckpointError, match=r"'custom_st\.Transformer': code of"):
        read_modules(CheckpointFiles(path))


def test_a_module_folder_outside_the_checkpoint_is_refused(bent: Bent) -> None:
    path = bent("bert_mean").path
    entry = {"type": "sentence_transformers.models.Dense", "path": "../elsewhere"}
    (path / "modules.json").write_text(json.dumps([entry]))
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        read_modules(CheckpointFiles(path))


def test_an_activation_that_is_not_torchs_is_refused(bent: Bent) -> None:
    path = bent("embeddinggemma").path
    file = path / "2_Dense" / "config.json"
    config = json.loads(file.read_text()) | {"activation_function": "evil.Activation"}
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"'evil\.Activation'"):
        read_modules(CheckpointFiles(path))


@pytest.mark.parametrize(
    ("name", "folder", "kind"),
    [("bert_mean", "1_Pooling", "Pooling"), ("embeddinggemma", "2_Dense", "Dense")],
)
def test_a_module_without_its_config_is_an_incomplete_download(
    bent: Bent, name: str, folder: str, kind: str
) -> None:
    path = bent(name).path
    (path / folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"a {kind} in '{folder}', which holds no") as caught:
        read_modules(CheckpointFiles(path))
    assert "incomplete" in caught.value.hint


def test_a_pooling_without_a_folder_is_not_taken_for_the_mean(bent: Bent) -> None:
    path = _modules(bent("bert_mean").path, "sentence_transformers.models.Pooling")
    entries = json.loads((path / "modules.json").read_text())
    del entries[1]["path"]
    (path / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        read_modules(CheckpointFiles(path))


def test_a_null_prompt_is_empty(bent: Bent) -> None:
    path = bent("embeddinggemma").path
    content = {"prompts": {"document": None, "query": "q: "}, "default_prompt_name": None}
    (path / "config_sentence_transformers.json").write_text(json.dumps(content))
    assert read_modules(CheckpointFiles(path)).prompts == {"document": "", "query": "q: "}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("sentence_bert_config.json", {"max_seq_length": "abc"}, "max_seq_length = 'abc'"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length = 0"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, r"prompts = \['a'\]"),
        ("config_sentence_transformers.json", {"default_prompt_name": 3}, "prompt_name = 3"),
        ("modules.json", [{"type": None, "path": ["x"]}], r"modules\.json"),
        ("modules.json", [], "no list of modules"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "the pooling 3"),
        ("2_Dense/config.json", {"in_features": None, "out_features": 2}, "in_features"),
    ],
)
def test_a_module_file_with_values_of_another_kind_is_refused_by_name(
    bent: Bent, file: str, content: object, message: str
) -> None:
    path = bent("embeddinggemma").path
    (path / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_modules(CheckpointFiles(path))
    assert file.rpartition("/")[2] in caught.value.message


def test_a_module_config_that_lacks_a_size_names_it(bent: Bent) -> None:
    path = bent("embeddinggemma").path
    (path / "2_Dense" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="lacks 'in_features', which a Dense module needs"):
        read_modules(CheckpointFiles(path))


def test_an_unknown_pooling_is_named(bent: Bent) -> None:
    path = bent("bert_mean").path
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "median"}))
    with pytest.raises(CheckpointError, match="the pooling 'median'"):
        read_modules(CheckpointFiles(path))


def test_a_dense_without_the_bias_it_states_is_refused(bent: Bent) -> None:
    checkpoint = bent("embeddinggemma")
    file = checkpoint.path / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bias": True}))
    with pytest.raises(CheckpointError, match=r"requires linear\.bias \[\d+\], linear\.weight"):
        open_engine(checkpoint)


def test_a_dense_whose_weights_have_another_shape_is_refused(bent: Bent) -> None:
    checkpoint = bent("embeddinggemma")
    file = checkpoint.path / "3_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"out_features": 7}))
    with pytest.raises(CheckpointError, match=r"requires linear\.weight \[7, "):
        open_engine(checkpoint)


def test_modules_that_do_not_fit_each_other_are_refused(bent: Bent) -> None:
    checkpoint = bent("embeddinggemma")
    file = checkpoint.path / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_features": 31}))
    with pytest.raises(CheckpointError, match=r"2_Dense takes .* of 31 dimensions, but gets 32"):
        fresh_card(checkpoint)


def test_an_encoder_in_a_folder_of_its_own_is_found(bent: Bent, cache: Path) -> None:
    path = bent("bert_mean").path
    inner = path / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (path / name).rename(inner / name)
    entries = json.loads((path / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (path / "modules.json").write_text(json.dumps(entries))
    assert open_engine(resolve(str(path), cache_dir=cache)).output_size == 32


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_sequence_without_tokens_pools_to_nan_and_its_neighbours_do_not(mode: Any) -> None:
    offsets = [0, 0, 2, 2, 3, 3]
    packed = PackedBatch(
        torch.tensor([1, 2, 3]), torch.tensor(offsets, dtype=torch.int32), offsets, 2, None
    )
    rows = pool(torch.ones(3, 4), packed, mode)
    assert torch.isnan(rows).all(dim=1).tolist() == [True, False, True, False, True]

"""Settings and tensors of each family: the traps of published checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_encoder import open_engine, recognised
from safetensors.torch import load_file, save_file

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.errors import CheckpointError

Golden = Callable[[str], Checkpoint]
Bent = Callable[..., Checkpoint]
Compute = Callable[..., list[Any]]


def _rewrite(checkpoint: Checkpoint, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = checkpoint.path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def _differ(one: list[Any], other: list[Any]) -> bool:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)) > 1e-3


@pytest.fixture
def vectors(compute: Compute, sentences: Callable[[int, int], list[list[int]]]) -> Any:
    """The vectors that a checkpoint gives for a few texts of up to 90 tokens."""
    return lambda checkpoint: compute(open_engine(checkpoint), sentences(5, 90))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("bert_mean", "bert"),
        ("roberta_mean", "roberta"),
        ("e5_xlmr", "xlm-roberta"),
        ("mpnet_mean", "mpnet"),
        ("jina_en", "jina_bert"),
        ("jina_code", "jina_bert"),
        ("nomic_old_config", "nomic_bert"),
        ("gte_new_ntk", "gte"),
        ("modernbert_cls", "modernbert"),
        ("embeddinggemma", "gemma3"),
        ("gte_qwen2", "qwen2"),
        ("voyage_nano", "qwen3"),
        ("nemotron_llama", "llama"),
    ],
)
def test_a_published_layout_is_recognised(name: str, family: str, golden: Golden) -> None:
    encoder = recognised(golden(name))
    assert encoder is not None
    assert encoder.family == family


def test_an_unknown_model_type_is_left_to_the_fallback(bent: Bent) -> None:
    assert recognised(bent("bert_mean", model_type="distilbert")) is None


def test_a_missing_and_a_spare_tensor_are_both_listed(bent: Bent) -> None:
    checkpoint = bent("bert_mean")

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["encoder.layer.1.output.dense.kernel"] = tensors.pop(
            "encoder.layer.1.output.dense.weight"
        )

    _rewrite(checkpoint, rename)
    with pytest.raises(CheckpointError) as caught:
        recognised(checkpoint)
    assert "missing: encoder.layer.1.output.dense.weight;" in caught.value.message
    assert "left over: encoder.layer.1.output.dense.kernel" in caught.value.message


def test_a_tensor_that_is_only_missing_is_an_error_too(bent: Bent) -> None:
    checkpoint = bent("bert_mean")
    _rewrite(checkpoint, lambda t: t.pop("encoder.layer.1.output.dense.bias"))
    with pytest.raises(CheckpointError, match=r"missing: encoder\.layer\.1\.output\.dense\.bias$"):
        recognised(checkpoint)


def test_a_layer_more_than_the_config_says_is_left_over_not_dropped(bent: Bent) -> None:
    with pytest.raises(CheckpointError, match=r"left over: encoder\.layer\.2\."):
        recognised(bent("bert_mean", num_hidden_layers=2))


def test_a_size_that_the_weights_contradict_is_refused(bent: Bent) -> None:
    with pytest.raises(CheckpointError, match=r"\[256, 32\] where \[512, 32\] is expected"):
        recognised(bent("bert_mean", max_position_embeddings=512))


def test_a_config_that_lacks_a_size_names_it(bent: Bent) -> None:
    with pytest.raises(CheckpointError, match="lacks 'hidden_size', which a bert needs"):
        recognised(bent("bert_mean", hidden_size=None))


@pytest.mark.parametrize("name", ["e5_xlmr", "roberta_mean"])
def test_padding_that_leaves_no_positions_is_refused(name: str, bent: Bent) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json .*250001 \(pad_token_id\)"):
        recognised(bent(name, pad_token_id=250_001))


def test_a_pooling_that_modernbert_lacks_is_refused_where_it_is_read(bent: Bent) -> None:
    with pytest.raises(CheckpointError, match="classifier_pooling = 'attention'"):
        recognised(bent("modernbert_reranker", classifier_pooling="attention"))


def test_an_unused_pooler_and_position_ids_are_no_error(golden: Golden) -> None:
    assert recognised(golden("bert_mean")) is not None


def test_a_masked_language_model_head_is_no_error(bent: Bent, vectors: Any) -> None:
    checkpoint = bent("modernbert_cls", architectures=["ModernBertForMaskedLM"])
    expected = vectors(checkpoint)

    def add_head(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"model.{name}"] = tensors.pop(name)
        tensors["head.dense.weight"] = torch.zeros(32, 32)
        tensors["head.norm.weight"] = torch.zeros(32)
        tensors["decoder.bias"] = torch.zeros(400)

    _rewrite(checkpoint, add_head)
    np.testing.assert_array_equal(vectors(checkpoint), expected)


def test_a_jina_checkpoint_is_never_taken_for_plain_bert(bent: Bent) -> None:
    # transformers loads this as BertModel with random MLPs and only logs it.
    checkpoint = bent("jina_en", position_embedding_type="absolute")
    with pytest.raises(CheckpointError, match="position_embedding_type = 'absolute'"):
        recognised(checkpoint)


def test_the_layout_of_jina_v3_names_what_works_instead(bent: Bent) -> None:
    checkpoint = bent("e5_xlmr")
    _rewrite(checkpoint, lambda t: t.update({"encoder.layers.0.mixer.Wqkv.weight": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="code of its own") as caught:
        recognised(checkpoint)
    assert "jina-embeddings-v2" in caught.value.hint


def test_is_causal_of_the_config_changes_the_vectors(bent: Bent, vectors: Any) -> None:
    both_ways = vectors(bent("gte_qwen2"))
    assert _differ(both_ways, vectors(bent("gte_qwen2", is_causal=True)))


def test_a_gte_qwen2_copy_without_is_causal_asks_for_it(bent: Bent) -> None:
    with pytest.raises(CheckpointError, match="lacks is_causal") as caught:
        recognised(bent("gte_qwen2", is_causal=None))
    assert '"is_causal": false' in caught.value.hint


def test_a_plain_qwen2_without_custom_code_is_causal_without_asking(bent: Bent) -> None:
    encoder = recognised(bent("gte_qwen2", is_causal=None, auto_map=None))
    assert encoder is not None
    assert encoder.causal


def test_voyages_projection_is_applied_and_never_dropped(golden: Golden, bent: Bent) -> None:
    engine = open_engine(golden("voyage_nano"))
    assert engine.output_size == 64
    checkpoint = bent("voyage_nano")
    _rewrite(checkpoint, lambda t: t.update({"linear.bias": torch.zeros(64)}))
    with pytest.raises(CheckpointError, match=r"left over: linear\.bias"):
        recognised(checkpoint)


def test_voyage_without_its_projection_is_no_smaller_embedder(bent: Bent) -> None:
    checkpoint = bent("voyage_nano")
    _rewrite(checkpoint, lambda t: t.pop("linear.weight"))
    with pytest.raises(CheckpointError, match=r"missing: linear\.weight$"):
        recognised(checkpoint)


def test_ntk_rotary_of_new_equals_the_linear_form_it_was_converted_to(
    bent: Bent, vectors: Any
) -> None:
    published = vectors(bent("gte_new_ntk"))
    factor = 2.0 ** (2 / 8)  # head size 8
    parameters = {"rope_type": "linear", "factor": factor, "rope_theta": 320_000.0}
    converted = vectors(
        bent("gte_new_ntk", model_type="gte", rope_scaling=None, rope_parameters=parameters)
    )
    np.testing.assert_allclose(converted, published, rtol=0, atol=1e-6)
    assert _differ(published, vectors(bent("gte_new_ntk", rope_scaling=None)))


def test_an_unknown_rotary_scaling_is_left_to_the_fallback(bent: Bent) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    assert recognised(bent("qwen3_causal_last", rope_scaling=scaling)) is None


def test_llama3_rotary_scaling_changes_the_vectors(bent: Bent, vectors: Any) -> None:
    scaled = vectors(bent("nemotron_llama"))
    assert _differ(scaled, vectors(bent("nemotron_llama", rope_scaling=None)))


def test_gte_without_token_types_needs_no_table(bent: Bent, vectors: Any) -> None:
    checkpoint = bent("gte_new_ntk", type_vocab_size=0)
    _rewrite(checkpoint, lambda t: t.pop("embeddings.token_type_embeddings.weight"))
    assert all(np.isfinite(v).all() for v in vectors(checkpoint))


def test_nomic_in_its_converted_config_gives_the_same_vectors(bent: Bent, vectors: Any) -> None:
    converted = bent(
        "nomic_old_config",
        n_embd=None,
        n_head=None,
        n_layer=None,
        n_inner=None,
        activation_function=None,
        rotary_emb_base=None,
        layer_norm_epsilon=None,
        hidden_size=32,
        num_attention_heads=4,
        num_hidden_layers=3,
        intermediate_size=64,
        hidden_act="silu",
        layer_norm_eps=1e-12,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )
    np.testing.assert_array_equal(vectors(converted), vectors(bent("nomic_old_config")))


def test_a_nomic_setting_that_nothing_computes_is_refused(bent: Bent) -> None:
    with pytest.raises(CheckpointError, match="rotary_scaling_factor = 2"):
        recognised(bent("nomic_old_config", rotary_scaling_factor=2))


def test_modernbert_in_its_new_config_keys_gives_the_same_vectors(bent: Bent, vectors: Any) -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    converted = bent(
        "modernbert_cls",
        global_attn_every_n_layers=None,
        global_rope_theta=None,
        local_rope_theta=None,
        layer_types=kinds,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 160_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    )
    np.testing.assert_array_equal(vectors(converted), vectors(bent("modernbert_cls")))


def test_shards_with_an_index_give_the_same_vectors(bent: Bent, vectors: Any, cache: Path) -> None:
    checkpoint = bent("bert_mean")
    expected = vectors(checkpoint)
    tensors = load_file(checkpoint.path / "model.safetensors")
    (checkpoint.path / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[:20],
        "model-00002-of-00002.safetensors": names[20:],
    }
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, checkpoint.path / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (checkpoint.path / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = resolve(str(checkpoint.path), cache_dir=cache)
    np.testing.assert_array_equal(vectors(sharded), expected)
    assert sharded.sha256 != checkpoint.sha256
    next(checkpoint.path.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="lacks model-00002"):
        resolve(str(checkpoint.path), cache_dir=cache)


def test_an_index_that_leaves_its_folder_is_refused(bent: Bent, cache: Path) -> None:
    checkpoint = bent("bert_mean")
    shutil.move(checkpoint.path / "model.safetensors", checkpoint.path.parent / "elsewhere")
    index = {"weight_map": {"a": "../elsewhere"}}
    (checkpoint.path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside its own folder"):
        resolve(str(checkpoint.path), cache_dir=cache)

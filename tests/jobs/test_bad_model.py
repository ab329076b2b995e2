"""Checkpoints that are damaged, edited or put together wrongly: one error, never a stack trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import Bei
from corpora import GOLDENS
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a golden with keys of one of its JSON files changed."""

    def copy(name: str, file: str = "config.json", **changes: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(GOLDENS / name, folder)
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **changes}))
        return folder

    return copy


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> Path:
    """Change the tensors of a checkpoint in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def message(told: Any) -> str:
    """What an error said, in the one line that it has, before its hint."""
    assert told.code == 1, told
    return str(next(line for line in told.screen if line.startswith("bei-jobs: ")))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("bert_mean", {"num_hidden_layers": "three"}, "num_hidden_layers is 'three'"),
        ("bert_mean", {"hidden_size": None}, "hidden_size is None"),
        ("bert_mean", {"num_attention_heads": 0}, "num_attention_heads is 0"),
        ("bert_mean", {"num_attention_heads": 64}, "64 heads in a hidden size of 32"),
        ("bert_mean", {"layer_norm_eps": []}, "float() argument"),
        ("bert_mean", {"hidden_act": ["gelu"]}, "the activation ['gelu']"),
        ("qwen3_causal_last", {"num_key_value_heads": 3}, "not a multiple of 3 key heads"),
        ("qwen3_causal_last", {"rope_scaling": "x"}, "rope_scaling is 'x'"),
        ("qwen3_causal_last", {"rope_scaling": {"type": "linear"}}, "lacks 'factor'"),
        ("gte_new_ntk", {"rope_scaling": {"type": "ntk", "factor": -1}}, "rope_scaling is -1.0"),
        ("embeddinggemma", {"query_pre_attn_scalar": -5}, "query_pre_attn_scalar is -5"),
        ("embeddinggemma", {"layer_types": ["full_attention"]}, "of 1 layers where there are 6"),
        ("modernbert_cls", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0"),
        ("voyage_nano", {"num_labels": "many"}, "num_labels is 'many'"),
        ("ner_bert", {"id2label": {"x": "O"}}, "id2label keys x"),
        ("ner_bert", {"id2label": ["O"]}, "id2label = ['O']"),
        ("ner_bert", {"id2label": None, "num_labels": "two"}, "num_labels = 'two'"),
        ("bert_mean", {"model_type": "distilbert", "dim": "x"}, "field 'dim'"),
        (
            "bert_mean",
            {"model_type": "distilbert", "num_attention_heads": 0},
            "config of a distilbert",
        ),
    ],
)
def test_a_config_of_strange_values_is_named_with_the_reason(
    bei: Bei, broken: Callable[..., Path], name: str, changes: dict[str, Any], reason: str
) -> None:
    told = message(bei("models", broken(name, **changes)))
    assert "config.json" in told
    assert reason in told


@pytest.mark.parametrize(
    ("name", "file", "changes"),
    [
        ("bert_mean", "sentence_bert_config.json", {"max_seq_length": "abc"}),
        ("embeddinggemma", "config_sentence_transformers.json", {"prompts": ["a"]}),
        ("langid_xlmr", "tokenizer_config.json", {"model_max_length": "long"}),
    ],
)
def test_another_file_of_strange_values_is_named(
    bei: Bei, broken: Callable[..., Path], name: str, file: str, changes: dict[str, Any]
) -> None:
    assert file in message(bei("models", broken(name, file, **changes)))


@pytest.mark.parametrize(
    "content",
    ["garbage", "[]", "{}", "3", '{"weight_map": ["x"]}', '{"weight_map": {"a": 3}}', "\xff"],
)
def test_an_index_of_any_shape_is_an_error_that_names_it(
    bei: Bei, broken: Callable[..., Path], content: str
) -> None:
    folder = broken("bert_mean")
    (folder / "model.safetensors").unlink()  # which would be read instead
    (folder / "model.safetensors.index.json").write_bytes(content.encode("latin-1"))
    assert "index" in message(bei("models", folder))


@pytest.mark.parametrize("header", ["[]", "3", '{"a": []}', '{"a": {"dtype": "F32"}}'])
def test_weights_with_a_strange_header_are_no_safetensors(
    bei: Bei, broken: Callable[..., Path], header: str
) -> None:
    folder = broken("bert_mean")
    content = len(header).to_bytes(8, "little") + header.encode()
    (folder / "model.safetensors").write_bytes(content)
    assert "not a safetensors file" in message(bei("models", folder))


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "expected"),
    [
        ("bert_mean", "encoder.layer.1.output.dense.weight", (32, 2), "[32, 64]"),
        ("bert_mean", "encoder.layer.2.attention.self.key.bias", (31,), "[32]"),
        ("bert_mean", "embeddings.LayerNorm.weight", (16,), "[32]"),
        ("mpnet_mean", "encoder.relative_attention_bias.weight", (32, 3), "[32, 4]"),
        ("jina_code", "encoder.layer.0.attention.self.layer_norm_q.weight", (8,), "[32]"),
        ("jina_code", "encoder.layer.0.layer_norm_1.bias", (1,), "[32]"),
        ("qwen3_causal_last", "layers.1.self_attn.q_norm.weight", (64,), "[16]"),
        ("embeddinggemma", "layers.5.post_feedforward_layernorm.weight", (1,), "[32]"),
        ("voyage_nano", "linear.weight", (63, 32), "[64, 32]"),
        ("gte_qwen2", "layers.0.self_attn.v_proj.bias", (32,), "[16]"),
        ("bge_reranker_xlmr", "classifier.out_proj.weight", (1, 31), "[1, 32]"),
        ("modernbert_reranker", "head.dense.weight", (32, 1), "[32, 32]"),
        ("ner_bert", "classifier.bias", (8,), "[9]"),
    ],
)
def test_a_tensor_of_another_shape_is_named_with_both_shapes(
    bei: Bei,
    broken: Callable[..., Path],
    name: str,
    tensor: str,
    shape: tuple[int, ...],
    expected: str,
) -> None:
    folder = broken(name)

    def reshape(tensors: Tensors) -> None:
        (found,) = [key for key in tensors if key.endswith(tensor)]
        tensors[found] = np.zeros(shape, np.float32)

    told = message(bei("models", rewrite(folder, reshape)))
    assert f"{tensor} {list(shape)}" in told
    assert expected in told


def test_query_and_key_rows_that_only_add_up_are_refused(
    bei: Bei, broken: Callable[..., Path]
) -> None:
    def swap(tensors: Tensors) -> None:
        for part, rows in (("q_proj", 32), ("k_proj", 64)):  # of 64 and 32
            (found,) = [key for key in tensors if key.endswith(f"layers.0.self_attn.{part}.weight")]
            tensors[found] = np.zeros((rows, 32), np.float32)

    told = message(bei("models", rewrite(broken("qwen3_causal_last"), swap)))
    assert "[64, 32] + [32, 32] + [32, 32] is expected" in told


def test_weights_of_integers_are_refused(bei: Bei, broken: Callable[..., Path]) -> None:
    def quantize(tensors: Tensors) -> None:
        name = "encoder.layer.0.output.dense.weight"
        tensors[name] = tensors[name].astype(np.int8)

    told = bei("models", rewrite(broken("bert_mean"), quantize))
    assert "encoder.layer.0.output.dense.weight I8" in message(told)
    assert "quantized" in told.screen[1]


@pytest.mark.parametrize("name", ["bert_mean", "e5_xlmr"])
def test_a_tokenizer_without_its_unknown_token_is_refused_when_it_is_loaded(
    bei: Bei, broken: Callable[..., Path], name: str
) -> None:
    # Of a class that takes the name from tokenizer.json, where BERT's own knows it itself.
    folder = broken(name, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    content = json.loads((folder / "tokenizer.json").read_text())
    model = content["model"]
    if model["type"] == "Unigram":
        model["unk_id"] = None
    else:
        model["unk_token"] = "[NOWHERE]"
    (folder / "tokenizer.json").write_text(json.dumps(content))

    assert "no token for unknown characters" in message(bei("check", folder, "--rows", 1))


def test_a_class_given_as_a_string_is_read_as_one_name(
    bei: Bei, broken: Callable[..., Path]
) -> None:
    folder = broken("ner_bert", architectures="BertForTokenClassification")
    facts = bei("models", folder, "--json").json
    assert (facts["architecture"], facts["task"]) == ("BertForTokenClassification", "tag")


def test_a_jina_embedder_may_give_its_class_as_a_string(
    bei: Bei, broken: Callable[..., Path]
) -> None:
    assert bei("models", broken("jina_en", architectures="JinaBertModel")).code == 0


def test_a_jina_reranker_names_rerankers_that_work(bei: Bei, broken: Callable[..., Path]) -> None:
    folder = broken(
        "jina_en", architectures=["JinaBertForSequenceClassification"], id2label={"0": "LABEL_0"}
    )
    told = bei("models", folder)
    assert "JinaBertForSequenceClassification (jina-reranker)" in message(told)
    assert "BAAI/bge-reranker-base" in told.screen[1]


def test_token_weights_for_sparse_retrieval_are_left_out_of_a_dense_embedder(
    bei: Bei, broken: Callable[..., Path]
) -> None:
    # gte-multilingual-base: an embedder with a classifier that its dense vectors do not read.
    folder = broken("gte_new_reranker", architectures=["NewModel"])
    facts = bei("models", folder, "--json").json
    assert facts["task"] == "embed"
    assert "classifier.weight" in facts["unused_tensors"]

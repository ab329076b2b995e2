"""Tiny checkpoints with random weights in the layouts of published families, written on the spot.

Config keys, tensor names and module files are the published repositories'; the tokenizers are those
of goldens. Imports nothing of ours.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from corpora import GOLDENS
from safetensors.torch import save_file
from torch import Tensor

VOCABULARY = 400  # tokens of every golden's tokenizer

_NOMIC_MOE = {
    "activation_function": "gelu", "add_pooling_layer": False, "architectures": ["NomicBertModel"],
    "attn_pdrop": 0.0,
    "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling.NomicBert"},
    "bos_token_id": None, "causal": False, "dense_seq_output": True, "embd_pdrop": 0.1,
    "eos_token_id": None, "expert_choice_router": False, "ffn_div": 1, "fused_bias_fc": True,
    "fused_dropout_add_ln": True, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "max_trained_positions": 2048, "mlp_fc1_bias": True, "mlp_fc2_bias": True,
    "model_type": "nomic_bert", "moe_every_n_layers": 2, "moe_impl": "megablocks",
    "moe_normalize_expert_weights": False, "moe_resid_pdrop": 0.0, "moe_top_k": 2, "n_embd": 32,
    "n_head": 4, "n_inner": 64, "n_layer": 4, "n_positions": 2048, "num_experts": 8,
    "num_shared_experts": 0, "pad_token_id": 1, "pad_vocab_to_multiple_of": 64,
    "parallel_block": False, "parallel_block_tied_norm": False, "prenorm": False,
    "qkv_proj_bias": True, "resid_pdrop": 0.0, "rotary_emb_base": 10000, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None,
    "router_aux_loss_coef": 0.1, "type_vocab_size": 1, "use_rms_norm": None,
    "vocab_size": VOCABULARY,
}  # fmt: skip
_MISTRAL = {
    "architectures": ["MistralModel"], "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 64,
    "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 4,
    "num_hidden_layers": 3, "num_key_value_heads": 2, "pad_token_id": 2, "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "sliding_window": 32, "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}  # fmt: skip


def nomic_moe(folder: Path, **changes: Any) -> Path:
    """nomic-ai/nomic-embed-text-v2-moe: BERT's layers, with experts in every second."""
    config = {**_NOMIC_MOE, **changes}
    wide, inner, experts = (config[key] for key in ("n_embd", "n_inner", "num_experts"))
    tensors = _Tensors()
    tensors.draw("embeddings.word_embeddings.weight", VOCABULARY, wide)
    tensors.draw("embeddings.token_type_embeddings.weight", 1, wide)
    tensors.norm("emb_ln", wide)
    for i in range(config["n_layer"]):
        layer = f"encoder.layers.{i}"
        tensors.linear(f"{layer}.attn.Wqkv", 3 * wide, wide)
        tensors.linear(f"{layer}.attn.out_proj", wide, wide)
        tensors.norm(f"{layer}.norm1", wide)
        tensors.norm(f"{layer}.norm2", wide)
        if i % config["moe_every_n_layers"] == 1:
            tensors.draw(f"{layer}.mlp.router.layer.weight", experts, wide)
            tensors.draw(f"{layer}.mlp.experts.mlp.w1", experts * inner, wide)
            tensors.draw(f"{layer}.mlp.experts.mlp.w2", experts * inner, wide)
            tensors.draw(f"{layer}.mlp.experts.bias", wide)
        else:
            tensors.linear(f"{layer}.mlp.fc1", inner, wide)
            tensors.linear(f"{layer}.mlp.fc2", wide, inner)
    folder.mkdir(parents=True)
    _write(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors")
    _tokenizer(folder, "e5_xlmr")
    _modules(folder, {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"})
    _pooling(folder, "mean_tokens", wide)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    prompts = {"query": "search_query: ", "passage": "search_document: "}
    _write(folder / "config_sentence_transformers.json", {"prompts": prompts})
    return folder


def mistral(folder: Path, **changes: Any) -> Path:
    """intfloat/e5-mistral-7b-instruct: causal, windowed, fewer key heads, the last token."""
    config = {k: v for k, v in {**_MISTRAL, **changes}.items() if v != "absent"}
    wide, inner = config["hidden_size"], config["intermediate_size"]
    keys = wide // config["num_attention_heads"] * config.get("num_key_value_heads", 8)
    tensors = _Tensors()
    tensors.draw("embed_tokens.weight", VOCABULARY, wide)
    tensors.draw("norm.weight", wide, mean=1.0)
    for i in range(config["num_hidden_layers"]):
        layer = f"layers.{i}"
        for name, rows in (("q", wide), ("k", keys), ("v", keys), ("o", wide)):
            tensors.draw(f"{layer}.self_attn.{name}_proj.weight", rows, wide)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors.draw(f"{layer}.{name}.weight", wide, mean=1.0)
        tensors.draw(f"{layer}.mlp.gate_proj.weight", inner, wide)
        tensors.draw(f"{layer}.mlp.up_proj.weight", inner, wide)
        tensors.draw(f"{layer}.mlp.down_proj.weight", wide, inner)
    folder.mkdir(parents=True)
    _write(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors")
    _tokenizer(folder, "bert_mean")
    _modules(folder, {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"})
    _pooling(folder, "lasttoken", wide)
    return folder


def gemma3_nested(folder: Path, rename: Callable[[str], str] = str, *, images: bool = True) -> Path:
    """A Gemma 3 for text and images, as transformers saves it, its tensors renamed."""
    from transformers import AutoModel, Gemma3Config

    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "query_pre_attn_scalar": 16, "max_position_embeddings": 2048, "sliding_window": 32,
        "sliding_window_pattern": 3, "model_type": "gemma3_text",
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = {
        "model_type": "gemma3", "architectures": ["Gemma3Model"], "mm_tokens_per_image": 4,
        "text_config": text, "vision_config": vision,
    }  # fmt: skip
    torch.manual_seed(0)
    parsed = Gemma3Config(**json.loads(json.dumps(config)))
    with torch.no_grad():
        model = AutoModel.from_config(parsed)
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    folder.mkdir(parents=True)
    _write(folder / "config.json", config)
    kept = {k: v for k, v in model.state_dict().items() if images or "language_model" in k}
    save_file({rename(k): v.contiguous() for k, v in kept.items()}, folder / "model.safetensors")
    _tokenizer(folder, "embeddinggemma")
    return folder


def static_embedding(folder: Path, *, normalize: bool = False, dtype: Any = torch.float32) -> Path:
    """sentence-transformers/static-retrieval-mrl-en-v1: a folder, and no config.json at all."""
    tensors = _Tensors()
    tensors.draw("embedding.weight", VOCABULARY, 64)
    inner = folder / "0_StaticEmbedding"
    inner.mkdir(parents=True)
    save_file({k: v.to(dtype) for k, v in tensors.items()}, inner / "model.safetensors")
    shutil.copy(GOLDENS / "bert_mean" / "tokenizer.json", inner)
    modules = {"0_StaticEmbedding": "StaticEmbedding"}
    _modules(folder, modules | ({"1_Normalize": "Normalize"} if normalize else {}))
    return folder


def model2vec(folder: Path, *, rows: int = 0, weights: bool = False, modules: bool = True) -> Path:
    """minishlab/potion-base-8M; with `rows`, a quantised vocabulary of model2vec 0.6."""
    tensors = _Tensors()
    tensors.draw("embeddings", rows or VOCABULARY, 64)
    if rows:
        drawn = torch.randint(rows, (VOCABULARY,), generator=tensors.generator)
        tensors["mapping"] = drawn
    if weights:
        tensors["weights"] = torch.rand(VOCABULARY, generator=tensors.generator).double()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    shutil.copy(GOLDENS / "bert_mean" / "tokenizer.json", folder)
    config = {
        "model_type": "model2vec", "architectures": ["StaticModel"], "tokenizer_name": "some/model",
        "apply_pca": 64, "apply_zipf": True, "hidden_dim": 64, "seq_length": 1000000,
        "normalize": True,
    }  # fmt: skip
    _write(folder / "config.json", config)
    if modules:
        _modules(folder, {".": "StaticEmbedding", "1_Normalize": "Normalize"})
    return folder


class _Tensors(dict[str, Tensor]):
    """Tensors by name, drawn at random, the same every time."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, name: str, *shape: int, mean: float = 0.0) -> None:
        self[name] = mean + 0.2 * torch.randn(*shape, generator=self.generator)

    def linear(self, name: str, rows: int, columns: int) -> None:
        self.draw(f"{name}.weight", rows, columns)
        self.draw(f"{name}.bias", rows)

    def norm(self, name: str, size: int) -> None:
        self.draw(f"{name}.weight", size, mean=1.0)
        self.draw(f"{name}.bias", size)


def _tokenizer(folder: Path, golden: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GOLDENS / golden / name, folder)


def _modules(folder: Path, modules: Mapping[str, str]) -> None:
    _write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules.items())
        ],
    )


def _pooling(folder: Path, mode: str, width: int) -> None:
    (folder / "1_Pooling").mkdir()
    settings = {"word_embedding_dimension": width, f"pooling_mode_{mode}": True}
    _write(folder / "1_Pooling" / "config.json", settings)


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content))

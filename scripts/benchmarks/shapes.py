"""Checkpoints of real shapes with random weights, in the layout that everybody publishes.

What they compute means nothing; what it costs is what the real weights would cost. Every engine
loads the same directory, its tokenizer too, and must give the same vectors.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.encoder.checkpoint.checkpoint import resolve

# <pad> is token 1 everywhere: XLM-R counts positions from there, and no other family minds.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
VOCABULARY = 30_000
# Of a vector of a token, and of a query that is filled up: those of ColBERT v2.
_TOKEN_WIDTH, _QUERY_TOKENS = 128, 32
# Standard deviations of the logits by which a bias lowers them all, to a hundred terms or so.
LOWERED = 4.1
# A class that reads tokenizer.json and nothing else, in transformers 4 and 5.
GENERIC_TOKENIZER = "PreTrainedTokenizerFast"

_BERT = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12,
         "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30_522}  # fmt: skip
_QWEN = {"model_type": "qwen2", "num_hidden_layers": 28, "vocab_size": 151_646,
         "max_position_embeddings": 131_072, "rope_theta": 1_000_000.0}  # fmt: skip

_XLM_R = {**_BERT, "model_type": "xlm-roberta", "vocab_size": 250_002, "type_vocab_size": 1,
          "layer_norm_eps": 1e-5}  # fmt: skip
_MINILM = {**_BERT, "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
_ENTITIES = ("O", *(f"{place}-{kind}" for kind in ("MISC", "PER", "ORG", "LOC") for place in "BI"))


@dataclass(frozen=True)
class Shape:
    """A model's sizes, as published.

    Attributes:
        config: of transformers.
        limit: the tokens that a text may have.
        pooling: cls, mean or lasttoken, of a model that embeds.
        dtype: of the stored weights.
        task: what the model is for.
        labels: of a classifier; a reranker has one.
        vectors: of a model that embeds: dense, sparse (SPLADE) or multi (ColBERT).
    """

    config: dict[str, Any]
    limit: int = 512
    pooling: str = "mean"
    dtype: torch.dtype = torch.float32
    task: str = "embed"
    labels: tuple[str, ...] = ()
    vectors: str = "dense"


SHAPES: dict[str, Shape] = {
    "MiniLM-L6": Shape(_MINILM),
    "bge-base": Shape(_BERT, pooling="cls"),
    "XLM-R-large": Shape(
        {**_XLM_R, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096, "max_position_embeddings": 8194},
        8192, "cls",
    ),
    "ModernBERT-base": Shape(
        {"model_type": "modernbert", "hidden_size": 768, "num_hidden_layers": 22,
         "num_attention_heads": 12, "intermediate_size": 1152, "vocab_size": 50_368,
         "local_attention": 128, "global_attn_every_n_layers": 3},
        8192,
    ),
    "EmbeddingGemma": Shape(
        {"model_type": "gemma3_text", "hidden_size": 768, "num_hidden_layers": 24,
         "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 256,
         "intermediate_size": 1152, "vocab_size": 262_144, "sliding_window": 512,
         "use_bidirectional_attention": True, "query_pre_attn_scalar": 256},
        2048,
    ),
    "Qwen3-0.6B": Shape(
        {**_QWEN, "model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16,
         "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072},
        8192, "lasttoken", torch.bfloat16,
    ),
    "Qwen2-1.5B": Shape(
        {**_QWEN, "hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2,
         "intermediate_size": 8960},
        8192, "lasttoken", torch.bfloat16,
    ),
    "Qwen2-7B": Shape(
        {**_QWEN, "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
         "intermediate_size": 18_944},
        8192, "lasttoken", torch.bfloat16,
    ),
    "potion-base-8M": Shape(
        {"model_type": "model2vec", "hidden_dim": 256, "normalize": True}, 2**30
    ),
    "splade-MiniLM-L6": Shape(_MINILM, vectors="sparse"),
    "colbert-MiniLM-L6": Shape(_MINILM, vectors="multi"),
    "colbert-BERT-base": Shape(_BERT, vectors="multi"),
    "MiniLM-L6-reranker": Shape(_MINILM, task="rerank", labels=("score",)),
    "bge-reranker-base": Shape(
        {**_XLM_R, "max_position_embeddings": 514}, task="rerank", labels=("score",)
    ),
    "RoBERTa-base-sentiment": Shape(
        {**_XLM_R, "model_type": "roberta", "vocab_size": 50_265, "max_position_embeddings": 514},
        task="classify", labels=("negative", "neutral", "positive"),
    ),
    "BERT-base-NER": Shape(_BERT, task="tag", labels=_ENTITIES),
}  # fmt: skip

#: The shapes that embed with an encoder, in dense vectors.
ENCODERS = [
    name
    for name, shape in SHAPES.items()
    if (shape.task, shape.vectors) == ("embed", "dense")
    and shape.config["model_type"] != "model2vec"
]


def checkpoint_of(model: str, folder: Path, texts: list[str], device: str) -> Path:
    """Where a model lies: a shape is written, anything else is found as a job finds it."""
    if model in SHAPES:
        return write_checkpoint(folder, model, texts, device)
    return resolve(model).path


def write_checkpoint(folder: Path, shape: str, texts: list[str], device: str) -> Path:
    """Write a checkpoint of a shape and return its directory.

    Args:
        folder: what to put it in.
        shape: a key of SHAPES.
        texts: what the tokenizer learns its words from.
        device: where the random numbers are drawn.
    """
    made = SHAPES[shape]
    path = folder / shape
    if made.config["model_type"] == "model2vec":
        _write_table(path, made.config, texts)
        return path
    path.mkdir(parents=True)
    write_weights(path, made, device)
    write_tokenizer(path, texts, made.limit, typed=made.config["model_type"] == "bert")
    if made.vectors == "sparse":
        write_sparse_modules(path, made.config["vocab_size"], made.limit)
    elif made.vectors == "multi":
        _write_multi_modules(path, made, device)
    elif made.task == "embed":
        _write_modules(path, made)
    return path


def write_sparse_modules(path: Path, terms: int, limit: int) -> None:
    """The module files of a SparseEncoder of sentence-transformers."""
    kinds = {
        "": "base.modules.transformer.Transformer",
        "1_SpladePooling": "sparse_encoder.modules.splade_pooling.SpladePooling",
    }
    _write_steps(path, kinds)
    pooling = {"pooling_strategy": "max", "word_embedding_dimension": terms}
    _write(path / "1_SpladePooling" / "config.json", pooling)
    _write(path / "sentence_bert_config.json", {
        "transformer_task": "fill-mask",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "token_embeddings",
        "max_seq_length": limit,
    })  # fmt: skip
    _write(path / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})


def _write_multi_modules(path: Path, shape: Shape, device: str) -> None:
    """The module files of a MultiVectorEncoder of sentence-transformers, as ColBERT v2 has it."""
    kinds = {
        "": "base.modules.transformer.Transformer",
        "1_Dense": "base.modules.dense.Dense",
        "2_MultiVectorMask": "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
        "3_Normalize": "base.modules.normalize.Normalize",
    }
    _write_steps(path, kinds)
    hidden = shape.config["hidden_size"]
    names = {
        "module_input_name": "token_embeddings", "module_output_name": "token_embeddings",
    }  # fmt: skip
    identity = "torch.nn.modules.linear.Identity"
    _write(path / "1_Dense" / "config.json", {
        "in_features": hidden, "out_features": _TOKEN_WIDTH, "bias": False,
        "activation_function": identity, **names,
    })  # fmt: skip
    generator = torch.Generator(device).manual_seed(1)
    weight = torch.randn(_TOKEN_WIDTH, hidden, device=device, generator=generator).cpu()
    save_file({"linear.weight": weight}, path / "1_Dense" / "model.safetensors")
    mask = {"skiplist_words": list(string.punctuation), "skiplist_tasks": ["document"]}
    _write(path / "2_MultiVectorMask" / "config.json", mask)
    _write(path / "3_Normalize" / "config.json", names)
    expansion = {
        "strategy": "fixed", "attend": False, "length": _QUERY_TOKENS, "token": "<unk>",
    }  # fmt: skip
    _write(path / "sentence_bert_config.json", {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"},
        },
        "module_output_name": "token_embeddings",
        "document_length": shape.limit,
        "query_expansion": expansion,
    })  # fmt: skip
    _write(path / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder"})


def _write_steps(path: Path, kinds: dict[str, str]) -> None:
    """modules.json of sentence-transformers 6, and the directories that it names."""
    _write(path / "modules.json", [
        {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.{kind}"}
        for i, (at, kind) in enumerate(kinds.items())
    ])  # fmt: skip
    for at in filter(None, kinds):
        (path / at).mkdir()


def _write_modules(path: Path, shape: Shape) -> None:
    """The module files of a model of sentence-transformers."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write(path / "modules.json", [
        {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.models.{kind}"}
        for i, (at, kind) in enumerate(steps)
    ])  # fmt: skip
    (path / "1_Pooling").mkdir()
    (path / "2_Normalize").mkdir()
    _write(
        path / "sentence_bert_config.json", {"max_seq_length": shape.limit, "do_lower_case": False}
    )
    modes = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    _write(path / "1_Pooling" / "config.json", {
        "word_embedding_dimension": shape.config["hidden_size"],
        **{f"pooling_mode_{name}": mode == shape.pooling for mode, name in modes.items()},
    })  # fmt: skip


def write_tokenizer(path: Path, texts: list[str], limit: int, *, typed: bool = False) -> None:
    """Write a tokenizer of the texts' own words, for texts of so many tokens; see `_tokenizer`."""
    _tokenizer(texts, typed=typed).save(str(path / "tokenizer.json"))
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    _write(path / "tokenizer_config.json", {
        **names, "cls_token": "<s>", "sep_token": "</s>", "model_max_length": limit,
        "tokenizer_class": GENERIC_TOKENIZER,
    })  # fmt: skip


def _write_table(path: Path, settings: dict[str, Any], texts: list[str]) -> None:
    """Draw a table of token vectors, in model2vec's layout."""
    path.mkdir()
    tokenizer = _tokenizer(texts)
    tokenizer.save(str(path / "tokenizer.json"))
    table = torch.randn(tokenizer.get_vocab_size(), settings["hidden_dim"])
    save_file({"embeddings": table}, path / "model.safetensors")
    _write(path / "config.json", settings)
    _write(path / "modules.json", [
        {"idx": i, "name": str(i), "path": at, "type": f"sentence_transformers.models.{kind}"}
        for i, (at, kind) in enumerate([(".", "StaticEmbedding"), ("1_Normalize", "Normalize")])
    ])  # fmt: skip


def write_weights(path: Path, shape: Shape, device: str) -> None:
    """Draw every tensor of the model that transformers builds for a config."""
    import transformers

    own = dict(shape.config)
    if shape.labels:
        own["id2label"] = dict(enumerate(shape.labels))
        own["label2id"] = {label: i for i, label in enumerate(shape.labels)}
    config = transformers.AutoConfig.for_model(
        own.pop("model_type"), **own, bos_token_id=0, pad_token_id=1, eos_token_id=2
    )
    heads = {
        "embed": transformers.AutoModel,
        "tag": transformers.AutoModelForTokenClassification,
    }
    head = heads.get(shape.task, transformers.AutoModelForSequenceClassification)
    if shape.vectors == "sparse":
        head = transformers.AutoModelForMaskedLM
    with torch.device("meta"):
        model = head.from_config(config, dtype=shape.dtype)
    config.architectures = [type(model).__name__]
    config.dtype = shape.dtype
    config.save_pretrained(path)
    generator = torch.Generator(device).manual_seed(0)
    scale = 0.0 if config.model_type.startswith("gemma") else 1.0  # Gemma's norms add 1
    tensors = {}
    for name, like in model.named_parameters():
        tensor = torch.empty(like.shape, dtype=shape.dtype, device=device)
        if like.ndim == 1:
            tensor.fill_(scale * ("norm" in name.lower() and name.endswith("weight")))
            if name.endswith("predictions.bias"):
                tensor.fill_(-LOWERED * 0.02 * config.hidden_size**0.5)
        else:
            tensor.normal_(0.0, 0.02, generator=generator)
        tensors[name] = tensor.cpu()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _tokenizer(texts: list[str], *, typed: bool = False) -> Tokenizer:
    """A WordPiece tokenizer of the texts' own words; `typed`: the second of a pair is of type 1."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1" if typed else "<s> $A </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )  # fmt: skip
    return tokenizer


def texts_of_length(tokenizer: Tokenizer, tokens: int, count: int) -> list[str]:
    """Texts of exactly so many tokens, special ones counted: words that are one token each."""
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    words = [w for w in tokenizer.get_vocab() if w.isascii() and w.isalpha() and len(w) > 2]
    drawn = torch.randint(
        len(words), (count, tokens - special), generator=torch.Generator().manual_seed(1)
    )
    words.sort()
    return [" ".join(words[i] for i in row) for row in drawn.tolist()]


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")

"""Write the goldens of sparse vectors: tiny checkpoints and what their authors' code gives.

    .venv/bin/python tests/sparse_goldens/record.py

Expected values are those of sentence-transformers' SparseEncoder; of bge_m3, of transformers
and the rule of FlagEmbedding (relu of the layer, the largest per token, special ones out).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from sentence_transformers import SparseEncoder
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaModel,
)

HERE = Path(__file__).parent
OTHERS = HERE.parent / "goldens"
TEXTS = [
    "PWM enrichment analysis: a toolkit of high-level functions for DNA motif scanning",
    "go",
    "read/write NTFS driver for FUSE, read and write, again and again",
    "Übermut kostet 1.000 €; 天地玄黄",
    "the quick brown fox jumps over the lazy dog " * 12,
]
OLD = "sentence_transformers.sparse_encoder.models"
SIZES = {"vocab_size": 400, "max_position_embeddings": 64}
BERT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    **SIZES,
}  # fmt: skip


def drawn(model: Any) -> Any:
    """The model with larger random weights, so that logits differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.25)
    return model.eval()


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def save(model: Any, folder: Path, tokenizer: str) -> None:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(OTHERS / tokenizer / name, folder)


def sparse_rows(matrix: Any) -> list[dict[str, Any]]:
    rows = [(np.flatnonzero(row), row) for row in np.asarray(matrix, dtype=np.float32)]
    return [{"indices": at.tolist(), "values": row[at].tolist()} for at, row in rows]


def encoded(folder: Path, **options: Any) -> list[dict[str, Any]]:
    encoder = SparseEncoder(str(folder), device="cpu")
    vectors = encoder.encode(
        TEXTS, convert_to_sparse_tensor=False, show_progress_bar=False, **options
    )
    return sparse_rows(vectors)


def splade_bert(folder: Path) -> None:
    """naver/splade-v3: a BERT in the files of sentence-transformers 5."""
    save(drawn(BertForMaskedLM(BertConfig(**BERT))), folder, "bert_mean")
    write(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": f"{OLD}.MLMTransformer.MLMTransformer"},
            {
                "idx": 1, "name": "1", "path": "1_SpladePooling",
                "type": f"{OLD}.SpladePooling.SpladePooling",
            },
        ],
    )  # fmt: skip
    pooling = {"pooling_strategy": "max", "activation_function": "relu"}
    write(folder / "1_SpladePooling/config.json", {**pooling, "word_embedding_dimension": 400})
    write(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    write(
        folder / "config_sentence_transformers.json",
        {"model_type": "SparseEncoder", "prompts": {"query": "find: ", "document": ""},
         "default_prompt_name": None, "similarity_fn_name": "dot"},
    )  # fmt: skip
    cases = [
        {"options": [], "expected": encoded(folder)},
        {"options": ["--prompt-name", "query"], "expected": encoded(folder, prompt_name="query")},
        {"options": ["--sparse-top-k", "5"], "expected": encoded(folder, max_active_dims=5)},
    ]
    write(folder / "cases.json", {"texts": TEXTS, "cases": cases})


def splade_bare(folder: Path) -> None:
    """naver/splade-cocondenser-ensembledistil at first: a masked language model, no module files,
    its decoder in the file once more.
    """
    model = drawn(BertForMaskedLM(BertConfig(**BERT)))
    save(model, folder, "bert_mean")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    cases = [{"options": ["--vectors", "sparse"], "expected": encoded(folder)}]
    write(folder / "cases.json", {"texts": TEXTS, "cases": cases})


def splade_router(folder: Path) -> None:
    """opensearch-neural-sparse-encoding-doc-v3-distill: documents by a DistilBERT at the root,
    queries by a table of weights.
    """
    config = DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, **SIZES)
    save(drawn(DistilBertForMaskedLM(config)), folder, "bert_mean")
    table, pooling = "query_0_SparseStaticEmbedding", "document_1_SpladePooling"
    generator = torch.Generator().manual_seed(1)
    weights = 4 * torch.rand(400, generator=generator)
    weights[::9] = 0
    (folder / table).mkdir()
    save_file({"weight": weights}, folder / table / "model.safetensors")
    write(folder / table / "config.json", {"frozen": False})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, folder / table)
    write(
        folder / pooling / "config.json",
        {"pooling_strategy": "max", "activation_function": "log1p_relu",
         "word_embedding_dimension": None},
    )  # fmt: skip
    router = "sentence_transformers.models.Router"
    write(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": router}])
    write(
        folder / "router_config.json",
        {
            "types": {
                "": f"{OLD}.MLMTransformer.MLMTransformer",
                table: f"{OLD}.SparseStaticEmbedding.SparseStaticEmbedding",
                pooling: f"{OLD}.SpladePooling.SpladePooling",
            },
            "structure": {"query": [table], "document": ["", pooling]},
            "parameters": {"default_route": "document", "allow_empty_key": True},
        },
    )
    write(folder / "sentence_bert_config.json", {"max_seq_length": 60, "do_lower_case": False})
    write(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    documents = encoded(folder, task="document")
    cases = [
        {"options": [], "expected": documents},
        {"options": ["--kind", "document"], "expected": documents},
        {"options": ["--kind", "query"], "expected": encoded(folder, task="query")},
    ]
    write(folder / "cases.json", {"texts": TEXTS, "cases": cases})


def bge_m3(folder: Path) -> None:
    """BAAI/bge-m3: dense vectors by its module files, lexical weights by a layer beside them."""
    sizes = {**BERT, "max_position_embeddings": 82, "type_vocab_size": 1, "pad_token_id": 1}
    config = XLMRobertaConfig(**sizes, bos_token_id=0, eos_token_id=2, layer_norm_eps=1e-5)
    model = drawn(XLMRobertaModel(config, add_pooling_layer=False))
    save(model, folder, "e5_xlmr")
    package = "sentence_transformers.models"
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"{package}.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ],
    )
    write(
        folder / "1_Pooling/config.json",
        {"word_embedding_dimension": 32, "pooling_mode_cls_token": True,
         "pooling_mode_mean_tokens": False},
    )  # fmt: skip
    write(folder / "sentence_bert_config.json", {"max_seq_length": 80, "do_lower_case": False})
    generator = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(1, 32, generator=generator), torch.tensor([0.3])
    save_file({"weight": weight, "bias": bias}, folder / "sparse_linear.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = (tokenizer.cls_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    dropped = set(tokenizer.convert_tokens_to_ids(list(special)))
    sparse, dense = [], []
    for text in TEXTS:
        inputs = tokenizer(text, truncation=True, max_length=80, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state[0]
            weights = torch.relu(hidden @ weight[0] + bias)
        largest: dict[int, float] = {}
        for token, value in zip(inputs["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token not in dropped and value > largest.get(token, 0.0):
                largest[token] = value
        ordered = sorted(largest.items())
        sparse.append({"indices": [i for i, _ in ordered], "values": [v for _, v in ordered]})
        dense.append(torch.nn.functional.normalize(hidden[0], dim=0).tolist())
    cases = [
        {"options": ["--vectors", "sparse"], "expected": sparse},
        {"options": ["--vectors", "sparse,dense"], "expected": sparse, "dense": dense},
    ]
    write(folder / "cases.json", {"texts": TEXTS, "cases": cases})


if __name__ == "__main__":
    for make in (splade_bert, splade_bare, splade_router, bge_m3):
        torch.manual_seed(0)
        folder = HERE / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder)

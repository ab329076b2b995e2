"""Write the goldens of multi-vectors: tiny checkpoints and what their authors' code gives.

    python tests/multi_goldens/record.py [NAME …]

Needs, beside what the tests need, colbert-ai, pylate and FlagEmbedding (for what of them is used
here: with `datasets`, `GitPython`, `ujson`, `accelerate` and `peft`; no other dependency of
theirs). README.md says which golden is whose.
"""

from __future__ import annotations

import json
import shutil
import string
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

HERE = Path(__file__).parent
OTHERS = HERE.parent / "goldens"
DIM, HIDDEN = 8, 16
TEXTS = [
    "PWM enrichment analysis: a toolkit of high-level functions for DNA motif scanning",
    "go",
    "read/write NTFS driver for FUSE, read and write, again and again",
    "Übermut kostet 1.000 €; 天地玄黄",
    "?! ... (!)",
    "the quick brown fox jumps over the lazy dog " * 6,
]
QUERIES = ["which driver reads and writes NTFS?", "a fox", "dog"]
DOCUMENTS = [TEXTS, [TEXTS[5], "a fox, a dog; a fox.", "?! ... (!)"], []]
SIZES = {
    "vocab_size": 400, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24,
}  # fmt: skip
MARKERS = ("[unused0]", "[unused1]")
Encode = Callable[[Sequence[str]], list[Any]]
Score = Callable[[str, Sequence[str]], Any]


def drawn(model: Any) -> Any:
    """The model with larger random weights, so that the vectors of a text differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def bert() -> Any:
    return drawn(BertModel(BertConfig(**SIZES, max_position_embeddings=64)))


def xlmr() -> Any:
    config = XLMRobertaConfig(
        **SIZES, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, layer_norm_eps=1e-5,
    )  # fmt: skip
    return drawn(XLMRobertaModel(config, add_pooling_layer=False))


def modernbert() -> Any:
    config = ModernBertConfig(
        **SIZES, max_position_embeddings=128, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        cls_token_id=0, sep_token_id=2, local_attention=16, global_attn_every_n_layers=2,
    )  # fmt: skip
    return drawn(ModernBertModel(config))


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def change(file: Path, **values: object) -> None:
    write(file, json.loads(file.read_text()) | values)


def save_tokenizer(folder: Path, tokenizer: str, replace: Sequence[str] = ()) -> None:
    """The tokenizer of another golden; its last pieces replaced by markers."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(OTHERS / tokenizer / name, folder)
    if replace:
        content = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = content["model"]["vocab"]
        for old, new in zip(list(vocabulary)[-len(replace) :], replace, strict=True):
            vocabulary[new] = vocabulary.pop(old)
        write(folder / "tokenizer.json", content)


def vectors(rows: Sequence[Any]) -> list[list[list[float]]]:
    return [np.asarray(row, dtype=np.float64).round(7).tolist() for row in rows]


def write_cases(
    folder: Path, reference: str, sides: dict[str, Encode], score: Score, **more: object
) -> None:
    """What the reference makes of TEXTS on each side, and of the pairs to rerank."""
    cases = [
        {"options": ["--kind", kind], "expected": vectors(encode(TEXTS))}
        for kind, encode in sides.items()
    ]
    scores = [
        [float(s) for s in score(query, given)] if given else []
        for query, given in zip(QUERIES, DOCUMENTS, strict=True)
    ]
    rerank = {"queries": QUERIES, "documents": DOCUMENTS, "scores": scores}
    content = {"reference": reference, "texts": TEXTS, "cases": cases, "rerank": rerank, **more}
    # One line for each top-level value: vectors are many short numbers.
    lines = [
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"
        for key, value in content.items()
    ]
    (folder / "cases.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def stanford(folder: Path, model: Any, **settings: object) -> None:
    """The files that BaseColBERT.save writes, and the values of colbert-ai."""
    from colbert.infra import ColBERTConfig
    from colbert.modeling.colbert import ColBERT, colbert_score
    from colbert.modeling.tokenization import DocTokenizer, QueryTokenizer

    prefix = "bert" if isinstance(model, BertModel) else "roberta"
    state = {f"{prefix}.{name}": tensor for name, tensor in model.state_dict().items()}
    state["linear.weight"] = torch.randn(DIM, HIDDEN)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"architectures": ["HF_ColBERT"]}
    write(folder / "config.json", {k: v for k, v in config.items() if v is not None})
    lengths = {"dim": DIM, "query_maxlen": 16, "doc_maxlen": 40, "mask_punctuation": True}
    metadata = {
        "query_token": "[Q]", "doc_token": "[D]", "similarity": "cosine", "interaction": "colbert",
        **lengths, **settings,
    }  # fmt: skip
    write(folder / "artifact.metadata", metadata)

    ColBERT.loaded_extensions = True  # an extension of C++ that scores on a CPU; not needed here
    config = ColBERTConfig(checkpoint=str(folder), **lengths, **settings)
    colbert = ColBERT(str(folder), colbert_config=config)
    queries, documents = QueryTokenizer(config, verbose=0), DocTokenizer(config)

    def of_queries(texts: Sequence[str]) -> list[Any]:
        return [colbert.query(*queries.tensorize([text]))[0].numpy() for text in texts]

    def of_documents(texts: Sequence[str]) -> list[Any]:
        rows = []
        for text in texts:
            rows += colbert.doc(*documents.tensorize([text]), keep_dims=False)
        return [row.numpy() for row in rows]

    def score(query: str, texts: Sequence[str]) -> Any:
        encoded, mask = colbert.doc(*documents.tensorize(list(texts)), keep_dims="return_mask")
        return colbert_score(colbert.query(*queries.tensorize([query])), encoded, mask, config)

    with torch.inference_mode():
        sides: dict[str, Encode] = {"query": of_queries, "document": of_documents}
        write_cases(folder, f"colbert-ai {version('colbert-ai')}", sides, score)


def colbert_v2(folder: Path) -> None:
    """colbert-ir/colbertv2.0: nothing attends to the masks that pad a query."""
    save_tokenizer(folder, "bert_mean", MARKERS)
    stanford(
        folder, bert(), query_token_id=MARKERS[0], doc_token_id=MARKERS[1],
        attend_to_mask_tokens=False,
    )  # fmt: skip


def colbert_xlmr(folder: Path) -> None:
    """As jina-colbert-v2 is saved, on an encoder that needs no code of the repository: markers of
    its own, and masks that are attended to.
    """
    markers = ("[QueryMarker]", "[DocumentMarker]")
    save_tokenizer(folder, "e5_xlmr")
    content = json.loads((folder / "tokenizer.json").read_text())
    pieces = content["model"]["vocab"]
    for piece, marker in zip(pieces[-2:], markers, strict=True):
        piece[0] = marker
        content["added_tokens"].append(
            {"id": pieces.index(piece), "content": marker, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True}
        )  # fmt: skip
    write(folder / "tokenizer.json", content)
    stanford(
        folder, xlmr(), query_token_id=markers[0], doc_token_id=markers[1],
        attend_to_mask_tokens=True,
    )  # fmt: skip


def pylate_values(folder: Path) -> None:
    from pylate.models import ColBERT
    from pylate.scores import colbert_scores

    model = ColBERT(str(folder), device="cpu")

    def side(is_query: bool) -> Encode:
        return lambda texts: model.encode([*texts], is_query=is_query, show_progress_bar=False)

    def score(query: str, texts: Sequence[str]) -> Any:
        # One document at a time: PyLate counts padding as a similarity of 0.
        one = side(True)([query])[0]
        return [colbert_scores([one], [document])[0, 0] for document in side(False)(texts)]

    sides = {"query": side(True), "document": side(False)}
    write_cases(folder, f"pylate {version('pylate')}", sides, score)


def pylate(folder: Path) -> None:
    """A model trained with PyLate on BERT: its markers are added tokens with a space."""
    from pylate.models import ColBERT

    base = folder / "base"
    base.mkdir()
    bert().save_pretrained(base)
    save_tokenizer(base, "bert_mean")
    model = ColBERT(
        str(base), device="cpu", embedding_size=DIM, query_length=16, document_length=40
    )
    drawn(model).save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(base)
    pylate_values(folder)


def pylate_modernbert(folder: Path) -> None:
    """A model of PyLate as saved with sentence-transformers 4 and 5 (GTE-ModernColBERT-v1), with
    the two projections of mxbai-edge-colbert, and queries that are not padded.
    """
    modernbert().save_pretrained(folder)
    save_tokenizer(folder, "modernbert_cls")
    kinds = {
        "": "sentence_transformers.models.Transformer",
        "1_Dense": "pylate.models.Dense.Dense",
        "2_Dense": "pylate.models.Dense.Dense",
    }
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    write(folder / "modules.json", modules)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 39, "do_lower_case": False})
    for name, (inner, outer), residual in (
        ("1_Dense", (HIDDEN, 2 * HIDDEN), True),
        ("2_Dense", (2 * HIDDEN, DIM), False),
    ):
        config = {
            "in_features": inner, "out_features": outer, "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity", "use_residual": residual,
        }  # fmt: skip
        write(folder / name / "config.json", config)
        tensors = {"linear.weight": torch.randn(outer, inner)}
        if residual:
            tensors["residual.weight"] = torch.randn(outer, inner)
        save_file(tensors, folder / name / "model.safetensors")
    write(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "5.1.1", "transformers": "4.56.2"},
            "model_type": "ColBERT", "prompts": {"query": "", "document": ""},
            "default_prompt_name": None, "similarity_fn_name": "MaxSim", "query_prefix": "",
            "document_prefix": "", "query_length": 20, "document_length": 40,
            "attend_to_expansion_tokens": False, "skiplist_words": list(string.punctuation),
            "do_query_expansion": False,
        },
    )  # fmt: skip
    pylate_values(folder)


def sentence_transformers_values(folder: Path) -> None:
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(folder), device="cpu")

    def score(query: str, texts: Sequence[str]) -> Any:
        asked = model.encode_query([query], show_progress_bar=False)
        return model.similarity(asked, model.encode_document([*texts], show_progress_bar=False))[0]

    sides: dict[str, Encode] = {
        "query": lambda texts: model.encode_query([*texts], show_progress_bar=False),
        "document": lambda texts: model.encode_document([*texts], show_progress_bar=False),
    }
    reference = f"sentence-transformers {version('sentence-transformers')}"
    write_cases(folder, reference, sides, score)


def multi_vector_encoder(
    folder: Path, base: Any, tokenizer: str, *, mask: dict[str, Any], model: dict[str, Any],
    **settings: Any,
) -> None:  # fmt: skip
    """A MultiVectorEncoder, saved by sentence-transformers."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    start = folder / "base"
    start.mkdir()
    base.save_pretrained(start)
    save_tokenizer(start, tokenizer)
    token_embeddings = {"module_input_name": "token_embeddings"}
    modules = [
        Transformer(str(start), **settings),
        Dense(HIDDEN, DIM, bias=False, activation_function=torch.nn.Identity(), **token_embeddings),
        MultiVectorMask(**mask),
        Normalize(**token_embeddings),
    ]
    with torch.no_grad():
        modules[1].linear.weight.normal_()
    encoder = MultiVectorEncoder(modules=modules, device="cpu", **model)
    encoder.save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(start)
    save_tokenizer(folder, tokenizer)  # as it was: to read transformers' own takes seconds
    sentence_transformers_values(folder)


def st_fixed(folder: Path) -> None:
    """A MultiVectorEncoder of sentence-transformers 6 on BERT: queries of one length, whose masks
    are attended to, prompts of words, and punctuation skipped.
    """
    multi_vector_encoder(
        folder, bert(), "bert_mean",
        mask={"skiplist_words": list(string.punctuation)},
        model={"prompts": {"query": "q: ", "document": "d: "}},
        document_length=40, query_expansion={"strategy": "fixed", "attend": True, "length": 16},
    )  # fmt: skip


def st_min(folder: Path) -> None:
    """The same on XLM-R: queries that are padded where they are short, by a token of choice, a
    list of words that counts for queries too, and the mean in place of the sum.
    """
    multi_vector_encoder(
        folder, xlmr(), "e5_xlmr",
        mask={"skiplist_words": [".", ",", "▁"], "skiplist_tasks": ["query", "document"]},
        model={"similarity_fn_name": "meanmaxsim"},
        document_length=40, query_length=24,
        query_expansion={"strategy": "min", "attend": False, "length": 12, "token": "<unk>"},
    )  # fmt: skip


def bge_m3(folder: Path) -> None:
    """BAAI/bge-m3: dense vectors by its module files, lexical weights and token vectors by layers
    beside them; FlagEmbedding computes the three.
    """
    from FlagEmbedding import BGEM3FlagModel

    source = HERE.parent / "sparse_goldens" / "bge_m3"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    xlmr().save_pretrained(folder)
    sparse = {"weight": torch.randn(1, HIDDEN), "bias": torch.tensor([0.3])}
    colbert = {"weight": torch.randn(DIM, HIDDEN), "bias": torch.randn(DIM)}
    for name, layer in (("sparse", sparse), ("colbert", colbert)):
        save_file(layer, folder / f"{name}_linear.safetensors")
        torch.save(layer, folder / f"{name}_linear.pt")  # what FlagEmbedding reads
    change(folder / "1_Pooling" / "config.json", word_embedding_dimension=HIDDEN)
    change(folder / "sentence_bert_config.json", max_seq_length=64)
    model = BGEM3FlagModel(
        str(folder), use_fp16=False, devices="cpu", colbert_dim=DIM, query_max_length=64,
        passage_max_length=64,
    )  # fmt: skip
    for pickle in folder.glob("*.pt"):
        pickle.unlink()

    def encoded(texts: Sequence[str]) -> dict[str, Any]:
        return model.encode([*texts], return_sparse=True, return_colbert_vecs=True)

    def multi(texts: Sequence[str]) -> list[Any]:
        return encoded(texts)["colbert_vecs"]

    def score(query: str, texts: Sequence[str]) -> Any:
        return [model.colbert_score(multi([query])[0], document) for document in multi(texts)]

    everything = encoded(TEXTS)
    rows = [sorted((int(i), float(w)) for i, w in r.items()) for r in everything["lexical_weights"]]
    sparse_rows = [{"indices": [i for i, _ in r], "values": [w for _, w in r]} for r in rows]
    write_cases(
        folder, f"FlagEmbedding {version('FlagEmbedding')}",
        {"query": multi, "document": multi}, score,
        dense=everything["dense_vecs"].astype(float).round(7).tolist(), sparse=sparse_rows,
    )  # fmt: skip


MAKERS = (
    colbert_v2, colbert_xlmr, pylate, pylate_modernbert, st_fixed, st_min, bge_m3,
)  # fmt: skip

if __name__ == "__main__":
    for make in MAKERS:
        if sys.argv[1:] and make.__name__ not in sys.argv[1:]:
            continue
        torch.manual_seed(0)
        folder = HERE / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder)

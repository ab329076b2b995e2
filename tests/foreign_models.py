"""Tiny random models of the classes that transformers saves: most of them foreign to bei-jobs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from corpora import GOLDENS

#: Ids of the goldens' vocabulary that stand for padding, the end and the start of a text.
PAD, END, START = 0, 3, 2

_SIZES = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 128,
}  # fmt: skip
_AFTER_PADDING = {**_SIZES, "pad_token_id": 1}
_DECODER = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_T5 = {
    "vocab_size": 400, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64,
    "eos_token_id": END, "pad_token_id": PAD, "decoder_start_token_id": PAD,
}  # fmt: skip
_BART = {
    "vocab_size": 400, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "max_position_embeddings": 128, "pad_token_id": PAD,
    "bos_token_id": START, "eos_token_id": END, "decoder_start_token_id": END,
}  # fmt: skip
_GPT = {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_XLM = {"n_words": 400, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}
_FUNNEL = {
    "vocab_size": 400, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64,
    "block_sizes": [1, 1], "num_decoder_layers": 1,
}  # fmt: skip
_DEBERTA = {**_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_MODERNBERT = {
    **_SIZES, "local_attention": 16, "pad_token_id": PAD, "cls_token_id": START,
    "sep_token_id": END, "bos_token_id": START, "eos_token_id": END,
}  # fmt: skip

#: Stem of transformers' names of classes → the settings of its config.
SETTINGS: dict[str, dict[str, Any]] = {
    "Albert": {**_SIZES, "embedding_size": 16},
    "Bart": _BART,
    "Bert": _SIZES,
    "BigBird": {**_SIZES, "block_size": 4, "num_random_blocks": 1},
    "BioGpt": _SIZES,
    "Bloom": {"vocab_size": 400, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "ConvBert": {**_SIZES, "embedding_size": 16, "conv_kernel_size": 3},
    "Data2VecText": _AFTER_PADDING,
    "Deberta": {**_DEBERTA, "type_vocab_size": 0},
    "DebertaV2": {
        **_DEBERTA, "type_vocab_size": 0, "position_buckets": 16, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "conv_kernel_size": 3,
    },
    "DistilBert": {"vocab_size": 400, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "Electra": {**_SIZES, "embedding_size": 16},
    "Ernie": _SIZES,
    "Esm": {**_AFTER_PADDING, "mask_token_id": 4},
    "FNet": {**_SIZES, "tpu_short_seq_length": 128},
    "Flaubert": _XLM,
    "Funnel": _FUNNEL,
    "GPT2": _GPT,
    "Gemma": _DECODER,
    "Gemma2": {**_DECODER, "sliding_window": 16},
    "Gemma3Text": {**_DECODER, "sliding_window": 16},
    "Gte": _SIZES,
    "IBert": _AFTER_PADDING,
    "Llama": _DECODER,
    "Longformer": {**_AFTER_PADDING, "attention_window": 8},
    "Luke": {**_AFTER_PADDING, "entity_vocab_size": 10, "entity_emb_size": 8},
    "MPNet": _AFTER_PADDING,
    "MT5": _T5,
    "MegatronBert": _SIZES,
    "Mistral": {**_DECODER, "sliding_window": 16},
    "MobileBert": {**_SIZES, "embedding_size": 16, "intra_bottleneck_size": 16},
    "ModernBert": _MODERNBERT,
    "ModernBertDecoder": _MODERNBERT,
    "Mpt": {"vocab_size": 400, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "NomicBert": _SIZES,
    "Nystromformer": {**_SIZES, "segment_means_seq_len": 64, "num_landmarks": 64},
    "OPT": {**_SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1},
    "OpenAIGPT": _GPT,
    "Perceiver": {
        "num_latents": 8, "d_latents": 16, "d_model": 16, "num_blocks": 1, "vocab_size": 400,
        "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2, "max_position_embeddings": 128,
    },
    "Qwen2": _DECODER,
    "Qwen3": _DECODER,
    "Reformer": {
        **_SIZES, "attention_head_size": 8, "feed_forward_size": 64, "axial_pos_embds": False,
        "is_decoder": False,
    },
    "RemBert": {**_SIZES, "input_embedding_size": 16},
    "RoFormer": {**_SIZES, "embedding_size": 16},
    "Roberta": _AFTER_PADDING,
    "RobertaPreLayerNorm": _AFTER_PADDING,
    "SqueezeBert": {**_SIZES, "embedding_size": 32},
    "T5": _T5,
    "UMT5": _T5,
    "XLM": _XLM,
    "XLMRoberta": _AFTER_PADDING,
    "XLMRobertaXL": _AFTER_PADDING,
    "XLNet": {"vocab_size": 400, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "Xmod": {**_AFTER_PADDING, "languages": ["en_XX"], "default_language": "en_XX"},
    "Yoso": {**_SIZES, "use_expectation": True},
}  # fmt: skip


def make(stem: str, head: str = "Model", **changes: Any) -> Any:
    """A model such as `DistilBertForMaskedLM`, whose weights are large enough to show a mistake."""
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, stem + head)
    model = cls(cls.config_class(**{**SETTINGS[stem], **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.15)  # the row of the padding token, too
    return model


def save(model: Any, folder: Path) -> Path:
    """Save a model with the tokenizer of a golden, whose limit nothing states."""
    model.save_pretrained(folder)
    shutil.copy(GOLDENS / "bert_mean" / "tokenizer.json", folder)
    # The class of a tokenizer that is as tokenizer.json says: XLNet's own has no WordPiece.
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder

"""Tiny rerankers in the layouts of published ones, and their scores by us and by CrossEncoder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from task_rows import finish
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.blocks import Block
from pipeline.encode import encode
from pipeline.encoder.engine import Engine
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.known_rows import RowResults
from pipeline.planning.check_request import check_request
from pipeline.planning.make_spec import make_spec, resolve_model
from pipeline.request import Request
from pipeline.row_keys import row_keys
from pipeline.tasks import make_task

Pair = tuple[str, str]

# Qwen's own pattern, and its special tokens.
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WORDS = (
    "yes no Yes the document judge whether query relevant capital china beijing answer gravity "
    "force instruct retrieve passages web search given that system user assistant think only be"
)

# As Qwen/Qwen3-Reranker-0.6B has it in tokenizer_config.json.
QWEN3_TEMPLATE = """\
{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") \
| first | default("Given a web search query, retrieve relevant passages that answer the query") -%}
{%- set query_text = messages | selectattr("role", "eq", "query") | map(attribute="content") \
| first -%}
{%- set document_text = messages | selectattr("role", "eq", "document") | map(attribute="content") \
| first -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ instruction }}
<Query>: {{ query_text }}
<Document>: {{ document_text }}<|im_end|>
<|im_start|>assistant
<think>

</think>


"""
# The query is the system's message, the document the user's; as rerankers of one token have it.
ZERANK_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'query' -%}<|im_start|>system
{{ message['content'] | trim }}<|im_end|>
{% elif message['role'] == 'document' -%}<|im_start|>user
{{ message['content'] | trim }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
# Qwen2.5 and Qwen3 as they chat: no role of a pair reaches the text.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{%- if message.role in ['user', 'assistant'] %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
)

TEXTS: tuple[Pair, ...] = (
    ("What is the capital of China?", "The capital of China is Beijing."),
    ("Explain gravity", "  Gravity is a force.\n"),
    ("yes", ""),
    (" 北京 ", "北京是中国的首都。🙂 <|im_end|> {{ x }}"),
    ("what is relevant", "the document is relevant " * 30),
    ("a query that is long " * 12, "short"),
)


@cache
def _tokenizer() -> str:
    """A byte-level BPE that has the words of scores as tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [_WORDS, _WORDS.replace(" ", "\n"), "\n\n\n"] * 40
    tokenizer.train_from_iterator(lines, trainer)
    return str(tokenizer.to_str())


def token(word: str) -> int:
    """The id of a token."""
    number = Tokenizer.from_str(_tokenizer()).token_to_id(word)
    assert number is not None, word
    return int(number)


def save_decoder(
    folder: Path,
    kind: str = "Qwen3ForCausalLM",
    *,
    template: str | None = None,
    jinja: str | None = None,
    limit: int = 4096,
    **config: Any,
) -> Path:
    """A tiny decoder with random weights, as transformers saves it."""
    import torch
    import transformers

    family = kind.partition("For")[0]
    sizes: dict[str, Any] = {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": limit, "initializer_range": 0.2, "pad_token_id": 0,
        "eos_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
    family += "Text" * (family == "Gemma3")  # Gemma3Config is that of text and images
    made = getattr(transformers, f"{family}Config")(**{**sizes, **config})
    torch.manual_seed(5)
    getattr(transformers, kind)(made).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(_tokenizer(), encoding="utf-8")
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": limit,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    if template is not None:
        settings["chat_template"] = template
    write(folder / "tokenizer_config.json", settings)
    if jinja is not None:
        (folder / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    return folder


def write(file: Path, content: object) -> None:
    """Write JSON, with its folder."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def save_modules(
    folder: Path,
    *,
    score: dict[str, int | None] | None = None,
    task: str = "text-generation",
    transformer: dict[str, Any] | None = None,
    **saved: Any,
) -> Path:
    """The module files of a CrossEncoder of sentence-transformers 5.4 to 6."""
    package = "sentence_transformers"
    modules = [
        {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": f"{package}.base.modules.transformer.Transformer",
        }
    ]
    if score is not None:
        kind = f"{package}.cross_encoder.modules.logit_score.LogitScore"
        modules.append({"idx": 1, "name": "1", "path": "1_LogitScore", "type": kind})
        write(folder / "1_LogitScore" / "config.json", score)
    write(folder / "modules.json", modules)
    method = {"method": "forward", "method_output_name": "logits"}
    output = "causal_logits" if task == "text-generation" else "scores"
    settings = {
        "transformer_task": task,
        "modality_config": {"text": method, "message": {**method, "format": "flat"}},
        "module_output_name": output,
    }
    write(folder / "sentence_bert_config.json", {**settings, **(transformer or {})})
    write(
        folder / "config_sentence_transformers.json",
        {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None, **saved},
    )
    return folder


class CrossEncoder:
    """CrossEncoder of sentence-transformers on a CPU, eager, one pair at a time."""

    def __init__(self, folder: Path) -> None:
        import sentence_transformers

        self._model = sentence_transformers.CrossEncoder(
            str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"}
        )

    def __call__(
        self, pairs: tuple[Pair, ...], *, max_length: int | None = None, **options: Any
    ) -> np.ndarray:
        """The scores of pairs, with the options of `predict`."""
        if max_length is not None:
            self._model.max_seq_length = max_length
        scores = [self._model.predict(list(pair), **options) for pair in pairs]
        return np.array(scores, dtype=np.float32)


def by_us(
    folder: Path, pairs: tuple[Pair, ...], cache: Path, *, task: str = "rerank", **options: Any
) -> list[dict[str, Any]]:
    """Our result for every pair, with `truncated` and `error`."""
    request = Request(
        inputs=("corpus.parquet",),
        model=str(folder),
        task=task,
        document_column="document",
        **options,
    )
    check_request(request)
    card = resolve_model(request, cache)
    rows = pa.RecordBatch.from_pydict(
        {"query": [query for query, _ in pairs], "document": [document for _, document in pairs]}
    )
    planned: Any = SimpleNamespace(schema=rows.schema, partition={})
    spec = make_spec(request, card, planned)
    bound = make_task(spec, card, load_tokenizer(card))
    tokens = bound.tokenize(rows)
    known = RowResults.all_computed(row_keys(rows, bound.columns_read(spec)))
    blocks = iter([Block((), rows, rows, tokens, known)])
    engine = Engine(card)
    [computed] = encode(engine, blocks, bound, 2048, lambda: False, lambda rows, tokens: None)
    results = finish(bound, rows, tokens, computed.outputs.rows)
    return [
        {**result, "truncated": bool(tokens.truncated[i]), "error": tokens.errors.get(i)}
        for i, result in enumerate(results)
    ]


def scores_by_us(folder: Path, pairs: tuple[Pair, ...], cache: Path, **options: Any) -> np.ndarray:
    """Our score of every pair."""
    return np.array([row["score"] for row in by_us(folder, pairs, cache, **options)], np.float32)

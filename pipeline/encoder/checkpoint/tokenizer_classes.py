"""What the tokenizer classes of transformers 5 make of tokenizer.json, for published encoders.

Most classes take only the vocabulary from it, and rebuild its steps from settings and constants of
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.encoder.checkpoint.tokenizer_outline import TokenizerOutline
from pipeline.encoder.checkpoint.tokenizer_settings import AS_IT_IS, content_of
from pipeline.encoder.checkpoint.tokenizer_template import Template

Options = Mapping[str, Any]
# The keys of a class, for those that read them.
OF_CLASSES = frozenset(
    {
        "add_eos_token",
        "add_prefix_space",
        "do_lower_case",
        "legacy",
        "strip_accents",
        "tokenize_chinese_chars",
        "trim_offsets",
    }
)
_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a class builds, besides the vocabulary."""

    normalizer: list[Options]
    pre_tokenizer: list[Options]
    model: Options
    template: Template | None = None  # None: that of tokenizer.json


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """A tokenizer class of transformers."""

    tokens: Mapping[str, str]  # its special tokens where the files name none
    keys: frozenset[str] = frozenset()  # of OF_CLASSES, those that it reads
    # From the options and the ids of the added tokens; None: it takes tokenizer.json as it is.
    rebuilt: Callable[[Options, Mapping[str, int]], Rebuilt] | None = None
    ignored: frozenset[str] = frozenset()  # of OF_CLASSES, without effect
    may_lack: bool = False  # its special tokens may be null
    resets_flags: bool = False  # it adds its special tokens again, as special and no more


def passes_types(options: Options, class_name: str) -> bool | None:
    """Whether token types are passed to the model; None if only transformers can tell."""
    names = options.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    return class_name == "BertTokenizer" if class_name in CLASSES else None


def contradiction(class_name: str | None, outline: TokenizerOutline) -> str:
    """What a class would drop from tokenizer.json that the file must have been made for; or "".

    AutoTokenizer itself goes by the file where LlamaTokenizer is named and the file is byte-level.
    """
    normalizer = [step.get("type") for step in outline.normalizer]
    pre_tokenizer = [step.get("type") for step in outline.pre_tokenizer]
    if class_name == "XLMRobertaTokenizer" and normalizer and "Precompiled" not in normalizer:
        return f"the normalizer {normalizer[0]}"
    if class_name == "GemmaTokenizer" and "ByteLevel" in pre_tokenizer:
        return "byte-level tokens"
    if class_name == "Qwen2Tokenizer" and pre_tokenizer == ["ByteLevel"]:
        return "the pattern of words"
    return ""


def _bert(options: Options, ids: Mapping[str, int]) -> Rebuilt:
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": options.get("tokenize_chinese_chars", True),
        "strip_accents": options.get("strip_accents"),
        "lowercase": options.get("do_lower_case", True),
    }
    model = {
        "type": "WordPiece",
        "unk_token": content_of(options["unk_token"]),
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    surrounding = Template.bert(_id(ids, options, "cls"), _id(ids, options, "sep"))
    return Rebuilt([normalizer], [{"type": "BertPreTokenizer"}], model, surrounding)


def _mpnet(options: Options, ids: Mapping[str, int]) -> Rebuilt:
    bert = _bert(options, ids)
    surrounding = Template.roberta(
        _id(ids, options, "cls"), _id(ids, options, "sep"), (True, False)
    )
    return Rebuilt(bert.normalizer, bert.pre_tokenizer, bert.model, surrounding)


def _roberta(options: Options, ids: Mapping[str, int]) -> Rebuilt:
    spaced = options.get("add_prefix_space", False)
    step = {"type": "ByteLevel", "add_prefix_space": spaced, "use_regex": True}
    trims = options.get("trim_offsets", True), spaced
    surrounding = Template.roberta(_id(ids, options, "cls"), _id(ids, options, "sep"), trims)
    return Rebuilt([], [step], _bpe(), surrounding)


def _xlm_roberta(options: Options, ids: Mapping[str, int]) -> Rebuilt:
    scheme = "always" if options.get("add_prefix_space", True) else "never"
    metaspace = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": scheme,
        "split": True,
    }
    surrounding = Template.roberta(_id(ids, options, "bos"), _id(ids, options, "eos"))
    return Rebuilt(
        [{"type": "Precompiled"}],
        [{"type": "WhitespaceSplit"}, metaspace],
        {"type": "Unigram", "unk_id": 3, "byte_fallback": False},
        surrounding,
    )


def _qwen2(options: Options, ids: Mapping[str, int]) -> Rebuilt:
    split = {
        "type": "Split",
        "pattern": {"Regex": _QWEN2_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    spaced = bool(options.get("add_prefix_space"))
    step = {"type": "ByteLevel", "add_prefix_space": spaced, "use_regex": False}
    return Rebuilt([{"type": "NFC"}], [split, step], _bpe())


def _gemma(options: Options, ids: Mapping[str, int]) -> Rebuilt:
    model = _bpe(unk_token=content_of(options["unk_token"]), fuse_unk=True, byte_fallback=True)
    split = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return Rebuilt([normalizer], [split], model)


def _bpe(**changes: Any) -> Options:
    plain = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return plain | changes


def _id(ids: Mapping[str, int], options: Options, name: str) -> int:
    """The id of a special token, which is an added token of the file."""
    return ids[str(content_of(options[f"{name}_token"]))]


_BERT_KEYS = frozenset({"do_lower_case", "strip_accents", "tokenize_chinese_chars"})
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_END = "<|endoftext|>"
CLASSES: Mapping[str, TokenizerClass] = {
    AS_IT_IS: TokenizerClass({}, ignored=OF_CLASSES - {"add_eos_token", "add_prefix_space"}),
    "BertTokenizer": TokenizerClass(
        {
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
        _BERT_KEYS,
        _bert,
    ),
    "MPNetTokenizer": TokenizerClass({**_ROBERTA_TOKENS, "unk_token": "[UNK]"}, _BERT_KEYS, _mpnet),
    "RobertaTokenizer": TokenizerClass(
        _ROBERTA_TOKENS, frozenset({"add_prefix_space", "trim_offsets"}), _roberta
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        _ROBERTA_TOKENS, frozenset({"add_prefix_space"}), _xlm_roberta
    ),
    "GemmaTokenizer": TokenizerClass(
        {
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        rebuilt=_gemma,
    ),
    "Qwen2Tokenizer": TokenizerClass(
        {"unk_token": _END, "eos_token": _END, "pad_token": _END},
        frozenset({"add_prefix_space"}),
        _qwen2,
        may_lack=True,
        resets_flags=True,
    ),
}

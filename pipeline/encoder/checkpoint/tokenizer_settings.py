"""What a checkpoint's JSON files say about its tokenizer besides tokenizer.json.

Merged as `PreTrainedTokenizerBase._from_pretrained` of transformers 5 does, and the class chosen as
its AutoTokenizer does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.encoder.checkpoint.bounds import MAX_ADDED_TOKENS
from pipeline.encoder.checkpoint.config_values import Config
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN
from pipeline.encoder.checkpoint.shown import shown
from pipeline.errors import CheckpointError

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
# Of an added token.
_TOKEN_KEYS = {"content", "lstrip", "rstrip", "single_word", "normalized", "special"}
EXTRA_TOKENS = ("extra_special_tokens", "additional_special_tokens")
# The class that takes tokenizer.json as it is.
AS_IT_IS = "TokenizersBackend"
# model_type → the tokenizer class that transformers registers for it, None for none. For other
# types only transformers knows.
_REGISTERED: Mapping[str, str | None] = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "nomic_bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "gte": "XLMRobertaTokenizer",
    "mpnet": "MPNetTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "modernbert": AS_IT_IS,
    "llama": None,
    "llama_bidirec": None,
    "new": None,
}
# Types whose registered class is taken whatever class the files name.
_NAMED_WRONGLY = ("modernbert", "qwen2")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """The settings of a tokenizer, and the class that reads them."""

    options: Mapping[str, Any]
    # Tokens by id as added_tokens.json names them; tokenizer_config.json's own list wins.
    added: Mapping[str, Any]
    class_name: str | None  # None: only transformers can tell


def read_settings(files: CheckpointFiles, config: Config) -> TokenizerSettings:
    """The settings of a checkpoint's tokenizer.

    Raises:
        CheckpointError: a file is damaged, or names a tokenizer.json of another name.
    """
    file = files.folder / "tokenizer_config.json"
    options = dict(files.json(file))
    if named := options.get("fast_tokenizer_files"):
        raise CheckpointError(
            f"{file} names fast_tokenizer_files = {shown(named)}, each for some versions of "
            "transformers",
            hint="delete the key, so that tokenizer.json is read",
        )
    added: Mapping[str, Any] = {}
    if "added_tokens_decoder" not in options:
        named = files.json(files.folder / "special_tokens_map.json")
        options |= {key: _typed(key, value) for key, value in named.items()}
        added = files.json(files.folder / "added_tokens.json")
    for tokens in (options.get("added_tokens_decoder"), added):
        if isinstance(tokens, dict) and len(tokens) > MAX_ADDED_TOKENS:
            raise CheckpointError(
                f"{file.parent} adds {len(tokens):,} tokens; at most {MAX_ADDED_TOKENS:,} are read",
                hint=DOWNLOAD_AGAIN,
            )
    return TokenizerSettings(options, added, _class_name(options, config))


def _class_name(options: Mapping[str, Any], config: Config) -> str | None:
    """The class that AutoTokenizer takes, None if only transformers can tell."""
    kind = config.get("model_type")
    named = options.get("tokenizer_class") or config.get("tokenizer_class")
    if not isinstance(kind, str) or kind not in _REGISTERED or not isinstance(named, str | None):
        return None
    registered = _REGISTERED[kind]
    if named is None:
        return registered
    name = named.removesuffix("Fast")
    if registered == AS_IT_IS or name in ("PreTrainedTokenizer", AS_IT_IS):
        return AS_IT_IS
    return registered if kind in _NAMED_WRONGLY else name


def _typed(key: str, token: Any) -> Any:
    """A token of special_tokens_map.json as tokenizer_config.json writes it.

    What it may hold besides, only transformers can tell.
    """
    if key in SPECIAL_TOKENS and isinstance(token, dict) and token.keys() <= _TOKEN_KEYS:
        return {"__type": "AddedToken", **token}
    return token


def content_of(token: Any) -> str | None:
    """The text of a token as these files write it, None if it is none."""
    if isinstance(token, dict) and token.get("__type") == "AddedToken":
        token = token.get("content")
    return token if isinstance(token, str) else None

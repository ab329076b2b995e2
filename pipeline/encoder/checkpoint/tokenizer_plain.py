"""Whether tokenizer.json, read as it is, equals what transformers' class makes of it.

Where it does, it is read without transformers, whose import takes seconds; where anything is
otherwise, or not known here, transformers builds the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.encoder.checkpoint.tokenizer_classes import (
    CLASSES,
    OF_CLASSES,
    Options,
    TokenizerClass,
)
from pipeline.encoder.checkpoint.tokenizer_outline import Step, TokenizerOutline
from pipeline.encoder.checkpoint.tokenizer_settings import (
    EXTRA_TOKENS,
    SPECIAL_TOKENS,
    TokenizerSettings,
    content_of,
)
from pipeline.encoder.checkpoint.tokenizer_template import Template, template

# Keys that change no token, or that are read elsewhere: the limit, the side, the types.
_WITHOUT_EFFECT = frozenset(
    {
        "add_bos_token",
        "added_tokens_decoder",
        "backend",
        "chat_template",
        "clean_up_tokenization_spaces",
        "do_basic_tokenize",
        "errors",
        "is_local",
        "local_files_only",
        "max_len",
        "max_length",
        "merges_file",
        "model_input_names",
        "model_max_length",
        "name_or_path",
        "never_split",
        "pad_to_multiple_of",
        "pad_token_type_id",
        "padding_side",
        "processor_class",
        "sp_model_kwargs",
        "special_tokens_map_file",
        "split_special_tokens",
        "stride",
        "tokenizer_class",
        "tokenizer_file",
        "truncation_side",
        "truncation_strategy",
        "unk_id",
        "use_fast",
        "vocab_file",
        *SPECIAL_TOKENS,
        *EXTRA_TOKENS,
    }
)
# Of BPE, where none is the same as an empty one.
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
# What old files leave out, by the type of a step or a model.
_DEFAULTS: Mapping[Any, Options] = {
    "ByteLevel": {"use_regex": True},
    "Metaspace": {"split": True, "prepend_scheme": "always"},
    "BPE": {"ignore_merges": False, "byte_fallback": False},
    "Unigram": {"byte_fallback": False},
}


def is_plain(
    settings: TokenizerSettings, class_name: str, outline: TokenizerOutline, *, offsets: bool
) -> bool:
    """Whether the tokenizer is tokenizer.json as it is.

    Args:
        settings: of the checkpoint.
        class_name: the class that is used.
        outline: of tokenizer.json.
        offsets: whether the offsets of tokens matter, not only their ids.
    """
    known = CLASSES.get(class_name)
    try:
        return known is not None and _is_plain(settings, known, outline, offsets=offsets)
    except (KeyError, TypeError, ValueError):  # of values that no file has: transformers refuses
        return False


def _is_plain(
    settings: TokenizerSettings, known: TokenizerClass, outline: TokenizerOutline, *, offsets: bool
) -> bool:
    if not _keys_are_known(settings.options, known):
        return False
    if not _tokens_are_there(settings, known, outline):
        return False
    if known.rebuilt is None:
        return True
    ids = {str(token.get("content")): token["id"] for token in outline.added_tokens}
    expected = known.rebuilt({**known.tokens, **settings.options}, ids)
    return (
        outline.added_in_order
        and _same(outline.normalizer, expected.normalizer)
        and _same(outline.pre_tokenizer, expected.pre_tokenizer)
        and _same([outline.model], [expected.model])
        and _same_template(outline, expected.template, offsets=offsets)
    )


def _keys_are_known(options: Options, known: TokenizerClass) -> bool:
    """Whether no option may change a token without this file knowing."""
    for key, value in options.items():
        inert = key in _WITHOUT_EFFECT or key in known.ignored
        of_class = key in known.keys and (value is None or isinstance(value, bool))
        if not inert and not of_class and not (key in OF_CLASSES and not value):
            return False
    side, split = options.get("truncation_side", "right"), options.get("split_special_tokens")
    names = options.get("model_input_names", [])
    return (
        side in ("left", "right")
        and options.get("padding_side", "right") in ("left", "right")
        and split in (None, False, True)
        and isinstance(names, list)
    )


def _tokens_are_there(
    settings: TokenizerSettings, known: TokenizerClass, outline: TokenizerOutline
) -> bool:
    """Whether every token that the files name is an added token of tokenizer.json already."""
    options = settings.options
    there = {token.get("content") for token in outline.added_tokens}
    for name in SPECIAL_TOKENS:
        default = known.tokens.get(name)
        if name in options and options[name] is None and (default is None or known.may_lack):
            continue
        token = options.get(name, default)
        if (token is not None or name in options) and content_of(token) not in there:
            return False
    for name in EXTRA_TOKENS:
        extra = options.get(name) or []
        if not isinstance(extra, list) or any(content_of(token) not in there for token in extra):
            return False
    file = {token.get("id"): _flags(token) for token in outline.added_tokens}
    if known.resets_flags and not _have_no_flags(settings, known, list(file.values())):
        return False
    if any(file.get(number, [None])[0] != token for token, number in settings.added.items()):
        return False
    decoder = options.get("added_tokens_decoder")
    if decoder is None:
        return True
    if not isinstance(decoder, dict) or not all(str(key).isdecimal() for key in decoder):
        return False
    named = {int(key): _flags(token) for key, token in decoder.items()}
    if known.rebuilt is not None:
        return named == file
    return all(file.get(number) == token for number, token in named.items())


def _have_no_flags(settings: TokenizerSettings, known: TokenizerClass, file: list[Any]) -> bool:
    """Whether the special tokens have no flags in tokenizer.json but that they are special."""
    named = {**known.tokens, **settings.options}
    tokens = [named.get(name) for name in SPECIAL_TOKENS]
    for name in EXTRA_TOKENS:
        tokens += named.get(name) or []
    special = {content_of(token) for token in tokens if token is not None}
    return all(flags[1:] == [True, *[False] * 4] for flags in file if flags[0] in special)


def _flags(token: Any) -> list[Any]:
    """Content and flags of an added token."""
    if not isinstance(token, dict):
        return [None]
    special = token.get("special", False)
    flags = [token.get(flag, False) for flag in ("single_word", "lstrip", "rstrip")]
    return [token.get("content"), special, token.get("normalized", not special), *flags]


def _same(steps: tuple[Step, ...] | list[Step], expected: list[Options]) -> bool:
    """Whether steps have the types and settings that are expected."""
    if len(steps) != len(expected):
        return False
    for step, wanted in zip(steps, expected, strict=True):
        full = {**_DEFAULTS.get(wanted["type"], {}), **step}
        if step.get("add_prefix_space") is False and wanted["type"] == "Metaspace":
            full.setdefault("prepend_scheme", "never")
        for key, value in wanted.items():
            found = full.get(key)
            if found != value and not (key in _AFFIXES and not found and not value):
                return False
    return True


def _same_template(outline: TokenizerOutline, expected: Template | None, *, offsets: bool) -> bool:
    found = template(outline.post_processor)
    if expected is None or found is None:
        return expected is None
    same = (found.single, found.pair) == (expected.single, expected.pair)
    return same and (not offsets or found.trims == expected.trims)

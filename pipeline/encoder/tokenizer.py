"""The tokenizer of a checkpoint, with every quirk that its authors' code applies.

Imports `tokenizers`; transformers only if a checkpoint has no tokenizer.json.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, processors

from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.checkpoint import VOCABULARY_FILES, Checkpoint
from pipeline.encoder.checkpoint.read_json import read_json
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.encoder.checkpoint.tokenizer_check import check_tokenizer
from pipeline.encoder.checkpoint.tokenizer_outline import outline
from pipeline.errors import CheckpointError

# An Egyptian hieroglyph: no vocabulary has it, and no normalizer drops it.
_UNKNOWN_CHARACTER = "\N{EGYPTIAN HIEROGLYPH A001}"
# Models whose published loader passes add_prefix_space, which their files do not set, by the last
# part of the name: a copy in a directory, a store or an archive needs the option too.
_ADD_PREFIX_SPACE = ("tanaos-NER-v1",)
_ADD_TOKENIZER = "add the tokenizer.json that save_pretrained of a fast tokenizer writes"


def load_tokenizer(card: ModelCard) -> Tokenizer:
    """The tokenizer of a checkpoint: no truncation, no padding, every quirk applied.

    Quirks: an end-of-text token that tokenizer_config.json requests and tokenizer.json lacks
    (gte-Qwen2); lower case requested by sentence-transformers' module files; a space before the
    first word requested by tokenizer_config.json or by the authors' loader (tanaos-NER).

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.
    """
    checkpoint = card.checkpoint
    settings = checkpoint.files.json(checkpoint.folder / "tokenizer_config.json")
    tokenizer = _read(checkpoint)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _check_unknown_token(tokenizer, checkpoint)
    if card.config.static:  # its authors' code reads tokenizer.json alone, without special tokens
        tokenizer.post_processor = None
        return tokenizer
    if settings.get("add_eos_token"):
        _append_end(tokenizer, settings, checkpoint)
    if settings.get("add_prefix_space") or _last_part(checkpoint.name) in _ADD_PREFIX_SPACE:
        tokenizer = _with_prefix_space(tokenizer)
    if card.modules.do_lower_case:
        _lower(tokenizer)
    return tokenizer


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> int:
    """Leading tokens that a prompt takes, including special tokens before it but not after it."""
    mask = tokenizer.encode(prompt).special_tokens_mask
    return max((i + 1 for i, special in enumerate(mask) if not special), default=0)


def _read(checkpoint: Checkpoint) -> Tokenizer:
    file = checkpoint.folder / "tokenizer.json"
    if not file.is_file():
        return _convert(checkpoint)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{file} is not a tokenizer: {one_line(error)}") from error


def _check_unknown_token(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Raise now where a text with an unknown character would end a job later."""
    try:
        tokenizer.encode(_UNKNOWN_CHARACTER)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            f"the tokenizer of {checkpoint.folder} has no token for unknown characters: "
            f"{one_line(error)}",
            hint="download the checkpoint again: its unknown token is not in its vocabulary",
        ) from error


def _convert(checkpoint: Checkpoint) -> Tokenizer:
    """Build the tokenizer from vocabulary files, as transformers does."""
    folder = checkpoint.folder
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        # transformers would build a tokenizer without a vocabulary.
        raise CheckpointError(
            f"{folder} has neither tokenizer.json nor a vocabulary",
            hint=_ADD_TOKENIZER,
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise CheckpointError(
            f"{folder} has no tokenizer.json, and transformers, which could build one, "
            "is not installed",
            hint="pip install transformers",
        ) from error
    try:
        built = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        backend: Tokenizer = built.backend_tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # many kinds, and panics of Rust, which are no Exception
        raise CheckpointError(
            f"{folder} has no tokenizer.json and none can be built: {one_line(error)}",
            hint=_ADD_TOKENIZER,
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tokenizer.json"
        backend.save(str(file))
        check_tokenizer(file, outline(read_json(file), file), folder)
    return backend


def _last_part(name: str) -> str:
    """The last part of a name, path or URI, without an archive's suffix."""
    last = name.partition("?")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"\.(tar\.gz|tgz|tar)$", "", last)


def _token(settings: Mapping[str, Any], name: str) -> str | None:
    value = settings.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return None if value is None else str(value)


def _append_end(tokenizer: Tokenizer, settings: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Append the end token to every sequence unless the tokenizer does so already."""
    end = _token(settings, "eos_token")
    end_id = None if end is None else tokenizer.token_to_id(end)
    if end is None or end_id is None:
        raise CheckpointError(
            f"{checkpoint.folder / 'tokenizer_config.json'} sets add_eos_token but its eos_token "
            f"{shown(end)} is not in the vocabulary"
        )
    if tokenizer.encode("a").ids[-1:] == [end_id]:
        return
    template = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, end_id)]
    )
    before = tokenizer.post_processor
    tokenizer.post_processor = (
        template if before is None else processors.Sequence([before, template])
    )


def _with_prefix_space(tokenizer: Tokenizer) -> Tokenizer:
    """Set add_prefix_space on every byte-level step."""
    content = json.loads(tokenizer.to_str())
    for stage in ("pre_tokenizer", "post_processor"):
        step = content.get(stage) or {}
        nested = step.get("pretokenizers") or step.get("processors") or [step]
        for inner in nested:
            if "add_prefix_space" in inner:
                inner["add_prefix_space"] = True
    return Tokenizer.from_str(json.dumps(content))


def _lower(tokenizer: Tokenizer) -> None:
    """Convert to lower case first, unless the tokenizer's own normalizer does so already."""
    steps = json.loads(tokenizer.to_str())["normalizer"] or {}
    for step in steps.get("normalizers", [steps]):
        if step.get("type") == "Lowercase" or step.get("lowercase"):
            return
    before = tokenizer.normalizer
    lower = normalizers.Lowercase()
    tokenizer.normalizer = lower if before is None else normalizers.Sequence([lower, before])

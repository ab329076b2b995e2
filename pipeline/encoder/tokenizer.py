"""The tokenizer of a checkpoint, with every quirk that its authors' code applies, and its limits.

Imports `tokenizers` only; transformers, lazily, where a checkpoint has no tokenizer.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, normalizers, processors

from pipeline.encoder.card import ModelCard
from pipeline.encoder.checkpoint.checkpoint import VOCABULARY_FILES, Checkpoint
from pipeline.errors import CheckpointError

# An Egyptian hieroglyph: no vocabulary has it, and no normalizer drops it.
_RARE = "\N{EGYPTIAN HIEROGLYPH A001}"
# Published loaders that pass an option which their files do not hold, by the last part of the
# name: a copy in a directory, a store or an archive needs the option as well.
_ADD_PREFIX_SPACE = ("tanaos-NER-v1",)


def load_tokenizer(card: ModelCard) -> Tokenizer:
    """The tokenizer of a checkpoint: no truncation, no padding, every quirk applied.

    Quirks: an end-of-text token that tokenizer_config.json asks for and tokenizer.json forgot
    (gte-Qwen2); lower case asked for by sentence-transformers' module files; a space before the
    first word asked for by tokenizer_config.json or by the authors' loader (tanaos-NER).

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.
    """
    checkpoint = card.checkpoint
    settings = checkpoint.files.json(checkpoint.folder / "tokenizer_config.json")
    tokenizer = _read(checkpoint)
    _meet_an_unknown(tokenizer, checkpoint)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if settings.get("add_eos_token"):
        _append_end(tokenizer, settings, checkpoint)
    if settings.get("add_prefix_space") or _last_part(checkpoint.name) in _ADD_PREFIX_SPACE:
        tokenizer = _with_prefix_space(tokenizer)
    if card.modules.do_lower_case:
        _lower(tokenizer)
    return tokenizer


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> int:
    """Leading tokens that a prompt takes, special ones before it counted, those after it not."""
    mask = tokenizer.encode(prompt).special_tokens_mask
    return max((i + 1 for i, special in enumerate(mask) if not special), default=0)


def _read(checkpoint: Checkpoint) -> Tokenizer:
    file = checkpoint.folder / "tokenizer.json"
    if not file.is_file():
        return _convert(checkpoint)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{file} is not a tokenizer: {error}") from error


def _meet_an_unknown(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Raise where a text with an unknown character would end a job: better now than then."""
    try:
        tokenizer.encode(_RARE)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            f"the tokenizer of {checkpoint.folder} has no token for what it does not know: {error}",
            hint="Fetch the checkpoint again: its unknown token is not in its vocabulary.",
        ) from error


def _convert(checkpoint: Checkpoint) -> Tokenizer:
    """Build the tokenizer from vocabulary files, as transformers does."""
    folder = checkpoint.folder
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        # transformers would make one without a vocabulary.
        raise CheckpointError(
            f"{folder} has neither tokenizer.json nor a vocabulary",
            hint="Add the tokenizer.json that save_pretrained of a fast tokenizer writes.",
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
    except Exception as error:  # whatever the conversion meets in a foreign file
        raise CheckpointError(
            f"{folder} has no tokenizer.json and none can be built: {error}",
            hint="Add the tokenizer.json that save_pretrained of a fast tokenizer writes.",
        ) from error
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
    """Make every sequence end in the end token, where it does not yet."""
    end = _token(settings, "eos_token")
    number = None if end is None else tokenizer.token_to_id(end)
    if end is None or number is None:
        raise CheckpointError(
            f"{checkpoint.folder / 'tokenizer_config.json'} sets add_eos_token but its eos_token "
            f"{end!r} is not in the vocabulary"
        )
    if tokenizer.encode("a").ids[-1:] == [number]:
        return
    template = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, number)]
    )
    before = tokenizer.post_processor
    tokenizer.post_processor = (
        template if before is None else processors.Sequence([before, template])
    )


def _with_prefix_space(tokenizer: Tokenizer) -> Tokenizer:
    """Set add_prefix_space on every byte-level step."""
    content = json.loads(tokenizer.to_str())
    for part in ("pre_tokenizer", "post_processor"):
        step = content.get(part) or {}
        nested = step.get("pretokenizers") or step.get("processors") or [step]
        for each in nested:
            if "add_prefix_space" in each:
                each["add_prefix_space"] = True
    return Tokenizer.from_str(json.dumps(content))


def _lower(tokenizer: Tokenizer) -> None:
    """Lower case first, unless the tokenizer's own normalizer does it already."""
    steps = json.loads(tokenizer.to_str())["normalizer"] or {}
    for step in steps.get("normalizers", [steps]):
        if step.get("type") == "Lowercase" or step.get("lowercase"):
            return
    before = tokenizer.normalizer
    lower = normalizers.Lowercase()
    tokenizer.normalizer = lower if before is None else normalizers.Sequence([lower, before])

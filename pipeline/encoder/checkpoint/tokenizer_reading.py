"""How the tokenizer of a checkpoint is read: one, the one that its authors' code builds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.config_values import head_kind, is_whole
from pipeline.encoder.checkpoint.read_json import canonical_json, read_json
from pipeline.encoder.checkpoint.shown import shown
from pipeline.encoder.checkpoint.tokenizer_build import BuiltTokenizer, build_tokenizer
from pipeline.encoder.checkpoint.tokenizer_classes import contradiction, passes_types
from pipeline.encoder.checkpoint.tokenizer_outline import TokenizerOutline, outline
from pipeline.encoder.checkpoint.tokenizer_plain import is_plain
from pipeline.encoder.checkpoint.tokenizer_settings import (
    AS_IT_IS,
    TokenizerSettings,
    content_of,
    read_settings,
)
from pipeline.encoder.checkpoint.tokenizer_template import template
from pipeline.errors import CheckpointError

# Models whose published loader passes add_prefix_space, which their files do not set, by the last
# part of the name: a copy in a directory, a store or an archive needs the option too.
_ADD_PREFIX_SPACE = ("tanaos-NER-v1",)
# transformers writes 10^30 where a tokenizer has no limit.
_NO_LIMIT = 10**9


class TokenizerReading:
    """Whether tokenizer.json is the tokenizer, and what else its settings say.

    Nothing is loaded: where transformers has to build the tokenizer, it does so once, when that is
    needed for the first time.

    Args:
        checkpoint: its files are read.

    Raises:
        CheckpointError: a file is damaged.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._built: BuiltTokenizer | None = None
        self._change: tuple[str | None] | None = None
        static = checkpoint.files.static  # whose authors read tokenizer.json alone
        settings = TokenizerSettings({}, {}, AS_IT_IS)
        if not static:
            settings = read_settings(checkpoint.files, checkpoint.config)
        if _last_part(checkpoint.name) in _ADD_PREFIX_SPACE:
            settings = replace(settings, options={**settings.options, "add_prefix_space": True})
        self.options: Mapping[str, Any] = settings.options
        parts = checkpoint.files.tokenizer
        dropped = contradiction(settings.class_name, parts) if parts is not None else ""
        self._named = settings.class_name
        self._as_it_is = bool(dropped)
        self._class = AS_IT_IS if dropped else settings.class_name
        self._offsets = head_kind(checkpoint.config) == "token_classifier"
        # The token that ends every text although tokenizer.json omits it, None if there is none:
        # gte-Qwen2 sets add_eos_token, which its authors' tokenizer obeys and transformers' does
        # not.
        self.end_token: str | None = None
        if self._named == "Qwen2Tokenizer" and self.options.get("add_eos_token"):
            self.end_token = content_of(self.options.get("eos_token")) or ""
            settings = replace(settings, options={**self.options, "add_eos_token": False})
        # Whether tokenizer.json needs an option of RoBERTa's class that it was saved without.
        self.adds_space = self._class == "RobertaTokenizer" and bool(
            self.options.get("add_prefix_space")
        )
        # Whether tokenizer.json, with no more than that space, is the tokenizer.
        self.is_plain = static or (
            parts is not None
            and self._class is not None
            and is_plain(
                settings,
                self._class,
                _spaced(parts) if self.adds_space else parts,
                offsets=self._offsets,
            )
        )
        # Why tokenizer.json is read in another way than the files ask for, "" if it is not.
        self.note = ""
        if dropped:
            self.note = f"{self._named}, which the files name, would drop {dropped}"
        elif parts is not None and self._lacks_end(parts):
            self.note = "transformers reads no add_eos_token, which is set, where it is there"
        elif "auto_map" in self.options:
            self.note = "its own code, which tokenizer_config.json names, is never run"

    @property
    def departs(self) -> str:
        """Why its tokens are on purpose not those of AutoTokenizer, "" where they are."""
        if self._as_it_is:
            return self.note
        if self.end_token:
            return "the authors' tokenizer appends an end token, which transformers' does not"
        return ""

    @property
    def built(self) -> BuiltTokenizer:
        """The tokenizer as transformers builds it.

        Raises:
            CheckpointError: it cannot.
        """
        if self._built is None:
            self._built = build_tokenizer(
                self._checkpoint,
                as_it_is=self._as_it_is,
                options={"add_prefix_space": True} if self.adds_space else {},
            )
        return self._built

    @property
    def limit(self) -> int | None:
        """The most tokens that the files allow, None for no limit.

        Raises:
            CheckpointError: it is not a valid length.
        """
        options = self.options  # max_len is the name of old files
        limit = options.get("model_max_length", options.get("max_len"))
        if limit is not None and not is_whole(limit):
            raise CheckpointError(
                f"{self._checkpoint.folder / 'tokenizer_config.json'} sets model_max_length = "
                f"{shown(limit)}, which is not a valid length"
            )
        return None if limit is None else int(min(limit, _NO_LIMIT))

    @property
    def truncation_side(self) -> str:
        """The side that long texts lose unless the user says: right or left."""
        if not self.is_plain:
            return self.built.truncation_side
        parts = self._checkpoint.files.tokenizer
        cut = {} if parts is None else parts.truncation
        default = "left" if cut.get("direction") == "Left" else "right"
        return str(self.options.get("truncation_side", default))

    @property
    def passes_types(self) -> bool:
        """Whether token types are passed to a model that has them."""
        known = passes_types(self.options, self._class or "") if self.is_plain else None
        return self.built.passes_types if known is None else known

    @property
    def splits_special_tokens(self) -> bool:
        """Whether special tokens that a text contains are read as text."""
        if not self.is_plain:
            return self.built.splits_special_tokens
        return bool(self.options.get("split_special_tokens"))

    def change(self) -> str | None:
        """A hash of the tokenizer where bei-jobs 0.1.0 read another one, else None.

        It then read tokenizer.json as it was, but for add_eos_token and add_prefix_space.
        """
        if self._change is None:
            self._change = (self._find_change(),)
        return self._change[0]

    def _find_change(self) -> str | None:
        splits = self.splits_special_tokens
        parts = self._checkpoint.files.tokenizer
        if self.is_plain or parts is None:
            return _digest(b"", splits) if splits else None
        before = read_json(self._checkpoint.folder / "tokenizer.json")
        if self.options.get("add_prefix_space"):
            with_prefix_space(before)
        after = self._comparable(json.loads(self.built.json))
        if not splits and not self._lacks_end(parts) and after == self._comparable(before):
            return None
        return _digest(after, splits)

    def _lacks_end(self, parts: TokenizerOutline) -> bool:
        """Whether an end token is asked for that the authors' code does not append."""
        if self.end_token is not None or not self.options.get("add_eos_token"):
            return False
        end = content_of(self.options.get("eos_token"))
        numbers = [token.get("id") for token in parts.added_tokens if token.get("content") == end]
        found = template(parts.post_processor)
        return found is None or [piece[0] for piece in found.single[-1:]] != numbers

    def _comparable(self, content: Any) -> bytes:
        """What decides the tokens of a tokenizer.json, in one form for all of its versions."""
        from tokenizers import Tokenizer

        file = self._checkpoint.folder / "tokenizer.json"
        content = json.loads(Tokenizer.from_str(json.dumps(content)).to_str())
        surrounding = template(outline(content, file).post_processor)
        if surrounding is not None:
            content["post_processor"] = [surrounding.single, surrounding.pair]
            content["post_processor"] += [surrounding.trims] if self._offsets else []
        for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
            content["model"][affix] = content["model"].get(affix) or None
        pre_tokenizer = outline({**content, "post_processor": None}, file).pre_tokenizer
        # It trims offsets in a post-processor only.
        content["pre_tokenizer"] = [{**step, "trim_offsets": None} for step in pre_tokenizer]
        for key in ("decoder", "truncation", "padding", "version"):
            content.pop(key, None)
        return canonical_json(content, file)


def with_prefix_space(content: dict[str, Any]) -> None:
    """Set add_prefix_space on every byte-level step of a tokenizer.json."""
    for stage in ("pre_tokenizer", "post_processor"):
        step = content.get(stage) or {}
        for inner in step.get("pretokenizers") or step.get("processors") or [step]:
            if "add_prefix_space" in inner:
                inner["add_prefix_space"] = True


def _spaced(parts: TokenizerOutline) -> TokenizerOutline:
    """The outline of a tokenizer.json after `with_prefix_space`."""
    pre_tokenizer, post_processor = (
        tuple(
            {**step, "add_prefix_space": True} if "add_prefix_space" in step else step
            for step in stage
        )
        for stage in (parts.pre_tokenizer, parts.post_processor)
    )
    return replace(parts, pre_tokenizer=pre_tokenizer, post_processor=post_processor)


def _last_part(name: str) -> str:
    """The last part of a name, path or URI, without an archive's suffix."""
    last = name.partition("?")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"\.(tar\.gz|tgz|tar)$", "", last)


def _digest(content: bytes, splits: bool) -> str:
    return hashlib.sha256(b"splits\0" * splits + content).hexdigest()

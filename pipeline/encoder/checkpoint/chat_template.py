"""The chat template that turns a pair of texts into the text that a reranker reads.

A template is a Jinja program of the checkpoint's authors. It is rendered once per prompt, in a
process of its own, and never per row: `pair_template` finds the words that it puts before, between
and after the two texts, and proves on texts made to provoke it that it does nothing else.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

from pipeline.encoder.checkpoint import render_template
from pipeline.encoder.checkpoint.bounds import MAX_TEMPLATE_BYTES
from pipeline.encoder.checkpoint.files import CheckpointFiles
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN, read_bounded
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.errors import CheckpointError

# The process ends itself by CPU time; this is for a machine that stands still.
_TIMEOUT_S = 120
# What sentence-transformers calls the two texts of a pair.
_ROLES = ("query", "document")
# Signs in a template of content in parts, [{"type": "text", "text": …}]: those that
# sentence-transformers looks for, and the model types whose format it knows.
_STRUCTURED = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
_FLAT_TYPES = ("apertus", "deepseek_v3", "gpt_oss", "seed_oss")
_SPECIAL_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
# Arguments of apply_chat_template that are not variables of the template.
_NOT_VARIABLES = frozenset({
    "chat_template", "tools", "documents", "continue_final_message", "tokenize", "messages",
    "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors",
    "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
})  # fmt: skip
_OTHER_TEXT = (
    "write the text that the template makes into a column, and score it with --task classify "
    "--raw-scores, or use another reranker"
)
# What a template may do to a text, by name.
_CHANGES: Mapping[str, Callable[[str], str]] = {
    "none": str,
    "strip": str.strip,
    "lstrip": str.lstrip,
    "rstrip": str.rstrip,
}
_SENTINELS = ("Qk7 sentinel q", "Zx9 sentinel d")
_PROBES = (
    ("alpha", "bravo"),
    ("same", "same"),
    ("  before", "after \n"),
    ("\n\nlines\r\n\n", "\ttab\t"),
    ("\u3000wide\u3000", "\x85next\u00a0"),
    ("", "document"),
    ("query", ""),
    (" ", "\n"),
    ('<a href="x">&amp;\'</a>', "{{ query }} {% if x %} {# c #} \\n \\\\ %s {0} $1 `"),
    ("ÄÖ ß İ 漢字 e\u0301", "🙂\u200b\ufeff नमस्ते"),
    ("<think>\n\nx\n</think>\n\ny", "<|im_start|>user\n[INST] z </s><|im_end|>\n"),
    ("UPPER Title lower", "https://example.org/x.png /a/b.mp3 2026-01-01 3.14"),
    ("long " * 2_000, "word\n" * 4_000),
)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template as published, and how sentence-transformers calls it."""

    source: str
    structured: bool  # whether a message's content is a list of parts
    variables: tuple[tuple[str, Any], ...]  # by name: special tokens, and those of the files
    restores_end: bool  # whether the template's last tokens replace those of a truncated text
    model: str = field(default="", compare=False)  # its name, for messages

    @property
    def names_roles(self) -> bool:
        """Whether the template is one for pairs: it names both roles."""
        return all(re.search(rf"""['"]{role}['"]""", self.source) for role in _ROLES)


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The words around a query and a document, and what happens to the two."""

    before: str
    between: str
    after: str
    changes: tuple[str, str]  # of the query and of the document
    query_first: bool

    def text(self, query: str, document: str) -> str:
        """What the model reads."""
        of_query, of_document = (_CHANGES[change] for change in self.changes)
        pair = of_query(query), of_document(document)
        first, second = pair if self.query_first else pair[::-1]
        return f"{self.before}{first}{self.between}{second}{self.after}"


def read_chat_template(
    files: CheckpointFiles, model: str, model_type: str, settings: Mapping[str, Any]
) -> ChatTemplate | None:
    """The chat template that CrossEncoder renders pairs with, None if there is none.

    Args:
        files: of the checkpoint.
        model: its name, for messages.
        model_type: as config.json says.
        settings: sentence_bert_config.json of a saved CrossEncoder, {} without one.

    Raises:
        CheckpointError: the files do not say which template it is, or how it is called.
    """
    tokenizer = files.json(files.folder / "tokenizer_config.json")
    source = _source(files, tokenizer.get("chat_template"))
    if source is None:
        return None
    called = _called_with(files, settings)
    variables = {name: _text_of(tokenizer.get(name)) for name in _SPECIAL_TOKENS}
    given = {name: value for name, value in variables.items() if value is not None} | called
    restores = bool(given.pop("restore_suffix", True))
    modality = settings.get("modality_config")
    message = modality.get("message") if isinstance(modality, dict) else None
    saved = message.get("format", "auto") if isinstance(message, dict) else "auto"
    structured = saved == "structured"
    if saved == "auto":
        signs = any(sign in source for sign in _STRUCTURED) or not source
        structured = signs and model_type not in _FLAT_TYPES
    return ChatTemplate(source, structured, tuple(sorted(given.items())), restores, model)


def _source(files: CheckpointFiles, configured: Any) -> str | None:
    """The template of chat_template.jinja, or the default one of tokenizer_config.json."""
    file = files.folder / "chat_template.jinja"
    others = files.folder / "additional_chat_templates"
    if file.is_file():
        try:
            return read_bounded(file, MAX_TEMPLATE_BYTES).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{file} is not UTF-8 text", hint=DOWNLOAD_AGAIN) from error
    if isinstance(configured, list):
        named = {t.get("name"): t.get("template") for t in configured if isinstance(t, dict)}
        configured = named.get("default", named or None)
    if any(others.glob("*.jinja")) or not isinstance(configured, str | None):
        raise CheckpointError(
            f"{files.folder} has several chat templates, of which none is the default",
            hint="name one of them chat_template.jinja",
        )
    if configured is not None and len(configured) > MAX_TEMPLATE_BYTES:
        raise CheckpointError(
            f"{files.folder / 'tokenizer_config.json'} has a chat template of more than "
            f"{MAX_TEMPLATE_BYTES:,} characters",
            hint=DOWNLOAD_AGAIN,
        )
    return configured


def _called_with(files: CheckpointFiles, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The saved arguments of apply_chat_template: variables of the template only."""
    processing = settings.get("processing_kwargs") or {}
    called = processing.get("chat_template") or {} if isinstance(processing, dict) else None
    plain = isinstance(called, dict) and all(
        isinstance(value, str | int | float | bool | None) for value in called.values()
    )
    refused = sorted(_NOT_VARIABLES.intersection(called)) if isinstance(called, dict) else []
    if not isinstance(called, dict) or not plain or refused:
        raise CheckpointError(
            f"{files.folder} saves processing_kwargs = {shown(processing)}, which bei-jobs cannot "
            "pass to the chat template",
            hint="chat_template may set variables of the template only"
            + (f", not {', '.join(refused)}" if refused else ""),
        )
    return called


def _text_of(token: Any) -> str | None:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


@cache
def pair_template(template: ChatTemplate, prompt: str) -> PairTemplate:
    """What a template does to pairs, given the prompt.

    Args:
        template: of the checkpoint.
        prompt: the system message; "" for none.

    Raises:
        CheckpointError: it raises, drops one of the texts, depends on the day, or does more than
            putting words around the two.
    """
    if "strftime_now" in template.source:
        raise CheckpointError(
            f"the chat template of {template.model} puts today's date into the text, so a score "
            "would change from day to day",
            hint=_OTHER_TEXT,
        )
    sentinel, *rendered = _render(template, prompt, (_SENTINELS, *_PROBES))
    for role, text in zip(_ROLES, _SENTINELS, strict=True):
        if text.lower() not in sentinel.lower():
            raise CheckpointError(
                f"the chat template of {template.model} is not one for pairs: the {role} does not "
                "reach the text that it makes",
                hint=_OTHER_TEXT,
            )
    found = [
        pair
        for changes in product(_CHANGES, repeat=2)
        if (pair := _split(sentinel, changes)) is not None
        and rendered == [pair.text(*probe) for probe in _PROBES]
    ]
    if not found:
        raise CheckpointError(
            f"the chat template of {template.model} changes some texts; bei-jobs computes "
            "templates that put fixed words around the query and the document",
            hint=_OTHER_TEXT,
        )
    return found[0]


def _split(sentinel: str, changes: tuple[str, ...]) -> PairTemplate | None:
    """The words around the two texts, each of which must stand there once."""
    if any(sentinel.count(text) != 1 for text in _SENTINELS):
        return None
    starts = [sentinel.index(text) for text in _SENTINELS]
    ends = [start + len(text) for start, text in zip(starts, _SENTINELS, strict=True)]
    (_, end), (start, last) = sorted(zip(starts, ends, strict=True))
    return PairTemplate(
        sentinel[: min(starts)],
        sentinel[end:start],
        sentinel[last:],
        (changes[0], changes[1]),
        starts[0] < starts[1],
    )


def _messages(template: ChatTemplate, prompt: str, pair: Sequence[str]) -> list[dict[str, Any]]:
    """A pair as CrossEncoder passes it to the template."""
    contents = [*([("system", prompt)] if prompt else []), *zip(_ROLES, pair, strict=True)]
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if template.structured else text}
        for role, text in contents
    ]


def _render(template: ChatTemplate, prompt: str, pairs: Sequence[Sequence[str]]) -> list[str]:
    """What a template makes of pairs, in a process of its own."""
    given = {
        "template": template.source,
        "conversations": [_messages(template, prompt, pair) for pair in pairs],
        "variables": dict(template.variables),
    }
    said = ""
    try:
        done = subprocess.run(
            # -P: the modules beside the script are not for import.
            [sys.executable, "-P", render_template.__file__],
            input=json.dumps(given).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            texts: list[str] = json.loads(done.stdout)
            return texts
        said = one_line(done.stdout.decode("utf-8", "replace"))
    except subprocess.TimeoutExpired:
        pass
    reason = said or "it uses up the time or the memory that it may have"
    raise CheckpointError(
        f"the chat template of {template.model} cannot be rendered: {reason}", hint=_OTHER_TEXT
    )

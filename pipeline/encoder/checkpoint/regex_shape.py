"""Whether a regular expression is harmless by its shape: matching takes at most linear time per
place of a text.

Tokenizers match with Oniguruma, which tries every way to divide a text among repetitions: `(a+)+$`
takes 2^n steps. It stops after ten million with a panic, which Python cannot catch cleanly.
"""

from __future__ import annotations

import re

# Of GPT-2 and CLIP, of Llama 3 and cl100k, of Qwen2 and 3, and of o200k: their repetitions follow
# each other, and are known to be harmless.
_PUBLISHED = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_MAX_CHARACTERS = 2_000
# A class without classes in it, an escape, an alternative, a group's bounds, and repetitions,
# greedy or lazy. What is odd may mean something else to Oniguruma.
_TOKENS = re.compile(
    r"(?P<class>\[\^?(?:\\.|[^\[\]\\&]|&(?!&))+\])|(?P<back>\\[1-9kg])|(?P<escape>\\.)"
    r"|(?P<or>\|)|(?P<open>\((?:\?(?:i?:|[=!>]|<[=!])|(?!\?)))|(?P<close>\))"
    r"|(?P<many>[*+]|\{\d+,\})|(?P<few>\?|\{,?\d+(?:,\d+)?\})|(?P<odd>[\[\](])|(?P<other>.)",
    re.DOTALL,
)


def is_plain(regex: str) -> bool:
    """Whether an expression repeats no group, and each alternative has at most one repetition."""
    if regex in _PUBLISHED:
        return True
    if len(regex) > _MAX_CHARACTERS:
        return False
    repetitions, closed = 0, False
    for token in _TOKENS.finditer(regex):
        kind, text = token.lastgroup, token.group()
        if kind in ("back", "odd") or (closed and kind in ("many", "few") and text != "?"):
            return False
        if kind == "few" and any(int(n) > 100 for n in re.findall(r"\d{1,9}", text)):
            return False
        if kind in ("or", "many"):
            repetitions = 0 if kind == "or" else repetitions + 1
        if repetitions > 1:
            return False
        closed = kind == "close"
    return True

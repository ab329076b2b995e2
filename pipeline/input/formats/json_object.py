"""A line of JSON → the object that it is, with words about what else it may be."""

from __future__ import annotations

import json
from typing import Any

from pipeline.input.formats.base import ContentError
from pipeline.input.formats.invalid_text import escaped, is_text

_ARRAY, _OBJECT = (
    "array: make it JSON Lines with jq -c '.[]'",
    "object: make it a line with jq -c .",
)
_NOT_LINES = "; if the file is one JSON %s in.json > out.jsonl, or read_json of polars or DuckDB"


def json_object(line: bytes, row: int) -> dict[str, Any]:
    """The object on a line.

    Args:
        line: its bytes, which need not be UTF-8: see `escaped`.
        row: its number, for the words of an error.

    Raises:
        ContentError: it is something else, or has a key twice.
    """
    try:
        value = json.loads(escaped(line), object_pairs_hook=_note_repeated_key)
    except (ValueError, RecursionError) as error:
        raise ContentError(_not_json(line, row, error)) from error
    if not isinstance(value, dict):
        kind = f"a JSON {type(value).__name__}, not an object"
        raise ContentError(f"row {row} is {kind}{_advice(line, row)}")
    if isinstance(value, _RepeatedKey):
        raise ContentError(f"row {row} has the key {value.key!r} twice")
    return value


class _RepeatedKey(dict[str, Any]):
    """An object in which `key` occurs more than once."""

    key = ""


def _note_repeated_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    repeated = _RepeatedKey(value)
    names = [name for name, _ in pairs]
    repeated.key = next(name for name in names if names.count(name) > 1)
    return repeated


def repeats(value: Any) -> bool:
    """Whether an object of a value, at any depth, has a key twice."""
    return isinstance(value, (dict, list)) and bool(repeated_key(value))


def repeated_key(value: Any) -> str:
    """A key that is twice in one object of a value, at any depth; "" if there is none."""
    if isinstance(value, _RepeatedKey):
        return value.key
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(repeated_key, inner)), "")


def _not_json(line: bytes, row: int, error: Exception) -> str:
    # Python refuses to convert integers of more than 4,300 digits, in words about itself.
    long_number = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError)
    reason = "a number has thousands of digits" if long_number else error
    problem = "not JSON" if is_text(escaped(line)) else "neither UTF-8 nor JSON"
    return f"row {row} is {problem}: {reason}{_advice(line, row, error)}"


def _advice(line: bytes, row: int, error: Exception | None = None) -> str:
    """What to do about a first line that is an array, or begins an object of several lines."""
    start = line.lstrip()[:1] if row == 0 else b""
    if start == b"[":
        return _NOT_LINES % _ARRAY
    cut = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip())
    return _NOT_LINES % _OBJECT if start == b"{" and cut else ""

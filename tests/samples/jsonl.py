"""JSON Lines as Python, pandas, polars and DuckDB write them, and as people do by hand."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import polars as pl
import zstandard

from samples.sample import REFUSED, SAME, Sample, written
from samples.values import by_duckdb

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
}  # fmt: skip
UNKNOWN_TO_DUCKDB = {".bz2", ".xz"}
ROWS = [
    {"text": "one", "n": 1, "s": "ü"},
    {"text": 'two\n\t"q" \\ /', "n": -1, "s": None},
    {"text": "", "n": 2**63 - 1, "s": "\u2028\u2029\x85"},
    {"text": None, "n": -(2**63), "s": "😀"},
]
GUESSES = "guesses: JSON in a text"
ANY_LAYOUT = "guesses: JSON that is not one object a line"


def _lines(rows: list[dict[str, Any]] = ROWS, **options: Any) -> str:
    return "".join(json.dumps(row, **options) + "\n" for row in rows)


_NUMBERS = ("1e3", "1E-7", "1e308", "5e-324", "-0.0", "0.1", "123456789.123456789")
# What → content, and how DuckDB differs.
_BY_HAND: tuple[tuple[str, str | bytes, str], ...] = (
    ("Python's json, escaped", _lines(), SAME),
    ("Python's json, as UTF-8", _lines(ensure_ascii=False), SAME),
    ("no spaces", _lines(separators=(",", ":")), SAME),
    ("no newline at the end", _lines().rstrip("\n"), SAME),
    ("CRLF", _lines().replace("\n", "\r\n"), SAME),
    ("CR", _lines().replace("\n", "\r"), ANY_LAYOUT),
    ("blank lines", "\n\n" + _lines().replace("\n", "\n\n  \n\t\n"), SAME),
    ("spaces around the objects", "  " + _lines().replace("\n", "  \n "), SAME),
    ("a byte order mark", "\ufeff" + _lines(), REFUSED),
    ("a byte order mark in the middle", _lines() + "\ufeff" + _lines(), REFUSED),
    ("U+2028, U+2029 and U+0085 in a text", '{"text":"a\u2028b\u2029c\x85d","n":1}\n', SAME),
    ("keys in another order, or missing", '{"n":1,"text":"a"}\n{"text":"b"}\n{"n":3}\n{}\n', SAME),
    ("a key that comes late", '{"text":"a"}\n' * 3000 + '{"text":"b","late":[1]}\n', SAME),
    ("empty and odd keys", '{"text":"a","a.b":1,"ü ü":2,"q\\"":3}\n', SAME),
    ("keys that differ in case", '{"text":"a","TEXT":"B"}\n', "one of them for both: ignores case"),
    ("a key twice", '{"text":"a","text":"b"}\n', REFUSED),
    ("a key twice in an object", '{"text":"a","o":{"x":1,"x":2}}\n', REFUSED),
    ("numbers", "".join(f'{{"text":"a","n":{number}}}\n' for number in _NUMBERS), SAME),
    ("integers of 64 bits", f'{{"text":"{2**63 - 1}","n":{-(2**63)}}}\n', SAME),
    ("2⁶³ and more", f'{{"text":"a","n":{2**64 - 1}}}\n', "an unsigned integer"),
    ("2⁶⁴ and more", f'{{"text":"a","n":{10**29}}}\n', "a float"),
    ("integers, then floats", '{"text":"a","n":1}\n{"text":"b","n":1.5}\n', SAME),
    ("2⁵³+1, then floats", f'{{"text":"a","n":{2**53 + 1}}}\n{{"text":"b","n":1.5}}\n', "rounds"),
    ("1e400", '{"text":"a","n":1e400}\n{"text":"b","n":-1e400}\n', SAME),
    ("NaN and Infinity", '{"text":"a","n":NaN}\n{"text":"b","n":-Infinity}\n', SAME),
    ("01", '{"text":"a","n":01}\n', REFUSED),
    ("true, false, null", '{"text":"a","n":true}\n{"text":"b","n":false}\n{"text":"c"}\n', SAME),
    ("true, then 1", '{"text":"a","n":true}\n{"text":"b","n":1}\n', GUESSES),
    ('"1", then 1', '{"text":"a","n":"1"}\n{"text":"b","n":1}\n', GUESSES),
    ("the text 1", '{"text":"a"}\n{"text":1}\n', GUESSES),
    ("what looks like a date, a UUID, a number",
     '{"text":"2024-01-01","t":"2024-01-01T12:00:00Z","u":"550e8400-e29b-41d4-a716-446655440000",'
     '"n":"1"}\n', SAME),
    ("objects and lists", '{"text":"a","o":{"x":1,"y":[1.5]}}\n{"text":"b","o":{"y":[]}}\n'
     '{"text":"c","o":null,"l":[[1],[],null]}\n{"text":"d","o":{}}\n', SAME),
    ("an object that gains a key", '{"text":"a","o":{"x":1}}\n{"text":"b","o":{"y":"q"}}\n', SAME),
    ("empty objects", '{"text":"a","o":{}}\n{"text":"b","o":null}\n', SAME),
    ("empty lists", '{"text":"a","l":[]}\n{"text":"b","l":null}\n', SAME),
    ("a list of numbers and texts", '{"text":"a","l":[1,"a"]}\n', GUESSES),
    ("50 lists in each other", '{"text":"a","o":' + "[" * 50 + "1" + "]" * 50 + "}\n", SAME),
    ("100,000 lists in each other", '{"o":' + "[" * 100_000 + "]" * 100_000 + "}\n", REFUSED),
    ("escapes", '{"text":"\\/\\b\\f\\n\\r\\t\\"\\\\ \\u0000 \\ud83d\\ude00"}\n', SAME),
    ("half of a surrogate pair", '{"text":"a\\ud83d b"}\n{"text":"c"}\n', REFUSED),
    ("NUL", b'{"text":"a\0b"}\n', REFUSED),
    ("a tab in a text", '{"text":"a\tb"}\n', REFUSED),
    ("a text of 3 MB", _lines([{"text": "y" * 3_000_000}, {"text": "b"}]), SAME),
    ("single quotes", "{'text':'a'}\n", REFUSED),
    ("a comma at the end", '{"text":"a",}\n', "reads it"),
    ("two objects in a line", '{"text":"a"}{"text":"b"}\n', ANY_LAYOUT),
    ("an object over several lines", '{\n "text": "a"\n}\n', ANY_LAYOUT),
    ("an array of objects", '[{"text":"a"},{"text":"b"}]\n', ANY_LAYOUT),
    ("numbers for objects", "1\n2\n", ANY_LAYOUT),
    ("cut off", '{"text":"a"}\n{"text":"b","n"', REFUSED),
    ("Latin-1", '{"text":"café"}\n'.encode("latin1"), REFUSED),
    ("UTF-16", '{"text":"a"}\n'.encode("utf-16"), REFUSED),
)  # fmt: skip


_DUCKDB = (
    "1.5::decimal(4, 2) d, [1, NULL] l, {'a': 1} s, map{'k': 1} m, date '2024-01-01' da, "
    "timestamp '2024-01-01' ts, 'x'::blob b, '{\"q\":1}'::json j"
)


def jsonl_samples() -> Iterator[Sample]:
    """One file for each thing that JSON Lines may be."""
    for what, content, differs in _BY_HAND:
        data = content.encode() if isinstance(content, str) else content
        yield Sample(what, "rows.jsonl", data, differs)
    panda = pd.DataFrame({"text": ["a", None, "ü"], "n": [1, None, 3]})
    polar = pl.DataFrame({
        "text": ["a", None, "ü"], "n": [1, None, 3], "l": [[1], [], None], "s": [{"x": 1}] * 3,
        "f": [1.5, float("nan"), float("inf")],
    })  # fmt: skip
    yield Sample("DuckDB", "rows.jsonl", by_duckdb(_DUCKDB, "FORMAT json"))
    yield Sample("polars", "rows.ndjson", written(".ndjson", polar.write_ndjson))
    pandas_lines = panda.to_json(orient="records", lines=True).encode()
    yield Sample("pandas", "rows.jsonl", pandas_lines)
    for suffix, compress in COMPRESSIONS.items():
        differs = REFUSED if suffix in UNKNOWN_TO_DUCKDB else SAME
        yield Sample(suffix, f"rows.jsonl{suffix}", compress(_lines().encode()), differs)
    twice = gzip.compress(_lines().encode()) * 2
    yield Sample(".gz, two members", "rows.jsonl.gz", twice)
    yield Sample(".gz, cut off", "rows.jsonl.gz", twice[:60], REFUSED)
    yield Sample("named .json", "rows.json", _lines().encode())

"""Which tokenizers are loaded at once, and which are tried in a process of their own first."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from corpora import GOLDENS

from pipeline.encoder.checkpoint.tokenizer_check import check_tokenizer
from pipeline.encoder.checkpoint.tokenizer_outline import outline
from pipeline.errors import CheckpointError

#: A table in which every lookup ends at once, and the longest replacement of SentencePiece's maps.
_CHARSMAP = base64.b64encode((1024).to_bytes(4, "little") + bytes(1024) + b"a\0" + b"x" * 33)
PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": _CHARSMAP.decode()}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
)


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


#: Steps before the model, as these families publish them.
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "albert": [
        replace('"', String="``"),
        replace('"', String="''"),
        {"type": "NFKD"},
        {"type": "StripAccents"},
        {"type": "Lowercase"},
        PRECOMPILED,
        replace(" ", Regex=" {2,}"),
        METASPACE,
    ],
    "deberta": [
        {"type": "Strip", "strip_left": True, "strip_right": True},
        PRECOMPILED,
        replace(" ", Regex=" {2,}"),
        METASPACE,
    ],
    "xlm-roberta": [PRECOMPILED, replace("▁", Regex=" {2,}"), METASPACE],
    "t5": [PRECOMPILED, {"type": "WhitespaceSplit"}, METASPACE],
    "gemma": [replace("▁", String=" ")],
    "llama2": [{"type": "Prepend", "prepend": "▁"}, replace("▁", String=" ")],
    "llama3": [split(LLAMA3), BYTES],
    "qwen2": [{"type": "NFC"}, split(LLAMA3.replace("{1,3}", "")), BYTES],
    "clip": [{"type": "NFC"}, replace(" ", Regex=r"\s+"), {"type": "Lowercase"}, BYTES],
}


def write(file: Path, steps: list[dict[str, Any]]) -> Path:
    """A tokenizer of bytes with these steps."""
    content = json.loads((GOLDENS / "roberta_mean/tokenizer.json").read_text())
    normalizers = [step for step in steps if step["type"] not in ("Split", "ByteLevel")]
    normalizers = [s for s in normalizers if s["type"] not in ("Metaspace", "WhitespaceSplit")]
    rest = [step for step in steps if step not in normalizers]
    content["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": rest}
    file.write_text(json.dumps(content))
    return file


def check(file: Path) -> None:
    check_tokenizer(file, outline(json.loads(file.read_text()), file))


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("family", PUBLISHED)
def test_a_published_tokenizer_is_loaded_at_once(family: str, tmp_path: Path) -> None:
    check(write(tmp_path / "tokenizer.json", PUBLISHED[family]))


@pytest.mark.usefixtures("no_process")
def test_so_are_those_of_the_goldens() -> None:
    for file in GOLDENS.glob("*/tokenizer.json"):
        check(file)


def test_an_unusual_tokenizer_that_works_is_accepted(tmp_path: Path) -> None:
    check(write(tmp_path / "tokenizer.json", [split(O200K), BYTES]))


def test_a_merge_that_makes_the_library_panic_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "tokenizer.json", [BYTES])
    content = json.loads(file.read_text())
    content["model"]["continuing_subword_prefix"] = "##"
    file.write_text(json.dumps(content))

    with pytest.raises(CheckpointError, match=r"the continuing_subword_prefix of a BPE, and fails"):
        check_tokenizer(file, outline(content, file))

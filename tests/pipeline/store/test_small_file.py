"""Small files of a machine: what is none is missing, and what is written is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.store.small_file import read_small, replace_small


def test_a_file_is_replaced_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder/a.json"
    for text in ("first", "two"):
        replace_small(path, text)
    assert read_small(path, 3) == "two"
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "put",
    [
        lambda path: None,
        Path.mkdir,
        os.mkfifo,
        lambda path: path.write_text("four"),
        lambda path: path.write_bytes(b"\xff"),
    ],
    ids=["nothing", "directory", "pipe", "larger", "not text"],
)
def test_what_is_no_small_text_is_missing(tmp_path: Path, put: Callable[[Path], object]) -> None:
    put(tmp_path / "a.json")
    assert read_small(tmp_path / "a.json", 3) is None


def test_it_says_that_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OSError, match="folder"):
        replace_small(tmp_path / "folder/a.json", "text")

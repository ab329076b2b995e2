"""Several widths and types of a dense vector, one column each, from one forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commandline import Bei, read_output
from corpora import texts, write_parquet

from pipeline.encoder.engine import Engine


def column(table: pa.Table, name: str) -> Any:
    return np.stack(table.slice(1)[name].to_numpy(zero_copy_only=False))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "c.parquet", 9, text=[None, *texts(8)])


def test_each_column_is_what_a_job_of_its_own_gives(
    submit: Bei, bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    allowed = ("--max-failed-rows", 1)
    several = ("--dimensions", "32,16,8", "--output-dtype", "float32,int8,binary")
    assert submit(corpus, *several, *allowed).code == 3
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    written = [name for name in table.column_names if name.startswith("embedding")]
    expected = []
    for width in (32, 16, 8):
        expected += [f"embedding_{width}_float32", f"embedding_{width}_int8"]
        expected += [f"embedding_{width}_int8_scale", f"embedding_{width}_binary"]
        for dtype in ("float32", "int8", "binary"):
            alone = tmp_path / f"{width}-{dtype}"
            own = ("--dimensions", width, "--output-dtype", dtype, "--output", alone)
            assert submit(corpus, *own, *allowed).code == 3
            single, name = read_output(bei, alone), f"embedding_{width}_{dtype}"
            assert table.schema.field(name).type == single.schema.field("embedding").type
            np.testing.assert_array_equal(column(table, name), column(single, "embedding"))
            if dtype == "int8":
                assert table[f"{name}_scale"].equals(single["embedding_scale"])
    assert written == expected


@pytest.mark.parametrize("policy", ["chunk", "late-chunk", "pool"])
def test_of_chunks_too_each_column_is_what_a_job_of_its_own_gives(
    submit: Bei, bei: Bei, tmp_path: Path, policy: str
) -> None:
    long = " ".join(f"They read book {number} and write, then go." for number in range(12))
    path = write_parquet(tmp_path / "c.parquet", 3, text=[None, long, "go"])
    words = ("--long-texts", policy, "--chunk-tokens", 16, "--max-length", 64)
    words = (*words, "--precision", "float32", "--max-failed-rows", 1)
    several = ("--dimensions", "24,8", "--output-dtype", "float32,binary")
    assert submit(path, *words, *several).code == 3
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed")
    assert (len(table) == 3) == (policy == "pool")
    for width in (24, 8):
        for dtype in ("float32", "binary"):
            alone = tmp_path / f"{width}-{dtype}"
            own = ("--dimensions", width, "--output-dtype", dtype, "--output", alone)
            assert submit(path, *words, *own).code == 3
            found = column(table, f"embedding_{width}_{dtype}")
            np.testing.assert_array_equal(found, column(read_output(bei, alone), "embedding"))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--dimensions", "32,8"), ["embedding_32", "embedding_8"]),
        (("--output-dtype", "float16,binary"), ["embedding_float16", "embedding_binary"]),
        (("--dimensions", "8"), ["embedding"]),
    ],
)
def test_a_name_says_what_columns_differ_in(
    submit: Bei, bei: Bei, corpus: Path, tmp_path: Path, words: tuple[str, ...], names: list[str]
) -> None:
    assert submit(corpus, *words, "--max-failed-rows", 1).code == 3
    written = read_output(bei, tmp_path / "c.embed").column_names
    assert [name for name in written if name.startswith("embedding")] == names


def test_one_forward_pass_gives_all_of_them(
    submit: Bei, corpus: Path, monkeypatch: pytest.MonkeyPatch, device_in_this_process: None
) -> None:
    tokens = []
    launch = Engine._launch

    def counted(engine: Engine, batch: Any) -> Any:
        tokens.append(batch.tokens)
        return launch(engine, batch)

    monkeypatch.setattr(Engine, "_launch", counted)
    assert submit(corpus, "--max-failed-rows", 1).code == 3
    alone, tokens[:] = sum(tokens), []
    words = ("--dimensions", "16,8", "--output-dtype", "float32,int8", "--output", "memory://x/y")
    assert submit(corpus, *words, "--max-failed-rows", 1).code == 3
    assert sum(tokens) == alone


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dimensions", "16,64"), "--dimensions 64 is more than the 32"),
        (("--dimensions", "16,16"), "--dimensions names 16,16: one of them twice"),
        (("--dimensions", "16,0"), "--dimensions 0 is not a whole number of at least 1"),
        (("--output-dtype", "float32,float64"), "'float64' is not one of"),
        (("--dimensions", "16,12", "--output-dtype", "float32,binary"), "12 is not a multiple"),
        (("--dimensions", "16,8", "--keep", "embedding_8"), "embedding_8"),
    ],
)
def test_values_that_do_not_go_together_are_refused(
    submit: Bei, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    path = write_parquet(tmp_path / "c.parquet", 3, embedding_8=["a", "b", "c"])
    done = submit(path, *words)
    assert done.code in (1, 2)
    assert said in " ".join(done.screen)
    assert not (tmp_path / "c.embed").exists()

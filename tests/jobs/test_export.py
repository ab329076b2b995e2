"""`bei-jobs export`: every row once, in order and unchanged, or nothing at DEST."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import GOLDENS, TINY, parts, write_parquet
from exports import DESTS, everything, harm, read
from fleet import until

from pipeline.output import read_part
from pipeline.output.output import Output

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TABLES = tuple(dest for dest in DESTS if dest != "out.npy")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to export into."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("dest", TABLES)
def test_every_row_is_there_once_unchanged_and_in_order(
    bei: Bei, finished: Path, place: Path, dest: str
) -> None:
    done = bei("export", finished, f"{place}/{dest}", "--json")

    assert (done.code, done.err) == (0, "")
    assert (done.json["rows"], done.json["left_out"], done.json["run"]) == (30, 0, 1)
    expected = read_output(bei, finished).to_pylist()
    assert read(place / dest) == expected
    assert expected[1]["error"]
    assert expected[1]["embedding"] is None


def test_parts_in_parquet_are_exported_as_those_in_arrow(
    submit: Bei, bei: Bei, place: Path, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 6)
    for kind in ("arrow", "parquet"):
        output = tmp_path / kind
        assert submit(corpus, "--output", output, "--output-format", kind).code == 0
        assert bei("export", output, place / f"{kind}.parquet").code == 0

    one, other = (pq.read_table(place / f"{kind}.parquet") for kind in ("arrow", "parquet"))
    assert one.equals(other)


def test_other_readers_read_the_same_rows_of_a_parquet_file(
    bei: Bei, finished: Path, place: Path
) -> None:
    assert bei("export", finished, place / "out.parquet").code == 0

    expected = read_output(bei, finished)
    frame = pl.read_parquet(place / "out.parquet")
    assert frame.schema["embedding"] == pl.Array(pl.Float32, 32)
    assert frame.to_dicts() == pl.from_arrow(expected).to_dicts()
    query = f"SELECT id, embedding FROM '{place}/out.parquet'"
    rows = duckdb.sql(query).fetchall()
    assert rows == [(row["id"], row["embedding"]) for row in expected.to_pylist()]
    metadata = pq.read_metadata(place / "out.parquet")
    assert metadata.metadata[b"bei.model"].decode() == TINY
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_other_readers_read_the_same_rows_of_a_delta_table(
    bei: Bei, finished: Path, place: Path
) -> None:
    assert bei("export", finished, place / "out.delta", "--rows-per-file", 7).code == 0

    frame = pl.read_delta(str(place / "out.delta"))
    assert frame.schema["embedding"] == pl.List(pl.Float32)
    expected = pl.from_arrow(read_output(bei, finished))
    assert isinstance(expected, pl.DataFrame)
    assert frame.sort(pl.col("id").str.slice(2).cast(pl.Int32)).to_dicts() == expected.to_dicts()
    assert len(deltalake.DeltaTable(str(place / "out.delta")).file_uris()) == 5


def test_a_directory_has_files_of_the_given_number_of_rows(
    bei: Bei, finished: Path, place: Path
) -> None:
    done = bei(
        "export", finished, f"{place}/out", "--to", "parquet", "--rows-per-file", 7, "--json"
    )

    names = [f"rows-0000{index}-of-00005.parquet" for index in range(5)]
    assert done.json["files"] == [f"{place}/out/{name}" for name in names]
    assert [pq.read_metadata(file).num_rows for file in done.json["files"]] == [7, 7, 7, 7, 2]
    assert read(place / "out") == read_output(bei, finished).to_pylist()
    assert "30 rows of run 1 in" in bei("export", finished, f"{place}/two/").out


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float32", "<f4"), ("float16", "<f2"), ("int8", "|i1"), ("binary", "|u1")],
)
def test_an_array_holds_the_vectors_of_the_rows_beside_it(
    submit: Bei, bei: Bei, place: Path, tmp_path: Path, dtype: str, stored: str
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 12, text=["a", None, *"bcdefghijk"])
    submit(corpus, "--output-dtype", dtype, "--rows-per-shard", 5)
    output = tmp_path / "c.embed"

    done, shown = (
        bei("export", output, place / name, *words)
        for name, words in (("v.npy", ["--json"]), ("w.npy", []))
    )
    assert (done.code, shown.code) == (3, 3)
    assert (done.json["rows"], done.json["left_out"]) == (11, 1)
    assert "left out: 1 row with an error" in shown.out
    vectors = np.load(place / "v.npy", mmap_mode="r")
    others = pq.read_table(place / "v.ids.parquet")
    expected = [row for row in read_output(bei, output).to_pylist() if row["error"] is None]
    assert vectors.dtype.str == stored
    assert vectors.tolist() == [row["embedding"] for row in expected]
    assert others["id"].to_pylist() == [row["id"] for row in expected]
    assert "embedding" not in others.column_names
    if dtype == "int8":
        assert others["embedding_scale"].to_pylist() == [row["embedding_scale"] for row in expected]


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
@pytest.mark.parametrize("dest", ["out.lance", "out.delta"])
def test_a_table_holds_the_values_of_every_type_of_vector(
    submit: Bei, bei: Bei, place: Path, tmp_path: Path, dtype: str, dest: str
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 12)
    assert submit(corpus, "--output-dtype", dtype).code == 0

    done = bei("export", tmp_path / "c.embed", place / dest, "--json")
    assert read(place / dest) == read_output(bei, tmp_path / "c.embed").to_pylist()
    wider = {"float16": "float", "int8": "int8", "binary": "int16"}[dtype]
    expected = {"embedding": f"list<item: {wider}>"} if dest == "out.delta" else {}
    assert done.json["converted"] == expected


@pytest.mark.parametrize("dest", DESTS)
def test_nothing_is_overwritten_unless_it_is_asked_for(
    submit: Bei, bei: Bei, finished: Path, place: Path, tmp_path: Path, dest: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert bei("export", finished, f"{place}/{dest}").code in (0, 3)
    before = {name: (place / name).read_bytes() for name in everything(place)}
    submit(write_parquet(tmp_path / "c.parquet", 5, seed=1))
    output = tmp_path / "c.embed"

    with monkeypatch.context() as patch:
        patch.setattr(read_part, "read_rows", None)  # it is refused before anything is read
        refused = bei("export", output, f"{place}/{dest}")
    assert refused.code == 1
    assert "exists" in refused.screen[0]
    assert "--overwrite" in refused.screen[1]
    assert {name: (place / name).read_bytes() for name in everything(place)} == before

    done = bei("export", output, f"{place}/{dest}", "--overwrite", "--json")
    assert (done.code, done.json["rows"]) == (0, 5)
    if dest == "out.npy":
        assert len(np.load(place / dest)) == pq.read_metadata(place / "out.ids.parquet").num_rows
    else:
        assert read(place / dest) == read_output(bei, output).to_pylist()
    assert not [name for name in everything(place) if ".tmp" in name]


@pytest.mark.parametrize("dest", ["out/", "out.lance", "out.delta"])
def test_a_directory_with_files_of_others_is_never_overwritten(
    bei: Bei, finished: Path, place: Path, dest: str
) -> None:
    (place / dest).mkdir()
    (place / dest / "diary.txt").write_text("mine")

    refused = bei("export", finished, f"{place}/{dest}", "--overwrite")
    assert refused.code == 1
    assert "diary.txt" in refused.screen[0]
    assert everything(place) == {f"{dest.rstrip('/')}/diary.txt"}


def test_an_export_of_a_first_part_without_its_end_says_what_to_do(
    bei: Bei, finished: Path, place: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "copy"))
    first = output / parts(output)[0]
    first.write_bytes(first.read_bytes()[:-20])

    failed = bei("export", output, place / "out.parquet")
    assert failed.code == 1
    assert first.name in failed.screen[0]
    assert f"bei-jobs verify {output}" in failed.screen[1]
    assert everything(place) == set()


@pytest.mark.parametrize("dest", DESTS)
@pytest.mark.parametrize("damage", [harm, Path.unlink, lambda part: part.write_bytes(b"")])
def test_an_export_of_a_broken_output_leaves_nothing(
    bei: Bei, finished: Path, place: Path, tmp_path: Path, dest: str, damage: Callable[[Path], Any]
) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "copy"))
    last = output / parts(output)[-1]
    damage(last)

    failed = bei("export", output, f"{place}/{dest}")
    assert failed.code == 1
    assert last.name in failed.screen[0]
    assert "bei-jobs verify" in failed.screen[1]
    assert everything(place) == set()


@pytest.mark.parametrize("dest", DESTS)
def test_an_interrupted_export_leaves_nothing_and_says_so(
    bei: Bei, finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch, dest: str
) -> None:
    opened = []

    def interrupt(name: str, data: bytes) -> pa.Table:
        opened.append(len(data))
        if len(opened) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            stop = signal.getsignal(signal.SIGTERM)
            until(lambda: stop.is_set())  # type: ignore[union-attr]
        return rows_of(name, data)

    rows_of = read_part.read_rows
    monkeypatch.setattr(read_part, "read_rows", interrupt)
    stopped = bei("export", finished, f"{place}/{dest}")
    assert (stopped.code, len(opened)) == (130, 2)
    assert stopped.screen == ["bei-jobs: interrupted", "  → nothing was exported"]
    assert everything(place) == set()


@pytest.mark.parametrize("dest", DESTS)
def test_what_appears_at_dest_during_an_export_stays(
    bei: Bei, finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch, dest: str
) -> None:
    target = place / dest / "theirs" if dest in ("out/", "out.lance", "out.delta") else place / dest

    def slow(name: str, data: bytes) -> pa.Table:
        target.parent.mkdir(exist_ok=True)
        target.write_text("theirs")
        return rows_of(name, data)

    rows_of = read_part.read_rows
    monkeypatch.setattr(read_part, "read_rows", slow)
    refused = bei("export", finished, f"{place}/{dest}")
    assert (refused.code, target.read_text()) == (1, "theirs")
    assert "exists" in refused.screen[0]
    assert everything(place) == {str(target.relative_to(place))}


def test_the_rows_are_those_of_the_newest_finished_run(
    bei: Bei, finished: Path, place: Path, tmp_path: Path
) -> None:
    output = Output(str(shutil.copytree(finished, tmp_path / "copy")))
    run = output.latest()
    assert run is not None
    assert output.start(replace(run, n=2), output.plan(run)) is not None

    done = bei("export", output.uri, place / "out.parquet", "--json")
    assert (done.code, done.json["run"], done.json["unfinished_run"]) == (0, 1, 2)
    shown = bei("export", output.uri, place / "two.parquet")
    assert "run 2 is not finished: none of its rows are there" in shown.out


@pytest.mark.parametrize(
    ("dest", "words", "said"),
    [
        ("out", (), "does not say what to write"),
        ("out.csv", (), "does not say what to write"),
        ("out.npy", ("--to", "lance"), "--to npy, not for --to lance"),
        ("out.parquet", ("--rows-per-file", 3), "a directory of Parquet files"),
        ("out.lance", ("--file-size", "1MB"), "a directory of Parquet files"),
        ("out/", ("--file-size", "much"), "'much' is not a size"),
        ("out/", ("--file-size", "0"), "'0' is not a size"),
        ("", (), "an empty path"),
        (".", ("--to", "npy"), "is a directory"),
        ("s3://key:secret@bucket/out.npy", (), "s3://bucket/out.npy was given with a password"),
        ("https://example.org/out.npy", (), "takes no new files"),
    ],
)
def test_a_dest_that_makes_no_sense_is_refused(
    bei: Bei, finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch,
    dest: str, words: tuple[object, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    monkeypatch.setattr("pipeline.export.destination._is_file", lambda uri: False)

    refused = bei("export", finished, dest, *words)
    assert refused.code == 2
    assert said in " ".join(refused.screen)
    assert everything(place) == set()


@pytest.mark.parametrize("given", ["data", "data/*.parquet", "data/**", "data/c.parquet"])
def test_an_export_that_the_next_night_would_read_is_refused(
    submit: Bei, bei: Bei, tmp_path: Path, given: str
) -> None:
    corpus = write_parquet(tmp_path / "data/c.parquet", 5)
    before = corpus.read_bytes()
    output = tmp_path / "out.embed"
    assert submit(tmp_path / given, "--output", output).code == 0

    dests = [corpus] if given.endswith("c.parquet") else [corpus, tmp_path / "data/new.parquet"]
    for dest in (*dests, output / "out.parquet"):
        refused = bei("export", output, dest, "--overwrite")
        assert refused.code == 2, refused
        assert "DEST outside of" in refused.screen[1]
    assert (everything(tmp_path / "data"), corpus.read_bytes()) == ({"c.parquet"}, before)
    assert bei("export", output, tmp_path / "new.parquet").code == 0


def test_a_link_leads_no_export_to_the_output_or_the_input(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "data/c.parquet", 5)
    output = tmp_path / "out.embed"
    (tmp_path / "to_data").symlink_to(corpus.parent)
    (tmp_path / "to_output").symlink_to(output)
    assert submit(corpus.parent, "--output", output, "--output-format", "parquet").code == 0

    for source in (output, tmp_path / "to_output"):
        for dest in ("to_data/new.parquet", "to_output/new.parquet", "out.embed/new.parquet"):
            refused = bei("export", source, tmp_path / dest)
            assert refused.code == 2, refused
            assert "DEST outside of" in refused.screen[1]
    assert everything(corpus.parent) == {"c.parquet"}
    assert bei("verify", output).code == 0


def test_an_export_into_another_output_is_refused(
    submit: Bei, bei: Bei, finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.embed"
    corpus = write_parquet(tmp_path / "c.parquet", 5)
    assert submit(corpus, "--output", output, "--output-format", "parquet").code == 0
    for dest in ("new.parquet", "new.npy"):
        refused = bei("export", finished, output / dest)
        assert refused.code == 2, refused
        assert "within another output" in refused.screen[0]
    assert bei("verify", output).code == 0


def test_names_that_differ_by_case_alone_are_no_columns_of_delta(
    submit: Bei, bei: Bei, place: Path, tmp_path: Path
) -> None:
    rows = pa.table({"id": ["1"], "text": ["one"], "Day": [1], "day": [2]})
    pq.write_table(rows, tmp_path / "c.parquet")
    output = tmp_path / "out.embed"
    words = ("--output", output, "--keep", "Day", "--keep", "day")
    assert submit(tmp_path / "c.parquet", *words).code == 0
    refused = bei("export", output, place / "out.delta")
    assert refused.code == 2
    assert "'Day' and 'day'" in refused.screen[0]
    assert everything(place) == set()


def test_an_output_without_a_finished_run_is_refused(bei: Bei, tmp_path: Path) -> None:
    refused = bei("export", tmp_path / "none", tmp_path / "out.npy")
    assert (refused.code, everything(tmp_path)) == (1, set())
    assert "holds no finished job" in refused.screen[0]


def test_scores_and_labels_are_exported_but_to_no_array(
    submit: Bei, bei: Bei, place: Path, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 3, text=["good", "bad", "so so"])
    submit(corpus, "--task", "classify", "--model", GOLDENS / "go_emotions_roberta")
    output = tmp_path / "c.classify"

    refused = bei("export", output, place / "out.npy")
    assert refused.code == 2
    assert "holds no vectors: its task is classify" in refused.screen[0]
    assert everything(place) == set()
    for dest in TABLES:
        assert bei("export", output, f"{place}/{dest}").code == 0
        assert read(place / dest) == read_output(bei, output).to_pylist()


def kept(submit: Bei, folder: Path, column: pa.Array) -> Path:
    """An output that keeps a column `odd`."""
    corpus = write_parquet(folder / "c.parquet", len(column), odd=column)
    done = submit(corpus, "--keep", "odd")
    assert done.code == 0, done.err
    return folder / "c.embed"


@pytest.mark.parametrize(
    ("column", "inside"),
    [
        (pa.array([1, 2**64 - 1], pa.uint64()), [1, Decimal(2**64 - 1)]),
        (pa.array([0, 255], pa.uint8()), [0, 255]),
        (pa.array([[0, 255], None], pa.list_(pa.uint8())), [[0, 255], None]),
        (pa.array([{"a": 65535}, None], pa.struct([("a", pa.uint16())])), [{"a": 65535}, None]),
        (pa.array(["x", None]).dictionary_encode(), ["x", None]),
        (pa.array([0, None], pa.timestamp("ns")), [datetime(1970, 1, 1), None]),
        (pa.array([0, 1], pa.timestamp("s", "Asia/Tokyo")), [EPOCH, EPOCH + timedelta(seconds=1)]),
    ],
)
def test_a_table_without_the_type_of_a_column_gets_a_wider_one(
    submit: Bei, bei: Bei, place: Path, tmp_path: Path, column: pa.Array, inside: list[Any]
) -> None:
    output = kept(submit, tmp_path, column)

    done = bei("export", output, place / "out.delta")
    assert done.code == 0, done.err
    assert "the column odd is" in done.out
    assert [row["odd"] for row in read(place / "out.delta")] == inside


@pytest.mark.parametrize(
    ("dest", "column", "said"),
    [
        ("out.delta", pa.array([1, 2], pa.duration("s")), "'odd', which is duration[s]"),
        ("out.delta", pa.array([1, 2], pa.time32("ms")), "'odd', which is time32[ms]"),
        ("out.delta", pa.array([1, 1001], pa.timestamp("ns")), "would change the column 'odd'"),
    ],
)
def test_a_column_that_a_format_cannot_hold_is_named(
    submit: Bei, bei: Bei, place: Path, tmp_path: Path, dest: str, column: pa.Array, said: str
) -> None:
    output = kept(submit, tmp_path, column)

    refused = bei("export", output, place / dest)
    assert refused.code == 2
    assert said in refused.screen[0]
    assert everything(place) == set()
    assert bei("export", output, place / "out.parquet").code == 0


@pytest.mark.parametrize(
    ("dest", "package", "extra"),
    [("out.lance", "lance", "lance"), ("x.delta", "deltalake", "delta")],
)
def test_a_library_that_is_not_installed_is_named(
    bei: Bei, finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch,
    dest: str, package: str, extra: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, package, None)

    refused = bei("export", finished, place / dest)
    assert refused.code == 2
    assert f"install bei-jobs with its extra: {extra}" in refused.screen[1]


@pytest.fixture
def wide(submit: Bei, tmp_path: Path) -> Path:
    """An output of 16 MB in 40 parts."""
    column = [os.urandom(20_000).hex() for _ in range(400)]
    corpus = write_parquet(tmp_path / "c.parquet", 400, row_group=10, text=["a"] * 400, wide=column)
    assert submit(corpus, "--keep", "wide", "--rows-per-shard", 10).code == 0
    return tmp_path / "c.embed"


def test_neither_memory_nor_files_grow_with_the_output(
    bei: Bei, wide: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export.rows._CHUNK_BYTES", 1_000_000)
    earlier, arrow = 0, list[int]()

    def measured(name: str, data: bytes) -> pa.Table:
        arrow.append(pa.total_allocated_bytes() - earlier)
        return rows_of(name, data)

    rows_of = read_part.read_rows
    monkeypatch.setattr(read_part, "read_rows", measured)
    for dest in ("out.parquet", "out.npy", "out.delta", "out/"):
        words = ("--file-size", "2MB") if dest == "out/" else ()
        assert bei("export", wide, f"{place}/first/{dest}").code == 0  # imports take memory too
        gc.collect()
        earlier, arrow[:] = pa.total_allocated_bytes(), []
        tracemalloc.start()
        assert bei("export", wide, f"{place}/{dest}", *words).code == 0
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (len(arrow), python < 4_000_000, max(arrow) < 4_000_000) == (40, True, True)
    sizes = [file.stat().st_size for file in sorted((place / "out").iterdir())]
    assert len(sizes) == 9
    assert all(800_000 < size < 2_000_000 for size in sizes[:-1])  # zstd halves random digits

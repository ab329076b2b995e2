"""Inputs and outputs on other stores, and the readers that the README names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from commandline import Bei
from corpora import write_parquet

from pipeline.output.output import Output


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    text = ["one", None, *(f"number {row}" for row in range(18))]
    return write_parquet(tmp_path / "corpus.parquet", 20, text=text)


def test_an_output_goes_to_any_store_and_a_second_run_finds_it_there(
    submit: Bei, bei: Bei, corpus: Path, store_uri: str
) -> None:
    words = (corpus, "--output", store_uri, "--rows-per-shard", 10, "--max-failed-rows", 1)
    done = submit(*words, "--json")
    assert (done.code, done.json["rows"]["computed"]) == (3, 19)
    again = submit(*words, "--json")
    assert (again.code, again.json["rows"]["computed"]) == (3, 0)
    assert bei("verify", store_uri).code == 0
    assert bei("status", store_uri, "--json").json["rows"]["failed"] == 1
    listed = bei("files", store_uri, "--json").json["files"]
    assert len(listed) == 2
    assert all(uri.startswith(store_uri) for uri in listed)
    rows = []
    for uri in listed:
        with fsspec.open(uri, "rb") as file, pa.ipc.open_file(file) as reader:
            rows += reader.read_all()["id"].to_pylist()
    assert rows == [f"0-{row}" for row in range(20)]


def test_a_part_deleted_from_any_store_is_computed_again_and_a_stray_one_is_deleted(
    submit: Bei, bei: Bei, corpus: Path, store_uri: str
) -> None:
    words = (corpus, "--output", store_uri, "--rows-per-shard", 10, "--max-failed-rows", 1)
    assert submit(*words).code == 3
    directory = Output(store_uri).directory
    first, second = sorted(Output(store_uri).committed())
    directory.create("part-x-00000000-000000000000-0123456789abcdef.arrow", directory.read(second))
    directory.delete(first)
    assert len(bei("verify", store_uri, "--json").json["problems"]) >= 2
    done = submit(*words, "--json")
    assert (done.code, done.json["rows"]["computed"]) == (3, 9)
    assert sorted(Output(store_uri).committed()) == [first, second]
    assert bei("verify", store_uri).code == 0


def test_inputs_come_from_a_bucket_and_only_a_changed_one_is_read_again(
    submit: Bei, bei: Bei, s3, tmp_path: Path
) -> None:
    root = f"s3://{s3.make_bucket()}"
    fs = fsspec.filesystem("s3")
    for seed, day in enumerate(["2024-01-01", "2024-01-02"]):
        local = write_parquet(tmp_path / f"{seed}.parquet", 10, seed=seed)
        fs.put_file(str(local), f"{root}/data/day={day}/rows.parquet")
    lines = "".join(json.dumps({"id": f"2-{i}", "text": f"t {i}"}) + "\n" for i in range(10))
    fs.pipe_file(f"{root}/data/day=2024-01-03/rows.jsonl.gz", gzip.compress(lines.encode()))
    done = submit(f"{root}/data", "--json")
    assert done.code == 0, done.err
    assert done.json["output"] == f"{root}/data.embed"
    assert done.json["rows"]["computed"] == 30
    s3.requests.clear()
    assert submit(f"{root}/data/", "--json").json["rows"]["computed"] == 0
    assert not [path for method, path in s3.requests if method == "GET" and "/data/day" in path]

    local = write_parquet(tmp_path / "new.parquet", 5, seed=7)
    fs.put_file(str(local), f"{root}/data/day=2024-01-02/rows.parquet")
    done = submit(f"{root}/data", "--json")
    assert done.code == 0, done.err
    assert (done.json["rows"]["computed"], done.json["rows"]["reused"]) == (5, 20)
    assert bei("verify", f"{root}/data.embed").code == 0


def test_a_store_that_overwrites_what_should_be_created_once_is_refused(
    submit: Bei, corpus: Path, s3
) -> None:
    def forgetful(request, answer):
        request.pop("HTTP_IF_NONE_MATCH", None)
        return None

    s3.fault = forgetful
    refused = submit(corpus, "--output", f"s3://{s3.make_bucket()}/out")
    assert refused.code == 1
    assert "overwrites" in refused.err
    assert len(refused.screen) <= 6


def test_a_store_that_fails_now_and_then_costs_no_row(
    submit: Bei, bei: Bei, corpus: Path, s3
) -> None:
    uri = f"s3://{s3.make_bucket()}/out"
    seen: set[str] = set()

    def once(request, answer):
        """Answer the first PUT of each part with an error although it was applied."""
        path = request["PATH_INFO"]
        if request["REQUEST_METHOD"] == "PUT" and path.endswith(".arrow") and path not in seen:
            seen.add(path)
            b"".join(answer(request, lambda *_: None))
            return "500 Internal Server Error", b"<Error><Code>InternalError</Code></Error>"
        return None

    s3.fault = once
    done = submit(corpus, "--output", uri, "--rows-per-shard", 5, "--max-failed-rows", 1, "--json")
    assert done.code == 3, done.err
    assert done.json["rows"]["computed"] == 19
    assert len(seen) == 4
    assert bei("verify", uri).code == 0


@pytest.fixture
def paths(bei: Bei, finished: Path) -> list[str]:
    return bei("files", finished).out.split()


def first_vector(finished: Path, paths: list[str]) -> np.ndarray:
    with pa.ipc.open_file(paths[0]) as reader:
        return np.array(reader.read_all()["embedding"][0].as_py(), dtype=np.float32)


def test_polars_reads_the_parts(finished: Path, paths: list[str]) -> None:
    frame = pl.scan_ipc(paths).collect()
    assert frame.height == 30
    assert frame.schema["embedding"] == pl.Array(pl.Float32, 32)
    np.testing.assert_array_equal(frame["embedding"][0].to_numpy(), first_vector(finished, paths))
    assert frame["error"].drop_nulls().to_list() == ["the text is null"]


def test_pyarrow_reads_the_parts_and_the_flat_glob(finished: Path, paths: list[str]) -> None:
    table = ds.dataset(paths, format="ipc").to_table()
    assert table["id"].to_pylist() == [f"0-{row}" for row in range(30)]
    globbed = ds.dataset(sorted(map(str, finished.glob("*.arrow"))), format="ipc").to_table()
    assert globbed.equals(table)


def test_duckdb_reads_the_parts_through_pyarrow(paths: list[str]) -> None:
    parts = ds.dataset(paths, format="ipc")
    found = duckdb.sql("SELECT count(*), count(embedding), min(id) FROM parts").fetchall()
    assert parts.count_rows() == 30
    assert found == [(30, 29, "0-0")]


def test_pandas_reads_the_parts(finished: Path, paths: list[str]) -> None:
    frame = pd.concat(map(pd.read_feather, paths), ignore_index=True)
    assert list(frame["id"]) == [f"0-{row}" for row in range(30)]
    np.testing.assert_array_equal(frame["embedding"][0], first_vector(finished, paths))
    assert frame["lang"].tolist() == ["en", "de", "fr"] * 10

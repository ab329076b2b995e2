"""`--output-format parquet`: the same rows, for readers that know no Arrow, and every promise."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output, typed
from corpora import GOLDENS, ROOT, TINY, parts, texts, write_parquet

import bei_jobs

WORDS = ("--rows-per-shard", 10, "--max-failed-rows", 1)


@pytest.fixture(scope="session")
def sound(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished output again, as Parquet; not to be touched."""
    target = tmp_path_factory.mktemp("parquet") / "corpus.embed"
    done = typed(
        "submit", finished.with_name("corpus.parquet"), "--output", target, "--model", TINY,
        "--device", "cpu", "--quiet", "--keep", "lang", *WORDS, "--output-format", "parquet",
    )  # fmt: skip
    assert done.code == 3, done.err
    return target


def paths(output: Path) -> list[str]:
    """The parts, which are all Parquet."""
    assert all(name.startswith("part-") and name.endswith(".parquet") for name in parts(output))
    return [str(output / name) for name in parts(output)]


def in_pyarrow(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.concat_tables(map(pq.read_table, paths(output))).to_pylist()
    return rows


def in_polars(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pl.read_parquet(f"{output}/*.parquet").to_arrow().to_pylist()
    return rows


def in_duckdb(output: Path) -> list[dict[str, Any]]:
    found = duckdb.sql(f"SELECT * FROM '{output}/*.parquet'")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        ("bert_mean", ()),
        ("bert_mean", ("--output-dtype", "float16")),
        ("bert_mean", ("--output-dtype", "int8")),
        ("bert_mean", ("--output-dtype", "binary")),
        ("ner_bert", ("--task", "tag")),
        ("ner_bert", ("--task", "tag", "--aggregation", "none", "--raw-scores")),
        ("bge_reranker_xlmr", ("--task", "rerank")),
        ("go_emotions_roberta", ("--task", "classify", "--top-k", 3)),
    ],
)
def test_all_readers_see_the_rows_that_arrow_has(
    submit: Bei, bei: Bei, tmp_path: Path, golden: str, words: tuple[object, ...]
) -> None:
    documents = [["one", "two of them"], [], None, ["three"]] * 5
    path = write_parquet(tmp_path / "c.parquet", 20, query=texts(20), documents=documents)
    outputs = {kind: tmp_path / kind for kind in ("arrow", "parquet")}
    for kind, output in outputs.items():
        done = submit(
            path, "--output", output, "--output-format", kind, "--model", GOLDENS / golden,
            "--rows-per-shard", 8, "--max-failed-rows", 10, *words,
        )  # fmt: skip
        assert done.code in (0, 3), done.err
        assert bei("verify", output).out.startswith("ok: 20 rows in 4 parts")
    expected = read_output(bei, outputs["arrow"])
    assert read_output(bei, outputs["parquet"]).schema == expected.schema
    for reader in (in_pyarrow, in_polars, in_duckdb):
        assert reader(outputs["parquet"]) == expected.to_pylist(), reader.__name__
    table = bei_jobs.read(outputs["parquet"]).to_table()
    assert table.replace_schema_metadata(None) == expected


def test_duckdb_computes_with_the_vectors(submit: Bei, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", 20)
    assert submit(path, "--output-format", "parquet").code == 0
    table = pa.concat_tables(map(pq.read_table, paths(tmp_path / "c.embed")))
    vectors = np.stack(table["embedding"].to_numpy()).astype(np.float64)
    cosines = duckdb.sql(
        f"""WITH c AS (FROM '{tmp_path}/c.embed/*.parquet'),
        q AS (SELECT embedding AS query FROM c WHERE id = '0-3')
        SELECT list_cosine_similarity(embedding, query),
          array_cosine_similarity(embedding::FLOAT[32], query::FLOAT[32]) FROM c, q ORDER BY id"""
    ).fetchnumpy()
    order = np.argsort(np.array(table["id"].to_pylist()))
    for found in cosines.values():
        np.testing.assert_allclose(found, (vectors @ vectors[3])[order], atol=1e-6)


def test_the_query_of_the_documentation_works_as_it_stands_there(sound: Path) -> None:
    (block,) = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs/tasks.md").read_text(), re.S | re.M)
    query = block.replace("corpus.embed", str(sound)).replace("384", "32")
    with duckdb.connect() as connection:
        found = connection.sql(query).fetchall()
    assert len(found) == 10
    assert found[0] == ("0-0", pytest.approx(1.0)), "the output has a null vector, which is no row"


def test_readers_that_know_little_find_what_they_know(sound: Path) -> None:
    """Lists of three levels, and pages that Spark's, Athena's and DuckDB's readers decode."""
    schema = pq.ParquetFile(paths(sound)[0]).schema
    metadata = pq.read_metadata(paths(sound)[0])
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    assert [c.path_in_schema for c in columns if "embedding" in c.path_in_schema] == [
        "embedding.list.element"
    ]
    assert {c.compression for c in columns} == {"ZSTD"}
    assert {e for c in columns for e in c.encodings} == {"PLAIN", "RLE", "RLE_DICTIONARY"}
    assert [c.path_in_schema for c in columns if not c.is_stats_set] == ["embedding.list.element"]
    assert (metadata.format_version, metadata.num_row_groups) == ("2.6", 1)
    assert all(schema.column(i).max_repetition_level <= 1 for i in range(len(schema)))


@pytest.fixture
def problems(bei: Bei, sound: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], str]:
    """What `verify` says of a copy to which something was done."""

    def found(harm: Callable[[Path], None]) -> str:
        output = Path(shutil.copytree(sound, tmp_path / "copy", dirs_exist_ok=True))
        harm(output)
        verified = bei("verify", output)
        assert "Traceback" not in verified.err
        assert (verified.code == 0) == verified.out.startswith("ok")
        return verified.out

    return found


def test_verify_finds_what_is_not_as_it_was(
    problems: Callable[[Callable[[Path], None]], str], sound: Path
) -> None:
    name = parts(sound)[1]
    data = (sound / name).read_bytes()
    assert problems(lambda output: None).startswith("ok: 30 rows in 3 parts")
    for at in (4, len(data) // 3, len(data) // 2, len(data) - 200, len(data) - 1):
        harmed = bytearray(data)
        harmed[at] ^= 1
        assert name in problems(lambda output, d=harmed: put(output / name, d)), f"byte {at}"
    for size in (0, 5, len(data) // 2, len(data) - 1):
        cut = problems(lambda output, d=data[:size]: put(output / name, d))
        assert f"{name} cannot be read" in cut
        assert "not a readable Parquet file" in cut
    assert f"{name} is missing" in problems(lambda output: (output / name).unlink())
    stray = name.replace(name[-24:-8], "0" * 16)
    strayed = problems(lambda output: put(output / stray, data))
    assert f"{stray} is in the output but in no plan; a reader of *.parquet" in strayed


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def test_a_directory_of_parquet_files_is_no_output(submit: Bei, tmp_path: Path) -> None:
    path, output = write_parquet(tmp_path / "c.parquet", 3), tmp_path / "c.embed"
    write_parquet(output / "mine.parquet", 1)
    refused = submit(path, "--output-format", "parquet", "--json")
    assert refused.code == 1
    assert refused.json["error"] == f"{output} holds mine.parquet, which no job wrote"


COLUMNS = {
    "union": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
    "interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1]), pa.array(["a"])),
    "negative scale": pa.array([None], pa.decimal128(5, -2)),
    "date64": pa.array([86_400_000], pa.int64()).view(pa.date64()),
    "dates": pa.array([[None]], pa.list_(pa.struct([("day", pa.date64())]))),
    "no vector": pa.array([[]], pa.list_(pa.float32(), 0)),
    "numbers": pa.array([[1]], pa.list_(pa.dictionary(pa.int8(), pa.int64()))),
}


def test_columns_that_would_not_come_back_are_refused_by_name(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    table = pa.table({"id": ["a"], "text": ["one"], **COLUMNS})
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table)
    words = (tmp_path / "c.arrow", *(f"--keep={name}" for name in COLUMNS))
    for name in ("submit", "plan"):
        model = ("--model", TINY, "--device", "cpu")
        refused = bei(name, *words, *model, "--output-format", "parquet", "--json")
        assert refused.code == 1
        for column, values in COLUMNS.items():
            assert f"column {column!r} is {values.type}" in refused.json["error"]
        assert "--output-format arrow" in refused.json["hint"]
    assert not list((tmp_path / "c.embed").glob("*.parquet"))
    assert submit(*words).code == 0, "Arrow holds them all"

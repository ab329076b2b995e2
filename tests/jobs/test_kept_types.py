"""Every type that a kept column may have: what goes in comes out, is sound, and stays."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import parts, texts
from samples.types import VALUES, column, in_parquet

from pipeline.output.part_file import read_rows


def corpus(path: Path) -> pa.Table:
    """A file with a column of each type that its format can hold, named after it, as it is read."""
    columns = {"id": pa.array([0, 1, 2]), "text": pa.array(texts(3))}
    for kind, values in VALUES:
        array = column(kind, values)
        if path.suffix == ".arrow" or in_parquet(array):
            columns[f"{len(columns)} {str(kind).replace(',', ';')}"] = array
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return pq.read_table(path)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return table


def in_duckdb(path: Path, schema: pa.Schema) -> str:
    """The columns of a Parquet file as DuckDB reads them; times with a zone as microseconds."""
    zoned = [pa.types.is_timestamp(kind) and kind.tz is not None for kind in schema.types]
    columns = ", ".join(
        f'epoch_us("{name}")' if in_zone else f'"{name}"'
        for name, in_zone in zip(schema.names, zoned, strict=True)
    )
    return repr(duckdb.sql(f"SELECT {columns} FROM '{path}'").fetchall())


#: Types that Parquet does not give back as they were; a job is refused by the column's name.
NOT_IN_PARQUET = ("date64", "month_day_nano", "run_end", "dense_union", "sparse_union")


@pytest.mark.parametrize(
    ("suffix", "written_as"), [("parquet", "arrow"), ("arrow", "arrow"), ("arrow", "parquet")]
)
def test_every_type_is_kept_as_it_is_and_changes_nothing_later(
    submit: Bei, bei: Bei, tmp_path: Path, suffix: str, written_as: str
) -> None:
    path, output = tmp_path / f"corpus.{suffix}", tmp_path / "corpus.embed"
    table = corpus(path)
    names = table.column_names[2:]
    assert len(names) >= len(VALUES) - (5 if suffix == "parquet" else 0)
    if written_as == "parquet":
        names = [name for name in names if not name.split()[1].startswith(NOT_IN_PARQUET)]
        assert len(names) == len(VALUES) - len(NOT_IN_PARQUET)
    words = (path, *(word for name in names for word in ("--keep", name)))
    words = (*words, "--output-format", written_as)
    assert submit(*words).code == 0
    verified = bei("verify", output)
    assert verified.code == 0, verified.out
    written = parts(output)
    again = submit(*words, "--json")
    assert (again.code, again.json["run"], parts(output)) == (0, 1, written)
    found = read_output(bei, output)
    (as_written,) = (read_rows(name, (output / name).read_bytes()) for name in written)
    for name in names:
        assert as_written.schema.field(name).type == table.schema.field(name).type
        assert as_written[name].equals(table[name])
        assert repr(found[name].to_pylist()) == repr(table[name].to_pylist()), name
    if suffix == "parquet":
        pq.write_table(found.select(names), tmp_path / "found.parquet")
        schema = table.schema.remove(1).remove(0)
        assert in_duckdb(tmp_path / "found.parquet", schema) == in_duckdb(path, schema)


def test_what_is_not_utf8_is_an_error_of_its_row_and_no_reader_stumbles_over_it(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    """Neither Parquet nor Arrow checks strings, and polars opens no file with an invalid one."""
    corpus, output = tmp_path / "corpus.arrow", tmp_path / "corpus.embed"
    tags = pa.ListArray.from_arrays(pa.array([0, 1, 1, 2, 3], pa.int32()), raw(b"a", b"b", b"\xff"))
    columns = {
        "id": raw(b"0", b"1\xff", b"2", b"3"),
        "text": raw(b"one", b"same", b"same", b"caf\xe9"),
        "tags": tags,
        "code": pa.DictionaryArray.from_arrays([0, 0, 0, 1], raw(b"a", b"\xfe")),
    }
    table = pa.table(columns)
    with pa.ipc.new_file(corpus, table.schema) as writer:
        writer.write_table(table)
    done = submit(corpus, "--keep", "text,tags,code", "--json")
    assert (done.code, done.json["rows"]["failed"]) == (3, 2)
    assert bei("verify", output).code == 0
    (part,) = parts(output)
    (quarantine,) = (output / "_bei/quarantine").iterdir()
    rows = pl.read_ipc(output / part)
    assert rows["id"].to_list() == ["0", "1\ufffd", "2", "3"]
    assert rows["text"].to_list() == ["one", "same", "same", "caf\ufffd"]
    assert rows["tags"].to_list() == [["a"], [], ["b"], ["\ufffd"]]
    assert rows["code"].to_list() == ["a", "a", "a", "\ufffd"]
    errors = rows["error"].to_list()
    assert (errors[0], errors[2]) == (None, None)  # it has the text of the row before it
    assert errors[1] == "the column 'id' is not valid UTF-8: invalid start byte at byte 1"
    assert "the text is not valid UTF-8" in errors[3]
    assert pl.read_parquet(quarantine)["bei_error"].to_list() == [errors[1], errors[3]]


def raw(*values: bytes) -> pa.Array:
    """Strings with any bytes."""
    return pa.array(values, pa.binary()).view(pa.string())

"""`submit TABLE`: the rows of the current snapshot of a Delta or an Iceberg table alone."""

from __future__ import annotations

import datetime
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, read_output
from corpora import texts
from deltalake import DeltaTable, write_deltalake
from fixtures_s3 import S3Server
from pyiceberg.table import Table
from pyiceberg.types import DateType, LongType
from tables import (
    Folder,
    commit,
    data_paths,
    delete_rows,
    delta_add,
    delta_field,
    delta_log,
    delta_metadata,
    delta_protocol,
    delta_rows,
    upload,
)

from pipeline.input.tables_paths import unreadable

pytestmark = pytest.mark.usefixtures("device_in_this_process")

DAY = datetime.date(2024, 5, 6)
# Three rows of columns of many types.
KEPT = {
    "price": pa.array([1, None, 3], pa.decimal128(20, 5)),
    "at": pa.array([0, None, 253402214400_000000], pa.timestamp("us", "UTC")),
    "local": pa.array([0, None, 253402214400_000000], pa.timestamp("us")),
    "day": [DAY, None, datetime.date(1, 1, 1)],
    "raw": pa.array([b"\xff", None, b""], pa.binary()),
    "small": pa.array([1.5, None, -0.0], pa.float32()),
    "wide": [1e300, None, float("inf")],
    "tags": [["a", None], None, []],
    "place": [{"x": 1, "names": ["n"]}, None, {"x": None, "names": None}],
    "good": [True, None, False],
}


def rows_of(first: int, count: int = 6, **columns: Any) -> pa.Table:
    """Rows with the ids from `first` on; `columns` are added."""
    numbers = range(first, first + count)
    ids = [f"{number:03}" for number in numbers]
    return pa.table({"id": ids, "text": texts(first + count)[first:], **columns})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "t.embed"


@pytest.fixture
def check(submit: Bei, bei: Bei, output: Path) -> Callable[..., Any]:
    """Submit a table, and compare the kept columns with its rows as another reader has them."""

    def checked(table: object, expected: pa.Table, *words: object, text: str = "text") -> Any:
        kept = [name for name in expected.column_names if name not in ("id", text)]
        options = [word for name in kept for word in ("--keep", name)]
        words = ("--text-column", text, "--output", output, *options, *words)
        done = submit(table, *words, "--json")
        assert done.code == 0, done.err
        found = read_output(bei, output).sort_by("id").select(["id", *kept])
        wanted = expected.sort_by("id").select(["id", *kept])
        assert found.to_pylist() == wanted.to_pylist()
        assert wanted.num_rows
        for name in kept:
            stored = pl.from_arrow(found.select([name])).schema
            assert stored == pl.from_arrow(wanted.select([name])).schema
        verified = bei("verify", output)
        assert verified.code == 0, verified.out
        return done.json

    return checked


class TestDelta:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        return tmp_path / "t"

    def test_replaced_and_deleted_rows_are_not_read_and_new_columns_are(
        self, table: Path, check: Callable[..., Any], submit: Bei, output: Path
    ) -> None:
        write_deltalake(table, rows_of(0, n=pa.array(range(6), pa.int32())))
        write_deltalake(table, rows_of(6, n=pa.array(range(6), pa.int32())), mode="append")
        more = rows_of(12, 3, n=pa.array([1, 2, 3], pa.int32()), day=[DAY, None, DAY])
        write_deltalake(table, more, mode="append", schema_mode="merge")
        DeltaTable(table).delete("id = '002'")
        DeltaTable(table).update(updates={"n": "99"}, predicate="id = '007'")
        done = check(table, delta_rows(table))
        assert done["rows"]["total"] == 14
        version = {"uri": str(table), "format": "Delta", "version": "version 4", "files": 3}
        assert done["files"]["tables"] == [version]
        assert "version 4, 3 files" in done["choices"]["table"]["value"]
        assert "format" not in done["choices"]
        words = (table, "--output", output, "--keep", "n", "--keep", "day", "--json")
        again = submit(*words, "--format", "parquet")
        assert (again.json["run"], again.json["rows"]["computed"]) == (1, 0)
        assert "no effect on tables" in again.json["choices"]["format"]["reason"]

    def test_the_values_of_partitions_have_their_types(
        self, table: Path, check: Callable[..., Any]
    ) -> None:
        at = datetime.datetime(2024, 5, 6, 7, 8, 9, 10, datetime.UTC)
        rows = rows_of(
            0, 4, day=[DAY, DAY, None, DAY], shelf=["a b", "100%", "x/y:z", "é"],
            at=pa.array([at] * 4, pa.timestamp("us", "UTC")), n=[1, 2, None, 4],
            price=pa.array([1, 2, 3, None], pa.decimal128(12, 2)),
            good=[True, False, None, True], half=[0.5, None, 1e30, 0.1],
        )  # fmt: skip
        keys = ["day", "shelf", "at", "n", "price", "good", "half"]
        write_deltalake(table, rows, partition_by=keys)
        done = check(table, delta_rows(table))
        assert done["rows"]["total"] == 4

    def test_where_and_an_id_column_may_be_of_the_partitions(
        self, table: Path, submit: Bei, bei: Bei, output: Path
    ) -> None:
        days = [DAY, DAY + datetime.timedelta(1)] * 3
        write_deltalake(table, rows_of(0, day=days), partition_by=["day"])
        DeltaTable(table).delete("id = '002'")
        words = (table, "--output", output, "--id-column", "day", "--keep", "id")
        done = submit(*words, "--where", "day = '2024-05-06' AND id <> '000'", "--json")
        assert done.code == 0, done.err
        found = read_output(bei, output).select(["day", "id"]).to_pylist()
        assert found == [{"day": DAY, "id": "004"}]
        assert bei("verify", output).code == 0

    def test_a_condition_on_partitions_alone_reads_no_column(
        self, table: Path, submit: Bei, bei: Bei, output: Path
    ) -> None:
        days = [DAY, DAY, DAY + datetime.timedelta(1)] * 2
        write_deltalake(table, rows_of(0, day=days), partition_by=["day"])
        done = submit(table, "--output", output, "--where", "day = '2024-05-07'")
        assert done.code == 0, done.err
        assert read_output(bei, output)["id"].to_pylist() == ["002", "005"]

    def test_kept_types_are_those_of_the_table(
        self, table: Path, check: Callable[..., Any], bei: Bei, output: Path
    ) -> None:
        write_deltalake(table, rows_of(0, 3, **KEPT))
        check(table, delta_rows(table))

    def test_timestamps_that_spark_writes_are_utc(
        self, table: Path, submit: Bei, bei: Bei, output: Path
    ) -> None:
        table.mkdir()
        rows = rows_of(0, 2, at=pa.array([0, 253402214400_000000], pa.timestamp("us")))
        pq.write_table(rows, table / "a.parquet", use_deprecated_int96_timestamps=True)
        fields = [delta_field("id", "string"), delta_field("text", "string")]
        fields.append(delta_field("at", "timestamp"))
        commit(table, delta_protocol(), delta_metadata(fields), delta_add(table, "a.parquet"))
        done = submit(table, "--output", output, "--keep", "at")
        assert done.code == 0, done.err
        expected = rows["at"].cast(pa.timestamp("us", "UTC"))
        assert read_output(bei, output)["at"].equals(expected)

    @pytest.mark.parametrize("mode", ["name", "id"])
    def test_deletion_vectors_and_mapped_columns(
        self, table: Path, check: Callable[..., Any], submit: Bei, output: Path, mode: str
    ) -> None:
        self._mapped(table, mode)
        done = check(table, self._expected(), text="body")
        assert done["rows"]["total"] == 13
        words = (table, "--text-column", "body", "--output", output, "--json")
        kept = ("--keep", "day", "--keep", "extra")
        assert submit(*words, *kept).json["rows"]["computed"] == 0
        # One more row is deleted: its file is another version, and no row is computed.
        old = next(one for one in delta_log(table) if one.get("add", {}).get("deletionVector"))
        again = delta_add(table, "a b.parquet", deleted=[0, 3, 5, 9], **{"c-day": "2024-05-06"})
        gone = {key: old["add"][key] for key in ("path", "deletionVector", "dataChange")}
        commit(table, {"remove": gone}, again)
        done = submit(*words, *kept).json
        assert (done["rows"]["total"], done["rows"]["computed"]) == (12, 0)
        assert done["changes"]["files"] == {"new": 0, "changed": 1, "renamed": 0, "gone": 0}
        assert done["changes"]["rows"]["dropped"] == 1

    def _mapped(self, table: Path, mode: str) -> None:
        """Two files, one with columns of former names; rows 0, 3 and 9 of ten are deleted."""
        table.mkdir()
        names = ["c-id", "text"] if mode == "name" else ["p", "q"]
        ids = {b"PARQUET:field_id": b"1"}, {b"PARQUET:field_id": b"2"}
        for name, rows in (("a b.parquet", rows_of(0, 10)), ("c.parquet", rows_of(10, 6))):
            schema = pa.schema(
                pa.field(one, pa.string(), metadata=key)
                for one, key in zip(names, ids, strict=True)
            )
            pq.write_table(rows.rename_columns(names).cast(schema), table / name, row_group_size=4)
        fields = [
            delta_field("id", "string", "c-id", 1), delta_field("body", "string", "text", 2),
            delta_field("day", "date", "c-day", 3), delta_field("extra", "integer", "c-extra", 4),
        ]  # fmt: skip
        commit(
            table,
            delta_protocol("columnMapping", "deletionVectors"),
            delta_metadata(fields, partition=["day"], mode=mode, maxColumnId="4"),
            delta_add(table, "a b.parquet", deleted=[0, 3, 9], **{"c-day": "2024-05-06"}),
            delta_add(table, "c.parquet", **{"c-day": None}),
        )
        if mode == "name":  # delta-rs reads nulls where fields are found by id
            seen = delta_rows(table).rename_columns(["id", "body", "day", "extra"])
            assert seen.to_pylist() == self._expected().to_pylist()

    def _expected(self) -> pa.Table:
        there = [n for n in range(16) if n not in (0, 3, 9)]
        rows = rows_of(0, 16).take(there).rename_columns(["id", "body"])
        days = pa.array([DAY if n < 10 else None for n in there])
        return rows.append_column("day", days).append_column("extra", pa.nulls(13, pa.int32()))

    def test_a_night_computes_new_files_and_keeps_the_parts_of_others(
        self, table: Path, submit: Bei, bei: Bei, output: Path
    ) -> None:
        write_deltalake(table, rows_of(0))
        words = (table, "--output", output, "--json")
        assert submit(*words).json["rows"]["computed"] == 6
        first = {path.name for path in output.glob("*.arrow")}
        new = rows_of(6, 2, lang=["en", "de"])
        write_deltalake(table, new, mode="append", schema_mode="merge")
        done = submit(*words).json
        assert (done["rows"]["computed"], done["rows"]["total"]) == (2, 8)
        assert done["changes"]["files"] == {"new": 1, "changed": 0, "renamed": 0, "gone": 0}
        assert first < {path.name for path in output.glob("*.arrow")}
        DeltaTable(table).optimize.compact()
        done = submit(*words).json
        assert (done["rows"]["computed"], done["rows"]["total"]) == (0, 8)
        assert (done["changes"]["files"]["new"], done["changes"]["files"]["gone"]) == (1, 2)
        assert read_output(bei, output).sort_by("id")["id"].to_pylist() == [
            f"{number:03}" for number in range(8)
        ]
        assert "table   Delta table" in bei("status", output).out
        listed = bei("plan", *words, "--model", done["model"]["name"], "--device", "cpu")
        assert listed.json["files"]["tables"][0]["version"] == "version 2"

    def test_the_log_may_begin_at_a_checkpoint(
        self, table: Path, check: Callable[..., Any]
    ) -> None:
        write_deltalake(table, rows_of(0))
        DeltaTable(table).delete("id = '001'")
        DeltaTable(table).create_checkpoint()
        (table / "_delta_log/00000000000000000000.json").unlink()
        write_deltalake(table, rows_of(6), mode="append")
        half = f"{2:020}.checkpoint.{1:010}.{2:010}.parquet"  # its other half is being written
        (table / "_delta_log" / half).write_bytes(b"PAR1")
        assert check(table, delta_rows(table))["rows"]["total"] == 11

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("../other/a.parquet", "not in its directory"),
            ("file:///elsewhere/a.parquet", "not in its directory"),
            ("s3://other/a.parquet", "not in its directory"),
            ("b.parquet", "does not exist"),
        ],
    )
    def test_files_elsewhere_are_refused_by_name(
        self, table: Path, submit: Bei, path: str, problem: str
    ) -> None:
        write_deltalake(table, rows_of(0))
        pq.write_table(rows_of(0), table / "a.parquet")
        action = delta_add(table, "a.parquet")
        action["add"]["path"] = path
        commit(table, action)
        refused = submit(table)
        assert refused.code == 1
        assert problem in refused.screen[0]
        assert path.rpartition("/")[2] in refused.screen[0]

    @pytest.mark.parametrize(
        ("log", "problem"),
        [
            ('{"protocol":{"minReaderVersion":4,"minWriterVersion":7}}', "Delta table"),
            ('{"protocol":', "Delta table"),
            ("", "Delta table"),
        ],
    )
    def test_a_log_that_cannot_be_read_is_refused_by_name(
        self, table: Path, submit: Bei, log: str, problem: str
    ) -> None:
        write_deltalake(table, rows_of(0))
        for path in (table / "_delta_log").iterdir():
            path.write_text(log)
        refused = submit(table)
        assert refused.code == 1
        assert problem in refused.screen[0]
        assert str(table) in refused.screen[0]

    def test_the_stack_of_a_library_is_not_shown(self) -> None:
        problem = "Json error: Truncated record\n   0: <unknown>\n   1: clone3\n"
        assert unreadable("t", "Delta", problem).message.endswith("Json error: Truncated record")

    def test_a_feature_that_is_not_known_is_refused_by_name(self, table: Path, submit: Bei) -> None:
        table.mkdir()
        pq.write_table(rows_of(0), table / "a.parquet")
        fields = [delta_field("id", "string"), delta_field("text", "string")]
        commit(
            table, delta_protocol("variantType"), delta_metadata(fields),
            delta_add(table, "a.parquet"),
        )  # fmt: skip
        refused = submit(table)
        assert "variantType" in refused.screen[0]

    def test_a_type_that_a_file_does_not_have_is_refused_by_name(
        self, table: Path, submit: Bei
    ) -> None:
        write_deltalake(table, rows_of(0, n=[1] * 6))
        pq.write_table(rows_of(6, n=["x"] * 6), table / "a.parquet")
        commit(table, delta_add(table, "a.parquet"))
        refused = submit(table, "--keep", "n", "--max-bad-files", 0)
        assert refused.code == 1
        assert "a.parquet" in refused.screen[0]
        assert "'n'" in refused.screen[0]
        assert submit(table).code == 0  # which does not read it

    def test_on_s3_with_the_options_of_the_store(
        self, table: Path, submit: Bei, bei: Bei, s3: S3Server, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        self._mapped(table, "name")
        bucket = s3.make_bucket()
        uri = upload(table, f"s3://{bucket}/a/t", fsspec.filesystem("s3").pipe_file)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            monkeypatch.delenv(name)
        stores = tmp_path / "stores.toml"
        options = f'endpoint_url = "{s3.endpoint}"\nkey = "AKIA"\nsecret = "secret"\n'
        stores.write_text(f'["s3://{bucket}"]\n{options}')
        words = (uri, "--text-column", "body", "--output", tmp_path / "o", "--stores", stores)
        done = submit(*words, "--json")
        assert done.code == 0, done.err
        assert done.json["rows"]["total"] == 13
        assert (
            read_output(bei, tmp_path / "o")["id"].to_pylist() == self._expected()["id"].to_pylist()
        )
        again = submit(*words, "--json")
        assert (again.json["run"], again.json["rows"]["computed"]) == (1, 0)


class TestIceberg:
    @pytest.fixture
    def catalog(self, tmp_path: Path) -> Folder:
        return Folder(tmp_path)

    @pytest.fixture
    def table(self, catalog: Folder) -> Table:
        """Six rows under old names and types, and three under the new ones."""
        rows = rows_of(0, n=pa.array(range(6), pa.int32()), tag=["t"] * 6)
        table = catalog.create_table("t", rows.schema)
        table.append(rows)
        with table.update_schema() as change:
            change.rename_column("text", "body")
            change.update_column("n", LongType())
            change.add_column("day", DateType())
            change.delete_column("tag")
            change.move_first("n")
        rows = rows_of(6, 3, day=[DAY, None, DAY], n=[2**40, 7, None])
        table.append(
            rows.rename_columns(["id", "body", "day", "n"]).select(["n", "id", "body", "day"])
        )
        return table

    def test_columns_have_their_names_and_types_and_deleted_rows_are_gone(
        self, table: Table, check: Callable[..., Any], tmp_path: Path
    ) -> None:
        first = next(path for path in data_paths(table) if pq.read_metadata(path).num_rows == 6)
        table.delete("id = '007'")  # the file is written anew
        delete_rows(table, {first: [0, 4]})
        expected = pl.scan_iceberg(table).collect().to_arrow()
        assert expected.num_rows == 6
        done = check(tmp_path / "t", expected, text="body")
        snapshot = table.current_snapshot()
        assert snapshot is not None
        version = f"snapshot {snapshot.snapshot_id}"
        assert done["files"]["tables"][0] == {
            "uri": str(tmp_path / "t"), "format": "Iceberg", "version": version, "files": 2,
        }  # fmt: skip

    def test_kept_types_are_those_of_the_table(
        self, catalog: Folder, check: Callable[..., Any], tmp_path: Path
    ) -> None:
        times = pa.array([1, None, 86399999999], pa.time64("us"))
        rows = rows_of(
            0, 3, **KEPT, of_day=times, four=pa.array([b"abcd", None, b"efgh"], pa.binary(4))
        )
        table = catalog.create_table("t", rows.schema)
        table.append(rows)
        check(tmp_path / "t", table.scan().to_arrow())

    def test_files_that_were_added_as_they_are_have_no_ids(
        self, table: Table, check: Callable[..., Any], tmp_path: Path
    ) -> None:
        rows = rows_of(20, 2, n=[1, 2]).rename_columns(["id", "body", "n"])
        pq.write_table(rows, tmp_path / "t/data/added.parquet")
        table.add_files([str(tmp_path / "t/data/added.parquet")])
        with table.update_schema() as change:
            change.rename_column("body", "words")
        expected = table.scan().to_arrow()
        assert check(tmp_path / "t", expected, text="words")["rows"]["total"] == 11

    def test_a_night_of_deletes_and_appends(
        self, table: Table, submit: Bei, bei: Bei, output: Path, tmp_path: Path
    ) -> None:
        words = (tmp_path / "t", "--text-column", "body", "--output", output, "--json")
        assert submit(*words).json["rows"]["computed"] == 9
        delete_rows(table, {data_paths(table)[0]: [1]}, kind="vectors")
        table.append(pa.table({"n": [1], "id": ["100"], "body": ["new"], "day": [DAY]}))
        with table.update_schema() as change:
            change.rename_column("n", "count")
        done = submit(*words).json
        assert done["rows"]["computed"] == 1
        assert done["changes"]["files"] == {"new": 1, "changed": 1, "renamed": 0, "gone": 0}
        found = read_output(bei, output)["id"].to_pylist()
        assert sorted(found) == sorted(table.scan().to_arrow()["id"].to_pylist())
        assert bei("verify", output).code == 0
        assert submit(*words).json["rows"]["computed"] == 0

    def test_rows_are_all_deleted_from_a_file(
        self, table: Table, check: Callable[..., Any], tmp_path: Path
    ) -> None:
        first = next(path for path in data_paths(table) if pq.read_metadata(path).num_rows == 6)
        delete_rows(table, {first: range(6)})
        expected = table.scan().to_arrow()
        assert check(tmp_path / "t", expected, text="body")["rows"]["total"] == 3

    def test_equality_deletes_are_refused_by_name(
        self, table: Table, submit: Bei, tmp_path: Path
    ) -> None:
        delete_rows(table, {data_paths(table)[0]: [1]}, kind="equality")
        refused = submit(tmp_path / "t", "--text-column", "body")
        assert refused.code == 1
        assert "equality deletes" in refused.screen[0]
        assert "rewrite" in refused.err

    def test_a_partition_that_files_lack_is_the_tables(
        self, catalog: Folder, check: Callable[..., Any], tmp_path: Path
    ) -> None:
        schema = pa.schema(
            {"id": pa.string(), "text": pa.string(), "day": pa.date32(), "n": pa.int64()}
        )
        table = catalog.create_table("t", schema)
        with table.update_spec() as change:
            change.add_identity("day")
            change.add_identity("n")
        table.append(rows_of(0, 4, day=[DAY, DAY, None, DAY], n=[1, 2, 1, 2]))
        expected = table.scan().to_arrow()
        for path in data_paths(table):  # as Hive writes them
            pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["day", "n"]), path)
        check(tmp_path / "t", expected)

    def test_a_partition_that_cannot_be_read_refuses_its_column_alone(
        self, catalog: Folder, check: Callable[..., Any], submit: Bei, tmp_path: Path
    ) -> None:
        schema = pa.schema({"id": pa.string(), "text": pa.string(), "at": pa.time64("us")})
        table = catalog.create_table("t", schema)
        with table.update_spec() as change:
            change.add_identity("at")
        table.append(rows_of(0, 3, at=pa.array([1, None, 2], pa.time64("us"))))
        refused = submit(tmp_path / "t", "--keep", "at")
        assert refused.code == 1
        assert "'at'" in refused.err
        check(tmp_path / "t", table.scan().to_arrow().drop_columns(["at"]))

    def test_a_struct_may_gain_a_field_and_another_field_of_the_same_name_is_refused(
        self, catalog: Folder, check: Callable[..., Any], submit: Bei, tmp_path: Path
    ) -> None:
        rows = rows_of(0, at=[{"x": 1, "y": 2}] * 6)
        table = catalog.create_table("t", rows.schema)
        table.append(rows)
        with table.update_schema() as change:
            change.add_column(("at", "z"), LongType())
        check(tmp_path / "t", table.scan().to_arrow())
        with table.update_schema() as change:
            change.delete_column("at.x")
        with table.update_schema() as change:
            change.add_column(("at", "x"), LongType())
        refused = submit(tmp_path / "t", "--keep", "at", "--output", tmp_path / "o")
        assert refused.code == 1
        assert "'at'" in refused.screen[0]
        assert submit(tmp_path / "t", "--output", tmp_path / "p").code == 0

    def test_metadata_that_is_not_clear_is_refused_until_it_is(
        self, table: Table, submit: Bei, tmp_path: Path
    ) -> None:
        folder = tmp_path / "t/metadata"
        newest = max(folder.glob("*.metadata.json"))
        other = folder / f"{newest.name[:5]}-00000000-0000-0000-0000-000000000000.metadata.json"
        shutil.copy(min(folder.glob("*.metadata.json")), other)
        refused = submit(tmp_path / "t", "--text-column", "body")
        assert refused.code == 1
        assert newest.name in refused.screen[0]
        assert other.name in refused.screen[0]
        (folder / "version-hint.text").write_text(newest.name)
        assert submit(tmp_path / "t", "--text-column", "body").code == 0

    def test_on_s3_under_another_name_than_its_metadata_has(
        self, table: Table, submit: Bei, bei: Bei, s3: S3Server, output: Path, tmp_path: Path
    ) -> None:
        delete_rows(table, {data_paths(table)[0]: [1]})
        expected = sorted(table.scan().to_arrow()["id"].to_pylist())
        uri = f"s3://{s3.make_bucket()}/moved"
        upload(tmp_path / "t", uri, fsspec.filesystem("s3").pipe_file)
        shutil.rmtree(tmp_path / "t")
        done = submit(uri, "--text-column", "body", "--output", output, "--json")
        assert done.code == 0, done.err
        assert sorted(read_output(bei, output)["id"].to_pylist()) == expected


@pytest.mark.parametrize("package", ["deltalake", "pyiceberg"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, submit: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "deltalake":
        write_deltalake(tmp_path / "t", rows_of(0))
    else:
        Folder(tmp_path).create_table("t", rows_of(0).schema).append(rows_of(0))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    refused = submit(tmp_path / "t")
    assert refused.code == 2
    extra = {"deltalake": "delta", "pyiceberg": "iceberg"}[package]
    assert f"pip install 'bei-jobs[{extra}]'" in refused.err


def test_an_empty_table_and_one_below_a_directory_are_refused(submit: Bei, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "all/t", rows_of(0))
    refused = submit(tmp_path / "all")
    assert "all/t is a Delta table" in refused.screen[0]
    assert f"name the table itself, {tmp_path}/all/t" in refused.err
    DeltaTable(tmp_path / "all/t").delete()
    assert "without any file" in submit(tmp_path / "all/t").screen[0]

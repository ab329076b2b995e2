from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from input_plans import plan_of

from pipeline.errors import InputError
from pipeline.input import cutting
from pipeline.input.cuts import cut_file, default_rows_per_shard
from pipeline.input.cutting import PlannedInputs
from pipeline.input.discovery import discover
from pipeline.shards import Cut, InputFile, Shard
from pipeline.store.directory import Directory

WRITTEN = ("embedding", "n_tokens", "truncated", "error")


def put(root: str, name: str, data: bytes = b"id,text\n1,a\n2,b\n") -> str:
    directory = Directory(root)
    directory.put(name, data)
    return directory.uri_of(name)


def parquet(rows: int = 2, row_group_size: int | None = None, **columns: Any) -> bytes:
    data = {"id": pa.array(range(rows), pa.int64()), "text": ["t"] * rows, **columns}
    sink = io.BytesIO()
    pq.write_table(
        pa.table({name: values for name, values in data.items() if values is not None}),
        sink,
        row_group_size=row_group_size,
    )
    return sink.getvalue()


def plan(*inputs: str, **options: Any) -> PlannedInputs:
    return plan_of(inputs, **{"optional": ("id",), "output_columns": WRITTEN, **options})


class TestCuts:
    @given(
        groups=st.lists(st.integers(0, 200), max_size=30) | st.none(),
        rows=st.integers(0, 2000),
        step=st.integers(1, 150),
    )
    def test_cover_every_row_once_in_order(
        self, groups: list[int] | None, rows: int, step: int
    ) -> None:
        total = rows if groups is None else sum(groups)
        cuts = cut_file(total, groups, step)
        covered = [row for cut in cuts for row in range(cut.first_row, cut.first_row + cut.rows)]
        assert covered == list(range(total))
        assert all(0 < cut.rows <= step for cut in cuts)

    def test_keep_whole_row_groups_where_they_fit(self) -> None:
        assert [cut.rows for cut in cut_file(1000, [300, 300, 300, 100], 700)] == [600, 400]

    def test_divide_a_giant_row_group_evenly(self) -> None:
        assert [cut.rows for cut in cut_file(220, [10, 200, 10], 90)] == [10, 66, 67, 77]

    def test_are_smaller_where_the_output_is_large(self) -> None:
        assert default_rows_per_shard(384 * 4) == 16_384
        assert default_rows_per_shard(64 << 10) == 4096
        assert default_rows_per_shard(1 << 40) == 1
        assert default_rows_per_shard(0) == 16_384


class TestDiscovery:
    def test_a_directory_is_taken_whole_without_what_is_hidden(self, store_uri: str) -> None:
        names = ["b.csv", "a/c.csv", "a.csv", "_draft.csv", ".hidden.csv", "_x/a.csv", "README.md"]
        for name in names:
            put(store_uri, name)
        assert [file.path for file in discover([store_uri])] == ["a.csv", "a/c.csv", "b.csv"]

    def test_outputs_inside_a_directory_are_left_out(self, store_uri: str) -> None:
        put(store_uri, "a.csv")
        put(store_uri, "a.embed/part-1.arrow")
        put(store_uri, "a.embed/_bei/spec.json")
        put(store_uri, "a.embedded/b.csv")
        assert [f.path for f in discover([store_uri])] == ["a.csv", "a.embedded/b.csv"]
        for pattern in ("*", "**/*.*", "*/*"):
            paths = [file.path for file in discover([f"{store_uri}/{pattern}"])]
            assert "a.embed/part-1.arrow" not in paths
            assert "a.embedded/b.csv" in paths

    @pytest.mark.parametrize(
        ("marker", "table"),
        [
            ("_delta_log/00000000000000000000.json", "Delta"),
            ("metadata/v1.metadata.json", "Iceberg"),
            (".hoodie/hoodie.properties", "Hudi"),
            ("_versions/1.manifest", "Lance"),
        ],
    )
    def test_a_table_is_refused_by_name_but_not_its_file(
        self, store_uri: str, marker: str, table: str
    ) -> None:
        put(store_uri, "tables/t/data/a.csv")
        put(store_uri, f"tables/t/{marker}")
        read = table in ("Delta", "Iceberg")
        for argument in ("tables/t", "tables", "tables/t/*/*.csv", "tables/*/data/*.csv"):
            if read and argument == "tables/t":
                continue
            with pytest.raises(InputError, match=rf"tables/t is an? {table} table") as refused:
                discover([f"{store_uri}/{argument}"])
            assert ("name the table itself" if read else "Parquet") in refused.value.hint
        named = [file.path for file in discover([f"{store_uri}/tables/t/data/a.csv"])]
        assert named == ["a.csv"]

    def test_an_output_that_is_itself_named_is_an_input(self, store_uri: str) -> None:
        put(store_uri, "out/part-1.arrow")
        put(store_uri, "out/_bei/spec.json")
        for argument in ("out", "out/*.arrow", "out/part-1.arrow"):
            assert [f.path for f in discover([f"{store_uri}/{argument}"])] == ["part-1.arrow"]

    def test_a_glob_keeps_the_path_below_its_first_wildcard(self, store_uri: str) -> None:
        for name in ("x/day=1/a.csv", "x/day=2/b.csv", "x/day=2/c.jsonl", "y/day=1/d.csv"):
            put(store_uri, name)
        listed = discover([f"{store_uri}/x/day=*/*.csv"])
        assert [file.path for file in listed] == ["day=1/a.csv", "day=2/b.csv"]
        assert [file.partition for file in listed] == [(("day", "1"),), (("day", "2"),)]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("**", ["a.csv", "sub/b.csv", "sub/deep/c.csv"]),
            ("**/", ["a.csv", "sub/b.csv", "sub/deep/c.csv"]),
            ("**/*", ["a.csv", "sub/b.csv", "sub/deep/c.csv"]),
            ("**/*.csv", ["a.csv", "sub/b.csv", "sub/deep/c.csv"]),
            ("*", ["a.csv", "sub/b.csv", "sub/deep/c.csv"]),
            ("*/**", ["sub/b.csv", "sub/deep/c.csv"]),
            ("*.csv", ["a.csv"]),
            ("s*", ["sub/b.csv", "sub/deep/c.csv"]),
            ("sub/**", ["b.csv", "deep/c.csv"]),
            ("[as]*", ["a.csv", "sub/b.csv", "sub/deep/c.csv"]),
        ],
    )
    def test_a_glob_gives_each_file_once(
        self, store_uri: str, pattern: str, expected: list[str]
    ) -> None:
        for name in ("a.csv", "sub/b.csv", "sub/deep/c.csv"):
            put(store_uri, name)
        listed = discover([f"{store_uri}/{pattern}"])
        assert [file.path for file in listed] == expected
        assert not any("//" in file.uri.partition("://")[2] for file in listed)

    def test_links_are_followed_and_a_file_is_one_however_many_lead_to_it(
        self, tmp_path: Path
    ) -> None:
        for name in ("data/a.csv", "elsewhere/b.csv", "elsewhere/deep/c.csv"):
            put(str(tmp_path), name)
        (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data/again.csv").symlink_to(tmp_path / "data/a.csv")
        expected = ["a.csv", "linked/b.csv", "linked/deep/c.csv"]
        for argument in ("data", "data/**", "data/*", "./data//", "data/linked/../../data"):
            listed = discover([f"{tmp_path}/{argument}"])
            assert [file.path for file in listed] == expected, argument
        both = discover([str(tmp_path / "data"), str(tmp_path / "elsewhere")])
        assert len(both) == 3

    def test_a_link_back_to_its_own_directory_is_refused_by_name(self, tmp_path: Path) -> None:
        put(str(tmp_path), "data/sub/a.csv")
        (tmp_path / "data/sub/up").symlink_to(tmp_path / "data")
        with pytest.raises(InputError, match=r"data/sub/up links back to .*data, which it is in"):
            discover([str(tmp_path / "data")])
        assert [f.path for f in discover([f"{tmp_path}/data/**/*.csv"])] == ["sub/a.csv"]

    def test_a_name_with_glob_characters_is_found_literally(self, store_uri: str) -> None:
        uri = put(store_uri, "ü [1]*.csv")
        put(store_uri, "ü 1.csv")
        assert [file.uri for file in discover([uri])] == [uri]

    def test_a_directory_with_glob_characters_is_found_literally(self, store_uri: str) -> None:
        for name in ("run[1]/a.csv", "run1/b.csv", "news [2024]/c.csv"):
            put(store_uri, name)
        for folder, expected in (("run[1]", "a.csv"), ("news [2024]", "c.csv")):
            listed = discover([f"{store_uri}/{folder}"])
            assert [file.path for file in listed] == [expected]
        assert [file.path for file in discover([f"{store_uri}/run[12]"])] == ["run1/b.csv"]

    def test_a_file_named_twice_is_one_input_with_one_path(self, store_uri: str) -> None:
        uri = put(store_uri, "a/b.csv")
        arguments = [uri, store_uri, f"{store_uri}/a", f"{store_uri}/*/*.csv"]
        for order in (arguments, arguments[::-1]):
            assert [(file.uri, file.path) for file in discover(order)] == [(uri, "a/b.csv")]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("a.PARQUET", ("parquet", "")),
            ("a.b.feather", ("arrow", "")),
            ("a.ndjson.gz", ("jsonl", "gzip")),
            ("a.csv.zst", ("csv", "zstd")),
        ],
    )
    def test_the_suffix_tells_the_format(
        self, tmp_path: Path, name: str, expected: tuple[str, str]
    ) -> None:
        listed = discover([put(str(tmp_path), name)])[0]
        assert (listed.format, listed.compression) == expected

    @pytest.mark.parametrize("name", ["a.txt", "a", "a.parquet.gz", "a.gz", ".csv"])
    def test_a_named_file_of_unknown_format_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match="cannot tell the format from the name") as caught:
            discover([put(str(tmp_path), name)])
        assert ".parquet" in caught.value.hint

    def test_a_directory_without_inputs_says_what_it_holds(self, store_uri: str) -> None:
        put(store_uri, "d/notes.txt")
        with pytest.raises(InputError, match=r"holds no input files, only notes\.txt"):
            discover([f"{store_uri}/d"])

    def test_what_does_not_exist_is_named(self, tmp_path: Path, s3: Any) -> None:
        with pytest.raises(InputError, match=r"nothing\.csv does not exist"):
            discover([str(tmp_path / "nothing.csv")])
        with pytest.raises(InputError, match=r"\*\.csv matches no file"):
            discover([f"{tmp_path}/*.csv"])
        with pytest.raises(InputError, match=r"a\.csv does not exist"):
            discover([f"s3://{s3.make_bucket()}/a.csv"])
        with pytest.raises(InputError, match="its bucket does not exist"):
            discover(["s3://no-such-bucket/a/"])


class TestPlan:
    def test_files_are_in_the_byte_order_of_part_names(self, store_uri: str) -> None:
        for name in ("b.csv", "a/b.csv", "a.csv", "ä.csv", "A.csv"):
            put(store_uri, name)
        planned = plan(store_uri)
        parts = [Shard(file, cut, "0" * 16).part for file, cuts in planned.files for cut in cuts]
        assert parts == sorted(parts)
        assert planned.rows == 10
        assert planned.schema == pa.schema([("id", pa.string()), ("text", pa.large_string())])

    def test_formats_can_be_mixed_when_types_agree(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.csv", b"text\na\n")
        put(str(tmp_path), "b.jsonl", b'{"text": "b"}\n')
        put(str(tmp_path), "c.parquet", parquet(id=None))
        planned = plan(str(tmp_path))
        assert planned.schema == pa.schema([("text", pa.large_string())])
        assert [file.rows for file, _ in planned.files] == [1, 1, 2]

    @pytest.mark.parametrize(
        ("columns", "kind"),
        [
            ((), pa.large_string()),
            (("text",), pa.dictionary(pa.int32(), pa.string())),
        ],
    )
    def test_a_text_column_keeps_its_type_only_if_it_is_kept(
        self, tmp_path: Path, columns: tuple[str, ...], kind: pa.DataType
    ) -> None:
        text = pa.array(["a", "b"]).dictionary_encode()
        planned = plan(put(str(tmp_path), "a.parquet", parquet(text=text)), columns=columns)
        assert planned.schema.field("text").type == kind

    def test_text_columns_of_every_kind_go_together(self, tmp_path: Path) -> None:
        texts = pa.array(["a", "b"])
        for i, kind in enumerate([pa.string(), pa.string_view(), pa.large_string(), pa.null()]):
            text = pa.nulls(2) if kind == pa.null() else texts.cast(kind)
            put(str(tmp_path), f"{i}.parquet", parquet(text=text))
        put(str(tmp_path), "d.parquet", parquet(text=texts.dictionary_encode()))
        assert plan(str(tmp_path)).schema.field("text").type == pa.large_string()

    def test_lists_of_texts_of_every_kind_go_together(self, tmp_path: Path) -> None:
        texts = pa.array([["a", None], ["b", "c"]], pa.list_(pa.string()))
        for i, kind in enumerate(
            [
                texts.type,
                pa.large_list(pa.large_string()),
                pa.list_(pa.string_view()),
                pa.list_(pa.string(), 2),
                pa.null(),
            ]
        ):
            lists = pa.nulls(2) if kind == pa.null() else texts.cast(kind)
            put(str(tmp_path), f"{i}.parquet", parquet(docs=lists))
        put(str(tmp_path), "e.jsonl", b'{"id": 1, "text": "t", "docs": ["a", null]}\n')
        planned = plan(str(tmp_path), list_columns=("docs",))
        assert planned.schema.field("docs").type == pa.list_(pa.large_string())

    def test_a_list_of_texts_keeps_its_type_where_it_is_kept(self, tmp_path: Path) -> None:
        docs = pa.array([["a"], []], pa.large_list(pa.string()))
        uri = put(str(tmp_path), "a.parquet", parquet(docs=docs))
        planned = plan(uri, list_columns=("docs",), columns=("docs",))
        assert planned.schema.field("docs").type == docs.type

    @pytest.mark.parametrize(
        "docs",
        [
            pa.array(["a", "b"]),
            pa.array([[1], [2]]),
            pa.array([["a"], ["b"]], pa.list_view(pa.string())),
        ],
        ids=lambda docs: str(docs.type),
    )
    def test_a_list_column_of_another_type_is_refused(self, tmp_path: Path, docs: pa.Array) -> None:
        uri = str(tmp_path / "a.arrow")
        with (
            pa.OSFile(uri, "wb") as file,
            pa.ipc.new_file(file, pa.schema([("docs", docs.type)])) as out,
        ):
            out.write(pa.record_batch({"docs": docs}))
        with pytest.raises(InputError, match="a list of texts is expected") as caught:
            plan(uri, text_columns=(), list_columns=("docs",))
        assert "--document-column" in caught.value.hint

    def test_a_missing_column_names_the_ones_there_are(self, tmp_path: Path) -> None:
        uri = put(str(tmp_path), "a.parquet", parquet())
        with pytest.raises(InputError, match=r"a\.parquet has no column 'body'; it has id, text"):
            plan(uri, text_columns=("body",))

    def test_a_text_column_of_another_type_is_refused(self, tmp_path: Path) -> None:
        uri = put(str(tmp_path), "a.parquet", parquet())
        with pytest.raises(InputError, match="column 'id' is int64, a text is expected") as caught:
            plan(uri, text_columns=("id",))
        assert "--text-column" in caught.value.hint

    def test_a_column_that_is_there_twice_is_refused(self, tmp_path: Path) -> None:
        uri = put(str(tmp_path), "a.csv", b"text,id,text\na,1,b\n")
        with pytest.raises(InputError, match="2 columns named 'text'"):
            plan(uri)

    def test_types_that_do_not_go_together_name_both_files(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.parquet", parquet())
        put(str(tmp_path), "b.parquet", parquet(id=["x", "y"]))
        with pytest.raises(
            InputError, match=r"b\.parquet: column 'id' is string, but int64 in .*a"
        ):
            plan(str(tmp_path))

    def test_integers_are_widened(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.parquet", parquet())
        put(str(tmp_path), "b.parquet", parquet(id=pa.array([1, 2], pa.int16())))
        assert plan(str(tmp_path)).schema.field("id").type == pa.int64()

    def test_a_default_id_that_only_some_files_have_is_refused(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.csv", b"id,text\n1,a\n")
        put(str(tmp_path), "b.csv", b"text\na\n")
        with pytest.raises(InputError, match=r"b\.csv has no column 'id', .*a\.csv has"):
            plan(str(tmp_path))

    @pytest.mark.parametrize("options", [{"columns": ("error",)}, {"optional": ("error",)}])
    def test_a_kept_column_named_like_an_output_column_is_refused(
        self, tmp_path: Path, options: Any
    ) -> None:
        uri = put(str(tmp_path), "a.csv", b"text,error\na,b\n")
        with pytest.raises(InputError, match="'error' would pass through under a name"):
            plan(uri, **options)

    def test_hive_keys_become_columns_and_win_over_stored_ones(self, store_uri: str) -> None:
        put(store_uri, "lang=de/day=1/a.parquet", parquet(lang=pa.array([7, 8])))
        put(store_uri, "lang=en/day=2/a.parquet", parquet())
        planned = plan(store_uri, columns=("lang",))
        assert planned.partition == ("lang", "day")
        assert planned.schema.names == ["id", "text", "lang", "day"]
        assert planned.schema.field("lang").type == pa.string()

    def test_paths_with_other_hive_keys_are_refused(self, tmp_path: Path) -> None:
        put(str(tmp_path), "lang=de/a.csv")
        put(str(tmp_path), "b.csv")
        with pytest.raises(InputError, match=r"b\.csv: no lang=… directory"):
            plan(str(tmp_path))

    def test_a_file_without_rows_has_no_shards_and_no_say(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.jsonl", b"\n")
        put(str(tmp_path), "b.csv", b"other\n")
        put(str(tmp_path), "c.csv")
        planned = plan(str(tmp_path))
        assert [len(cuts) for _, cuts in planned.files] == [0, 0, 1]
        assert planned.schema.names == ["id", "text"]

    def test_many_remote_footers_are_read_together(self, s3: Any) -> None:
        bucket = s3.make_bucket()
        for i in range(20):
            put(f"s3://{bucket}/in", f"{i:02d}.parquet", parquet(rows=10, row_group_size=4))
        planned = plan(f"s3://{bucket}/in", rows_per_shard=4)
        assert [len(cuts) for _, cuts in planned.files] == [3] * 20


class TestReplan:
    def known(self, planned: PlannedInputs) -> dict[tuple[str, str], tuple[InputFile, Any]]:
        return {(file.uri, file.version): (file, cuts) for file, cuts in planned.files}

    def test_an_unchanged_file_keeps_its_cuts_and_is_not_opened(
        self, store_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a.csv", "b.jsonl", "c.parquet"):
            data = {"b.jsonl": b'{"id": "1", "text": "a"}\n' * 9}.get(name)
            put(store_uri, name, data or (b"id,text\n" + b"1,a\n" * 9))
        put(store_uri, "c.parquet", parquet(rows=9, id=["x"] * 9))
        first = plan(store_uri, rows_per_shard=4)
        put(store_uri, "d.csv", b"id,text\n" + b"1,a\n" * 5)
        opened = []
        original = cutting.inspect
        monkeypatch.setattr(
            cutting, "inspect", lambda f, *rest: opened.append(f.path) or original(f, *rest)
        )
        again = plan(store_uri, rows_per_shard=2, cuts=self.known(first), schema=first.schema)
        assert opened == ["d.csv"]
        assert again.files[:3] == first.files
        assert [cut.rows for cut in again.files[3][1]] == [2, 2, 1]
        assert again.schema == first.schema

    def test_a_changed_file_is_cut_anew(self, store_uri: str) -> None:
        uri = put(store_uri, "a.csv", b"id,text\n" + b"1,a\n" * 4)
        first = plan(uri, rows_per_shard=4)
        put(store_uri, "a.csv", b"id,text\n" + b"1,a\n" * 5)
        again = plan(uri, rows_per_shard=2, cuts=self.known(first), schema=first.schema)
        assert [cut.rows for cut in again.files[0][1]] == [2, 2, 1]

    def test_cuts_that_a_limit_left_incomplete_are_made_anew(self, tmp_path: Path) -> None:
        uri = put(str(tmp_path), "a.csv", b"id,text\n" + b"1,a\n" * 10)
        first = plan(uri, rows_per_shard=4)
        file, cuts = first.files[0]
        limited = {(file.uri, file.version): (file, (cuts[0], Cut(4, 2, cuts[1].byte_offset)))}
        again = plan(uri, rows_per_shard=4, cuts=limited, schema=first.schema)
        assert again.files == first.files

    def test_a_new_file_is_cast_to_the_first_schema_or_refused(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.parquet", parquet())
        first = plan(str(tmp_path))
        put(str(tmp_path), "b.parquet", parquet(id=pa.array([1, 2], pa.int32())))
        options: Any = {"cuts": self.known(first), "schema": first.schema}
        assert plan(str(tmp_path), **options).schema == first.schema
        put(str(tmp_path), "c.parquet", parquet(id=[1.5, 2.5]))
        with pytest.raises(
            InputError, match=r"c\.parquet: column 'id' is double, but int64 in the"
        ):
            plan(str(tmp_path), **options)

    def test_only_kept_columns_are_widened_and_never_from_texts_to_bytes(
        self, tmp_path: Path
    ) -> None:
        put(str(tmp_path), "a.parquet", parquet(kept=["x", "y"], n=pa.array([1, 2], pa.int32())))
        free: Any = {"columns": ("kept", "n"), "free": ("kept", "n"), "widen": True}
        first = plan(str(tmp_path), **free)
        options: Any = {**free, "cuts": self.known(first), "schema": first.schema}
        put(str(tmp_path), "b.parquet", parquet(kept=["z", None], n=[1.5, 2.5]))
        assert plan(str(tmp_path), **options).schema.field("n").type == pa.float64()
        put(str(tmp_path), "b.parquet", parquet(id=[1.5, 2.5], kept=["z", "z"], n=[1, 2]))
        with pytest.raises(InputError, match="column 'id' is double, but int64 in the plan"):
            plan(str(tmp_path), **options)
        put(str(tmp_path), "b.parquet", parquet(kept=[b"z", b"z"], n=[1, 2]))
        with pytest.raises(InputError, match="column 'kept' is binary, but string in the plan"):
            plan(str(tmp_path), **options)

    def test_a_key_that_some_files_of_json_lack_is_null_but_one_that_all_lack_is_an_error(
        self, tmp_path: Path
    ) -> None:
        put(str(tmp_path), "a.jsonl", b'{"text": "a", "key": 1, "kept": "x"}\n')
        put(str(tmp_path), "b.jsonl", b'{"text": "b", "key": 2}\n')
        planned = plan(str(tmp_path), columns=("key", "kept"), free=("kept",))
        assert planned.schema.field("kept").type == pa.string()
        with pytest.raises(InputError, match="has no column 'ketp'"):
            plan(str(tmp_path), columns=("key", "ketp"), free=("ketp",))
        put(str(tmp_path), "c.jsonl", b'{"text": "c", "kept": "x"}\n')
        with pytest.raises(InputError, match=r"c\.jsonl has no column 'key'"):
            plan(str(tmp_path), columns=("key", "kept"), free=("kept",))

    def test_a_new_file_without_the_planned_id_is_refused(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.csv")
        first = plan(str(tmp_path))
        put(str(tmp_path), "b.csv", b"text\na\n")
        with pytest.raises(InputError, match=r"b\.csv has no column 'id'"):
            plan(str(tmp_path), cuts=self.known(first), schema=first.schema)

    def test_an_id_that_appears_later_does_not_change_the_schema(self, tmp_path: Path) -> None:
        put(str(tmp_path), "a.csv", b"text\na\n")
        first = plan(str(tmp_path))
        put(str(tmp_path), "b.csv")
        again = plan(str(tmp_path), cuts=self.known(first), schema=first.schema)
        assert again.schema == first.schema

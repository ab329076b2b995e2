"""A plan is in input order, survives being written, and groups shards into spans."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.plan import Plan, Span, make_plan
from pipeline.shards import Cut, InputFile, Shard, shard_id
from pipeline.spec import digest
from pipeline.store.parquet_bytes import from_parquet


def file(path: str = "a.parquet", version: str = "v1", rows: int = 100) -> InputFile:
    return InputFile(f"/in/{path}", path, version, 1, rows, "parquet")


def cuts(rows: int, step: int) -> list[Cut]:
    return [Cut(first, min(step, rows - first)) for first in range(0, rows, step)]


def plan(*files: tuple[InputFile, list[Cut]], space: str = "s") -> Plan:
    return make_plan(files, space=space, schema="k")


paths = st.lists(st.text("ab/._-é ", min_size=1, max_size=6), min_size=1, max_size=5, unique=True)


@given(paths, st.integers(1, 40))
def test_shards_are_in_the_byte_order_of_their_part_names(names: list[str], step: int) -> None:
    made = plan(*((file(name), cuts(100, step)) for name in names))

    parts = [shard.part.encode() for shard in made.shards()]
    assert parts == sorted(parts)
    assert len(set(parts)) == len(parts)


@given(paths, st.integers(1, 40))
def test_a_plan_read_back_is_equal(names: list[str], step: int) -> None:
    made = plan(*((file(name), cuts(100, step)) for name in names))

    back = Plan.from_bytes(made.to_bytes())

    assert back.files == made.files
    assert list(back.shards()) == list(made.shards())
    assert back.digest == made.digest


def test_hive_keys_survive() -> None:
    partitioned = InputFile("/in/k=1/a", "k=1/a", "v", 1, 5, "parquet", "", (("k", "1"),))

    assert Plan.from_bytes(plan((partitioned, cuts(5, 5))).to_bytes()).files == (partitioned,)


def test_part_names_change_with_the_version_the_space_and_the_rows_and_with_nothing_else() -> None:
    def name(**changes: object) -> str:
        arguments = {"version": "v1", "rows": 10, "space": "s"} | changes
        one = file(version=str(arguments["version"]))
        made = plan((one, [Cut(0, int(str(arguments["rows"])))]), space=str(arguments["space"]))
        return made.shard(0).part

    assert name() == name()
    assert len({name(), name(version="v2"), name(space="t"), name(rows=9)}) == 4


def test_missing_is_plan_minus_commits() -> None:
    made = plan((file(), cuts(100, 10)))
    committed = {made.shard(i).part for i in (0, 3, 9)}

    assert made.missing(committed) == [1, 2, 4, 5, 6, 7, 8]


def test_a_span_never_crosses_a_file_or_a_gap() -> None:
    made = plan((file("a", rows=300_000), cuts(300_000, 100)), (file("b"), cuts(100, 50)))
    wanted = [i for i in range(len(made)) if i != 5]

    spans = made.spans(wanted)

    covered = [i for span in spans for i in range(span.start, span.start + span.count)]
    assert covered == wanted
    assert Span(0, 5) in spans
    for span in spans:
        names = {made.shard(i).file.uri for i in range(span.start, span.start + span.count)}
        assert len(names) == 1


def test_small_jobs_are_spread_and_large_ones_have_bounded_spans() -> None:
    assert {span.count for span in plan((file(), cuts(100, 10))).spans()} == {1}
    large = plan((file(rows=10**6), cuts(10**6, 20)))
    assert max(span.count for span in large.spans()) == 64


def test_a_plan_of_many_batches_is_that_of_its_shards_one_by_one() -> None:
    files = [file(name, rows=20_000) for name in ("b", "a")]
    made = plan(*((one, cuts(20_000, 2)) for one in files))
    alone = sorted(
        Shard(one, cut, shard_id("s", "k", one, cut)).part
        for one in files
        for cut in cuts(20_000, 2)
    )

    assert [shard.part for shard in made.shards()] == alone
    assert [part for (part,) in made.values("part")] == alone
    assert made.digest == digest(alone)
    assert made.missing(alone[:9_000]) == list(range(9_000, 20_000))
    chosen = made.shards([19_999, 3, 4, 8_192])
    assert [shard.first_row for shard in chosen] == [19_998, 6, 8, 16_384]
    assert made.rows_by_file() == {one.uri: 20_000 for one in files}
    assert made.rows_by_file(set(alone[:7])) == {files[0].uri: 0, files[1].uri: 14}


def test_a_shard_of_a_large_plan_costs_no_python_object() -> None:
    one, all_cuts = file(rows=40_000), cuts(40_000, 1)
    tracemalloc.start()
    try:
        made = plan((one, all_cuts))
        back = Plan.from_bytes(made.to_bytes())
        assert back.digest == made.digest
        assert sum(1 for _ in back.shards()) == 40_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 16 * 2**20, f"{peak / 40_000:.0f} bytes a shard"


def test_selected_rows_are_stored_and_read_back() -> None:
    file = InputFile("/in/a", "a", "1", 1, 100, "jsonl", where="n = 1")
    cuts = [Cut(0, 3, 0, extent=40), Cut(40, 5, 17, extent=60)]
    plan = make_plan([(file, cuts)], space="s", schema="k")
    again = Plan.from_bytes(plan.to_bytes())
    assert again.files == (file,)
    assert [shard.cut for shard in again.shards()] == cuts
    assert (again.rows, again.digest) == (8, plan.digest)


def test_a_plan_of_all_rows_is_stored_as_before_rows_could_be_selected() -> None:
    file = InputFile("/in/a", "a", "1", 1, 20, "parquet")
    plan = make_plan([(file, [Cut(0, 20)])], space="s", schema="k")
    stored = from_parquet(plan.to_bytes())
    files = from_parquet(stored.schema.metadata[b"bei_files"])
    assert stored.column_names == ["file", "first_row", "rows", "byte_offset", "shard", "part"]
    assert files.column_names == [
        "uri", "path", "version", "size", "rows", "format", "compression", "partition",
    ]  # fmt: skip


def test_a_plan_keeps_what_a_table_makes_of_its_files() -> None:
    file = InputFile("/t/a", "a", "1+2", 1, 9, "parquet", table='[["id", 1]]', deleted="eJx=")
    plan = make_plan([(file, [Cut(0, 7, extent=9)])], space="s", schema="t")
    assert Plan.from_bytes(plan.to_bytes()).files == (file,)
    assert file.stored_version == "1"
    assert file.selects

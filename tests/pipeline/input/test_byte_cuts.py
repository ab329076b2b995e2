"""Cuts by bytes: bounded whatever the columns are, and the same as ever where rows are narrow."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from input_plans import plan_of

from pipeline.input import byte_cuts, cuts, reading
from pipeline.input.byte_cuts import PART_MAX_BYTES, ByteLimits, divided
from pipeline.input.cuts import cut_file, merged_cuts
from pipeline.input.cutting import PlannedInputs
from pipeline.input.formats import sizes as sizes_module
from pipeline.input.formats.sizes import Sizes
from pipeline.input.reading import read
from pipeline.shards import Cut

MIB = 1 << 20
LIMITS = ByteLimits(kept={"body"}, texts={"text"}, row_bytes=0)


def sizes_of(rows: list[int], kept: list[int], *, exact: bool = True) -> Sizes:
    size = np.array([kept, [0] * len(kept)], dtype=np.int64).T
    return Sizes(
        ("body", "text"), np.array(rows), size.reshape(len(rows), 2),
        np.full(len(rows), exact), np.full(len(rows), -1),
    )  # fmt: skip


def not_measured(cuts: object) -> Any:
    raise AssertionError("rows were read to know their sizes")


def as_measured(rows: list[int], kept: list[int]) -> Callable[[Any], list[Sizes]]:
    """Measures as a reader would: a row of its own stretch each, all rows of a group alike."""
    widths = np.repeat(np.array(kept) // np.maximum(1, rows), rows)

    def measure(cuts: list[Cut]) -> list[Sizes]:
        found = []
        for cut in cuts:
            of_cut = widths[cut.first_row : cut.end].tolist()
            found.append(sizes_of([1] * len(of_cut), of_cut))
        return found

    return measure


@given(
    groups=st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 900 * MIB)), min_size=1, max_size=12
    ),
    step=st.integers(1, 40),
    exact=st.booleans(),
)
def test_every_row_is_in_one_cut_and_old_boundaries_stay(
    groups: list[tuple[int, int]], step: int, exact: bool
) -> None:
    rows, kept = [r for r, _ in groups], [b for _, b in groups]
    old = cut_file(sum(rows), rows, step)
    sizes = sizes_of(rows, kept, exact=exact)
    new = divided(old, sizes, LIMITS, as_measured(rows, kept))
    covered = [row for cut in new for row in range(cut.first_row, cut.end)]
    assert covered == list(range(sum(rows)))
    assert {cut.first_row for cut in old} <= {cut.first_row for cut in new}
    widths = np.repeat(np.array(kept) / np.maximum(1, rows), rows)
    sums = [widths[cut.first_row : cut.end].sum() for cut in new]
    assert all(size <= 257 * MIB or cut.rows == 1 for size, cut in zip(sums, new, strict=True))
    small = [cut for cut in old if widths[cut.first_row : cut.end].sum() <= 255 * MIB]
    assert set(small) <= set(new)


@given(rows=st.lists(st.integers(0, 20_000), min_size=1, max_size=20), width=st.integers(0, 4000))
def test_narrow_rows_keep_their_cuts_and_are_not_read(rows: list[int], width: int) -> None:
    for groups in (rows, None):
        old = cut_file(sum(rows), groups, 16_384)
        sizes = sizes_of(rows, [count * width for count in rows], exact=False)
        assert divided(old, sizes, LIMITS, not_measured) == old


def test_results_alone_divide_nothing() -> None:
    """--rows-per-shard bounds them: a few ids and texts more are no reason for other parts."""
    limits = ByteLimits(kept={"body"}, texts={"text"}, row_bytes=16_384)
    old = cut_file(100_000, [100_000], 16_384)
    sizes = sizes_of([100_000], [100_000 * 64])
    assert divided(old, sizes, limits, not_measured) == old


@pytest.mark.parametrize(("chunk_bytes", "at_most"), [(0, 16_384), (512, 2100)])
def test_a_part_with_a_row_for_each_chunk_grows_with_its_texts(
    chunk_bytes: int, at_most: int
) -> None:
    """50 MB of vectors are few, but ten chunks a text have 500 MB, and repeat what is kept."""
    limits = ByteLimits(kept={"body"}, texts={"text"}, row_bytes=3072, chunk_bytes=chunk_bytes)
    rows, group = 50_000, 16_384
    old = cut_file(rows, None, group)
    size = np.full((rows // 100, 2), [100 * 8, 100 * 5120])
    sizes = Sizes(
        ("body", "text"), np.full(rows // 100, 100), size,
        np.full(rows // 100, True), np.arange(rows // 100),
    )  # fmt: skip
    new = divided(old, sizes, limits, not_measured)
    assert max(cut.rows for cut in new) <= at_most
    assert (len(new) > len(old)) == bool(chunk_bytes)
    assert sum(cut.rows for cut in new) == rows


@pytest.mark.parametrize(
    ("token_bytes", "most_tokens", "at_most"),
    [(0.0, 8192, 16_384), (512.0, 8192, 110), (512.0, 32, 4100)],
)
def test_a_part_with_a_vector_for_each_token_grows_with_its_texts(
    token_bytes: float, most_tokens: int, at_most: int
) -> None:
    """A text of 5 kB has some 1,700 tokens: 0.9 MB of vectors of 128 values, unless it is cut."""
    limits = ByteLimits(
        kept={"body"}, texts={"text"}, row_bytes=(4 << 20) if token_bytes else 64,
        token_bytes=token_bytes, most_tokens=most_tokens,
    )  # fmt: skip
    rows, stretch = 50_000, 100
    old = cut_file(rows, None, 16_384)
    size = np.full((rows // stretch, 2), [stretch * 8, stretch * 5120])
    sizes = Sizes(
        ("body", "text"), np.full(rows // stretch, stretch), size,
        np.full(rows // stretch, True), np.arange(rows // stretch),
    )  # fmt: skip
    new = divided(old, sizes, limits, not_measured)
    assert max(cut.rows for cut in new) <= at_most
    assert (len(new) > len(old)) == bool(token_bytes)
    assert sum(cut.rows for cut in new) == rows


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_little_text_makes_a_part_where_each_token_has_a_vector(
    tmp_path: Path, ending: str
) -> None:
    """2 MB of text, that one stretch would hold, are 2.8 GB of vectors."""
    texts = [f"{n} word " * (800 if n % 2 else 2) for n in range(700)]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": texts}), path)
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    planned = plan_of([path], row_bytes=512 * 4096, token_bytes=4096.0, most_tokens=8192)
    ((_, cuts),) = planned.files
    assert sum(cut.rows for cut in cuts) == 700
    for cut in cuts:
        rows = texts[cut.first_row : cut.end]
        assert sum(map(len, rows)) / 3 * 4096 <= PART_MAX_BYTES * 1.25


def test_selected_rows_are_merged_by_bytes_too() -> None:
    cuts = [Cut(100 * i, 100) for i in range(6)]
    sizes = [200 * MIB] * 6
    merged = merged_cuts(cuts, [50] * 6, 1000, sizes)
    assert [(cut.first_row, cut.rows, cut.extent) for cut in merged] == [
        (0, 100, 200), (200, 100, 200), (400, 100, 200),
    ]  # fmt: skip
    assert merged_cuts(cuts, [5] * 6, 1000, sizes) == merged_cuts(cuts, [5] * 6, 1000)


# One 64th of what is: parts of 4 MiB, of which 1 MiB is trusted, and batches of 64 KiB.
PART = 4 * MIB
ROWS, WIDTH = 300, 40_000


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_cuts, "PART_MAX_BYTES", PART)
    monkeypatch.setattr(byte_cuts, "_TRUSTED_BYTES", PART // 4)
    monkeypatch.setattr(byte_cuts, "_DIVIDED_BYTES", PART // 4)
    monkeypatch.setattr(cuts, "PART_MAX_BYTES", PART)
    for module in (sizes_module, reading):
        monkeypatch.setattr(module, "BATCH_BYTES", 1 << 16)
    monkeypatch.setattr("pipeline.input.formats.parquet.BATCH_BYTES", 1 << 16)
    monkeypatch.setattr("pipeline.input.formats.parquet_sizes._HIDDEN_MAX_BYTES", PART // 4)


def bodies(distinct: int = ROWS) -> list[str]:
    rng = np.random.default_rng(0)
    texts = [rng.bytes(WIDTH // 2).hex() for _ in range(distinct)]
    return [texts[row % distinct] for row in range(ROWS)]


def table(body: Any) -> pa.Table:
    return pa.table({"id": range(ROWS), "text": [f"text {i}" for i in range(ROWS)], "body": body})


def skewed() -> list[str]:
    """A few wide rows at the start of very many narrow ones."""
    return [body if row < 140 else "narrow" for row, body in enumerate(bodies())]


def write_ipc(path: Path, rows: pa.Table) -> None:
    with pa.ipc.new_file(str(path), rows.schema) as writer:
        writer.write_table(rows.combine_chunks())


def write_jsonl(path: Path, rows: pa.Table) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))


def write_csv(path: Path, rows: pa.Table) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows.column_names)
    writer.writerows(row.values() for row in rows.to_pylist())
    path.write_text(text.getvalue(), newline="")


WRITERS: dict[str, Callable[[Path], None]] = {
    "one row group.parquet": lambda p: pq.write_table(table(bodies()), p),
    "row groups.parquet": lambda p: pq.write_table(table(bodies()), p, row_group_size=70),
    "plain.parquet": lambda p: pq.write_table(table(bodies()), p, use_dictionary=False),
    "few documents.parquet": lambda p: pq.write_table(
        table(bodies(5)), p, dictionary_pagesize_limit=1 << 30
    ),
    "skewed.parquet": lambda p: pq.write_table(table(skewed()), p),
    "skewed.arrow": lambda p: write_ipc(p, table(skewed())),
    "lists.parquet": lambda p: pq.write_table(table([[b[:9000]] * 4 for b in bodies()]), p),
    "images.parquet": lambda p: pq.write_table(table([b.encode() for b in bodies()]), p),
    "vectors.parquet": lambda p: pq.write_table(table([[float(i)] * 5000 for i in range(ROWS)]), p),
    "structs.parquet": lambda p: pq.write_table(table([{"a": {"b": b}} for b in bodies()]), p),
    "categories.parquet": lambda p: pq.write_table(
        table(pa.array(bodies()).dictionary_encode()), p
    ),
    "categories.arrow": lambda p: write_ipc(p, table(pa.array(bodies()).dictionary_encode())),
    "plain.arrow": lambda p: write_ipc(p, table(bodies())),
    "lz4.feather": lambda p: feather.write_feather(table(bodies()), str(p)),
    "polars.arrow": lambda p: pl.DataFrame(pl.from_arrow(table(bodies()))).write_ipc(p),
    "list views.arrow": lambda p: write_ipc(
        p, table(pa.array([[b] for b in bodies()], pa.list_view(pa.string())))
    ),
    "rows.jsonl": lambda p: write_jsonl(p, table(bodies())),
    "skewed.jsonl": lambda p: write_jsonl(p, table(skewed())),
    "rows.csv": lambda p: write_csv(p, table(bodies())),
    "table.delta": lambda p: deltalake.write_deltalake(p, table(bodies())),
}  # fmt: skip


def plan(path: Path, **options: Any) -> PlannedInputs:
    return plan_of([path], **{"columns": ("id", "body"), "row_bytes": 64, **options})


def stored(rows: list[pa.RecordBatch]) -> int:
    """Bytes of the rows in an Arrow file."""
    sink = pa.MockOutputStream()
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
    with pa.ipc.new_file(sink, rows[0].schema, options=options) as writer:
        writer.write_table(pa.Table.from_batches(rows).combine_chunks())
    return int(sink.size())


def parts_of(planned: PlannedInputs) -> Iterator[list[pa.RecordBatch]]:
    ((file, cuts),) = planned.files
    for cut in cuts:
        yield [batch for _, batch in read(file, [cut], planned.schema, 1024)]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", WRITERS)
def test_no_part_of_any_format_is_larger_than_the_bound(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    planned = plan(path)
    parts = [*parts_of(planned)]
    assert max(map(stored, parts)) < 1.1 * PART
    assert len(parts) > 1
    ids = [row for part in parts for batch in part for row in batch["id"].to_pylist()]
    assert [int(row) for row in ids] == list(range(ROWS))
    expected = skewed() if "skewed" in name else bodies(5) if "few" in name else bodies()
    read_back = [row for part in parts for batch in part for row in batch["body"].to_pylist()]
    if isinstance(read_back[0], str):
        assert read_back == expected


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_wide_rows_are_found_in_a_row_group_of_many_shards(tmp_path: Path, suffix: str) -> None:
    """Its footer says what all rows take together, and not that the first ones take most of it."""
    path, count = tmp_path / f"rows.{suffix}", 40_000
    body = [*bodies()[:140], *["narrow"] * (count - 140)]
    rows = pa.table({"id": range(count), "text": ["a"] * count, "body": body})
    {"parquet": lambda p, t: pq.write_table(t, p), "arrow": write_ipc}[suffix](path, rows)
    planned = plan(path)
    assert max(map(stored, parts_of(planned))) < 1.1 * PART
    old = {cut.first_row for cut in cut_file(count, [count], 16_384)}
    cuts = planned.files[0][1]
    assert old < {cut.first_row for cut in cuts}
    assert sum(cut.rows for cut in cuts) == count


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["one row group.parquet", "plain.arrow", "rows.jsonl"])
def test_a_batch_that_is_read_is_bounded_too(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    for part in parts_of(plan(path)):
        assert all(batch.nbytes < 1 << 17 for batch in part)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["one row group.parquet", "plain.arrow", "rows.jsonl", "rows.csv"])
def test_given_rows_per_shard_and_columns_that_are_not_read_divide_nothing(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    assert [cut.rows for cut in plan(path, rows_per_shard=200).files[0][1]] in (
        [200, 100],
        [150] * 2,
    )
    assert [cut.rows for cut in plan(path, columns=("id",)).files[0][1]] == [ROWS]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["one row group.parquet", "rows.jsonl"])
def test_texts_that_are_not_kept_count_by_themselves(tmp_path: Path, name: str) -> None:
    """They are in no part, but all of them may fail and be quarantined."""
    path = tmp_path / name
    WRITERS[name](path)
    cuts = plan(path, columns=("id",), text_columns=("body",)).files[0][1]
    assert max(cut.rows for cut in cuts) * WIDTH < 1.1 * PART


@pytest.mark.usefixtures("small_parts")
def test_a_row_that_is_larger_than_a_part_is_a_shard_of_its_own(tmp_path: Path) -> None:
    body = ["a", "b" * (2 * PART), "c", "d" * (2 * PART), "e"]
    for suffix in ("parquet", "arrow", "jsonl"):
        path = tmp_path / f"rows.{suffix}"
        rows = pa.table({"id": range(5), "text": list("abcde"), "body": body})
        {"parquet": lambda p, t: pq.write_table(t, p), "arrow": write_ipc, "jsonl": write_jsonl}[
            suffix
        ](path, rows)
        (_, cuts), = plan(path).files  # fmt: skip
        assert cuts[0].first_row == 0
        assert all(b.first_row == a.end for a, b in pairwise(cuts))
        wide = [[row for row in (1, 3) if cut.first_row <= row < cut.end] for cut in cuts]
        assert all(len(rows) < 2 for rows in wide)
        assert [cut.rows for cut, rows in zip(cuts, wide, strict=True) if rows] == [1, 1]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "jsonl", "csv"])
def test_ordinary_files_have_the_cuts_that_they_always_had(tmp_path: Path, suffix: str) -> None:
    count, path = 40_000, tmp_path / f"rows.{suffix}"
    rows = pa.table(
        {"id": range(count), "text": ["a text " * (i % 20) for i in range(count)],
         "body": [f"http://host/{i % 70}/{i}" for i in range(count)]}
    )  # fmt: skip
    {"parquet": lambda p, t: pq.write_table(t, p, row_group_size=15_000), "arrow": write_ipc,
     "jsonl": write_jsonl, "csv": write_csv}[suffix](path, rows)  # fmt: skip
    ((_, cuts),) = plan(path).files
    groups = {"parquet": [15_000, 15_000, 10_000], "arrow": [count]}.get(suffix)
    assert [(cut.first_row, cut.rows) for cut in cuts] == [
        (cut.first_row, cut.rows) for cut in cut_file(count, groups, 16_384)
    ]

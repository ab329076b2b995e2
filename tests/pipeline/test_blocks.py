"""Shards → blocks: every shard ends exactly once, whole or with its error, others go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import slices as module
from pipeline.blocks import read_blocks
from pipeline.errors import InputChanged, InputError
from pipeline.known_rows import RowResults
from pipeline.row_keys import KEY_FIELD
from pipeline.shards import Cut, InputFile, Shard
from pipeline.slices import ShardSlice

SCHEMA = pa.schema([("row", pa.int64())])
RUN: Any = SimpleNamespace(columns=SCHEMA)
TASK: Any = SimpleNamespace(
    tokenize=lambda rows: rows.num_rows, per_token=False, output_text_bytes=0, token_values=0
)


def all_computed(block: int, slices: Sequence[tuple[Shard, int, pa.RecordBatch]]) -> RowResults:
    rows = sum(batch.num_rows for _, _, batch in slices)
    return RowResults.all_computed(pa.nulls(rows, KEY_FIELD.type))


KNOWN: Any = SimpleNamespace(resolve=all_computed)


def file(name: str, rows: int) -> InputFile:
    return InputFile(name, name, "1", 1, rows, "parquet")


def shards(file: InputFile, sizes: Sequence[int]) -> list[Shard]:
    shards, first = [], 0
    for size in sizes:
        shards.append(Shard(file, Cut(first, size), f"{file.uri}-{first}"))
        first += size
    return shards


class Source:
    """Stands in for `pipeline.input.reading`: batches of some rows, errors at some rows."""

    def __init__(self, step: int, bad: set[tuple[str, int]] = frozenset(), gone: str = "") -> None:
        self.step, self.bad, self.gone = step, bad, gone
        self.opened = 0

    def read(
        self, file: InputFile, cuts: Sequence[Cut], schema: pa.Schema, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        self.opened += 1
        for index, cut in enumerate(cuts):
            end = cut.first_row + cut.rows
            for first in range(cut.first_row, end, self.step):
                numbers = range(first, min(first + self.step, end))
                if any((file.uri, number) in self.bad for number in numbers):
                    raise InputError(f"{file.uri} row {first}")
                yield index, pa.record_batch({"row": pa.array(numbers, pa.int64())})
        if file.uri == self.gone:
            raise InputChanged(f"{file.uri} changed")

    def read_numbered(self, *arguments: Any) -> Iterator[tuple[int, None, pa.RecordBatch]]:
        for index, batch in self.read(*arguments):
            yield index, None, batch


def use(source: Source, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "reading", source)
    patch.setattr(module, "unchanged", lambda shard: True)


def slices(given: list[Shard]) -> list[ShardSlice]:
    return [piece for block in read_blocks(RUN, given, TASK, 4, KNOWN) for piece in block.slices]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=4),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=4),
    st.integers(1, 15),
)
def test_a_shard_with_a_bad_row_fails_alone_and_all_others_are_whole(
    files: list[list[int]], bad: set[tuple[int, int]], step: int
) -> None:
    given = [
        shard
        for number, sizes in enumerate(files)
        for shard in shards(file(str(number), sum(sizes)), sizes)
    ]
    rows: dict[str, list[int]] = {}
    ended: list[tuple[str, bool]] = []
    with pytest.MonkeyPatch.context() as patch:
        use(Source(step, {(str(number), row) for number, row in bad}), patch)
        for piece in slices(given):
            if piece.rows is not None:
                rows.setdefault(piece.shard.id, []).extend(piece.rows["row"].to_pylist())
            if piece.last:
                ended.append((piece.shard.id, piece.error is None))
    assert [shard for shard, _ in ended] == [shard.id for shard in given]
    for shard, (_, fine) in zip(given, ended, strict=True):
        numbers = range(shard.first_row, shard.first_row + shard.rows)
        assert fine is not any((int(shard.file.uri), number) in bad for number in numbers)
        if fine:
            assert rows[shard.id] == list(numbers)


def test_a_block_holds_its_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Source(7), monkeypatch)
    given = shards(file("a", 40), [10, 30])
    (block,) = read_blocks(RUN, given, TASK, 4, KNOWN)
    values = block.rows["row"].buffers()[1]
    for piece in block.slices:
        assert piece.rows is not None
        assert piece.rows["row"].buffers()[1].address == values.address
    assert sum(piece.rows.num_rows for piece in block.slices if piece.rows) == 40


def test_a_file_that_changed_meanwhile_takes_its_last_shard_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(Source(5, gone="a"), monkeypatch)
    given = [*shards(file("a", 20), [10, 10]), *shards(file("b", 5), [5])]
    ended = [(piece.shard.id, type(piece.error)) for piece in slices(given) if piece.last]
    assert ended == [("a-0", type(None)), ("a-10", InputChanged), ("b-0", type(None))]


def test_a_reader_that_gives_too_few_rows_never_passes_for_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Short(Source):
        def read(self, file, cuts, schema, batch_rows):
            for index, batch in super().read(file, cuts, schema, batch_rows):
                yield index, batch.slice(1) if batch["row"][0].as_py() == 10 else batch

    use(Short(5), monkeypatch)
    given = shards(file("a", 40), [10, 10, 10, 10])
    ended = {piece.shard.id: piece.error for piece in slices(given) if piece.last}
    fine = type(None)
    assert [type(ended[shard.id]) for shard in given] == [fine, InputChanged, fine, fine]
    assert "rows 10-19" in str(ended["a-10"])


def test_the_first_block_is_small_and_later_ones_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(Source(100), monkeypatch)
    given = shards(file("a", 60_000), [60_000])
    sizes = [block.rows.num_rows for block in read_blocks(RUN, given, TASK, 4, KNOWN)]
    assert sizes[0] == 300
    assert max(sizes) <= 16_384 + 100
    assert sum(sizes) == 60_000


def test_long_rows_make_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(Source):
        def read(self, file, cuts, schema, batch_rows):
            for index, batch in super().read(file, cuts, schema, batch_rows):
                yield index, pa.record_batch({"row": ["x" * 2**20] * batch.num_rows})

    use(Long(4), monkeypatch)
    run: Any = SimpleNamespace(columns=pa.schema([("row", pa.string())]))
    given = shards(file("a", 100), [100])
    sizes = [block.rows.num_rows for block in read_blocks(run, given, TASK, 4, KNOWN)]
    assert max(sizes) == 32
    assert sum(sizes) == 100


@pytest.mark.parametrize(("per_token", "width"), [(False, 8192), (True, 1000)])
def test_wide_outputs_make_small_blocks(
    monkeypatch: pytest.MonkeyPatch, per_token: bool, width: int
) -> None:
    use(Source(100), monkeypatch)
    wide: Any = SimpleNamespace(
        tokenize=TASK.tokenize, per_token=per_token, output_text_bytes=0, token_values=0
    )
    given = shards(file("a", 20_000), [20_000])
    sizes = [block.rows.num_rows for block in read_blocks(RUN, given, wide, width, KNOWN)]
    assert max(sizes) * (8 * width if per_token else 4 * width) <= 36 * 2**20
    assert sum(sizes) == 20_000


def test_vectors_of_tokens_make_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of eight bytes counts as a query of 32 tokens."""
    use(Source(100), monkeypatch)
    multi: Any = SimpleNamespace(
        tokenize=TASK.tokenize, per_token=False, output_text_bytes=0, token_values=128
    )
    given = shards(file("a", 20_000), [20_000])
    sizes = [block.rows.num_rows for block in read_blocks(RUN, given, multi, 0, KNOWN)]
    assert max(sizes) * 32 * 128 * 4 <= 36 * 2**20
    assert sum(sizes) == 20_000


def test_many_small_files_share_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Source(100), monkeypatch)
    given = [shard for n in range(50) for shard in shards(file(f"{n:02}", 5), [5])]
    (only,) = read_blocks(RUN, given, TASK, 4, KNOWN)
    assert len(only.slices) == 50
    assert only.rows.num_rows == 250


def test_one_reader_serves_consecutive_shards_of_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Source(3)
    use(source, monkeypatch)
    assert sum(piece.last for piece in slices(shards(file("a", 30), [10, 10, 10]))) == 3
    assert source.opened == 1

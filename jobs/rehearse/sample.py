"""A sample of a corpus: the same rows each time, with every row that a judgement is about."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.input.reading import read_numbered
from pipeline.input.where import where_columns
from pipeline.planning.draft import Draft
from pipeline.shards import Shard
from pipeline.tokenize.texts import text_values

#: Decides which rows are drawn, and every bootstrap.
SEED = 0
#: Of a larger corpus, the rows of so many shards are read.
MAX_SHARDS = 256
_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a corpus, in its order."""

    ids: tuple[str, ...]  # or file:row, where there is no id column
    texts: tuple[str | None, ...]
    corpus_rows: int
    duplicates: int  # rows that were drawn and left out, their text being that of another one
    judged: int  # rows that are there because a judgement names them

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    text: str | None
    judged: bool


def draw(
    corpus: Draft, rows: int, judged: Collection[str], on_rows: Callable[[int], None]
) -> Sample:
    """Draw distinct texts at random, always the same ones of a corpus.

    Args:
        corpus: the run of which it is a sample.
        rows: how many are drawn; fewer where the corpus has no more, and more where more are
            judged.
        judged: ids of rows that are drawn in any case.
        on_rows: called with the number of rows that were just read.

    Raises:
        InputError: the corpus has none of these ids, or no ids.
        InputChanged, StorageError: a file cannot be read.
    """
    shards = list(corpus.plan.shards())
    wanted = _judged_places(corpus, shards, judged) if judged else {}
    chosen = _random_places(shards, rows, wanted)
    found = list(_read(corpus, shards, {**chosen, **wanted}, on_rows))
    distinct = _distinct(found)
    return Sample(
        tuple(row.id for row in distinct),
        tuple(row.text for row in distinct),
        corpus.plan.rows,
        len(found) - len(distinct),
        sum(row.judged for row in distinct),
    )


# A shard's number and a row's place in it → whether the row is judged.
_Places = Mapping[tuple[int, int], bool]


def _random_places(shards: list[Shard], rows: int, wanted: _Places) -> _Places:
    rng = random.Random(SEED)
    some = sorted(rng.sample(range(len(shards)), min(MAX_SHARDS, len(shards))))
    ends = list(accumulate(shards[number].cut.rows for number in some))
    drawn = []
    for place in rng.sample(range(ends[-1]), min(rows, ends[-1])):
        at = bisect_right(ends, place)
        drawn.append((some[at], place - (ends[at - 1] if at else 0)))
    others = [place for place in drawn if place not in wanted]
    return dict.fromkeys(others[: max(0, rows - len(wanted))], False)


def _judged_places(corpus: Draft, shards: list[Shard], judged: Collection[str]) -> _Places:
    """Where the rows of some ids are; reads the column of ids of the whole corpus."""
    name = corpus.spec.id_column
    if name is None:
        raise InputError(
            "the corpus has no id column, so --qrels cannot name its rows",
            hint="give --id-column",
        )
    schema = _columns(corpus, [name])
    missing, places = set(judged), {}
    for number, shard in enumerate(shards):
        at = 0
        for _, _, batch in read_numbered(shard.file, [shard.cut], schema, _BATCH_ROWS):
            for row, value in enumerate(map(str, batch.column(name).to_pylist())):
                if value in missing:
                    missing.discard(value)
                    places[number, at + row] = True
            at += batch.num_rows
    if missing:
        shown = ", ".join(sorted(missing)[:5])
        raise InputError(
            f"--qrels names {len(missing):,} of {len(judged):,} relevant documents that INPUT does "
            f"not have by its column {name!r}: {shown}{', …' if len(missing) > 5 else ''}",
            hint="name the column of the ids with --id-column, give the whole corpus as INPUT, or "
            "leave these lines out of --qrels",
        )
    return places


def _read(
    corpus: Draft, shards: list[Shard], places: _Places, on_rows: Callable[[int], None]
) -> Iterator[_Row]:
    (text,), name = corpus.texts, corpus.spec.id_column
    schema = _columns(corpus, [text, *([name] if name else [])])
    for number in sorted({number for number, _ in places}):
        shard, at = shards[number], 0
        of_shard = {row: judged for (other, row), judged in places.items() if other == number}
        reading = read_numbered(shard.file, [shard.cut], schema, _BATCH_ROWS)
        for _, numbers, batch in reading:
            here = [row for row in range(batch.num_rows) if at + row in of_shard]
            taken = batch.take(pa.array(here, pa.int64()))
            texts, _ = text_values(taken.column(text))
            ids = taken.column(name).to_pylist() if name else [
                f"{shard.file.uri.rpartition('/')[2]}:{numbers[row]}" for row in here
            ]  # fmt: skip
            for row, value, one in zip(here, ids, texts, strict=True):
                yield _Row(str(value), one, of_shard[at + row])
            at += batch.num_rows
            on_rows(len(here))


def _columns(corpus: Draft, names: list[str]) -> pa.Schema:
    """Some columns, and those that select rows."""
    where = {name for shard in corpus.plan.files for name in where_columns(shard.where)}
    return pa.schema([each for each in corpus.schema if each.name in where.union(names)])


def _distinct(rows: list[_Row]) -> list[_Row]:
    """Each text once, but that every judged row stays."""
    seen = {row.text for row in rows if row.judged}
    kept = []
    for row in rows:
        if row.judged or row.text not in seen:
            seen.add(row.text)
            kept.append(row)
    return kept

"""Nights: a row costs computing only where its text is new, wherever its file went."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, read_output
from corpora import GOLDENS, TINY, parts, texts, write_parquet
from forgery import rewrite_part, with_values

from pipeline.output.copies import COPIES, Copies

RERANKER, TAGGER = GOLDENS / "bge_reranker_xlmr", GOLDENS / "ner_bert"


def counted(done: Outcome) -> dict[str, int]:
    """`rows` of a run, which add up."""
    assert done.code in (0, 3), done.err
    rows: dict[str, int] = done.json["rows"]
    kinds = ("computed", "reused", "deduplicated", "failed")
    assert sum(rows[kind] for kind in kinds) == rows["done"] == rows["total"]
    return {kind: rows[kind] for kind in kinds if rows[kind]}


def vectors(table: pa.Table) -> dict[str, bytes]:
    """Text → the bits of its vector; equal texts have the same."""
    found: dict[str, bytes] = {}
    for text, vector in zip(table["text"].to_pylist(), table["embedding"].to_pylist(), strict=True):
        bits = np.array(vector, dtype=np.float32).tobytes()
        assert found.setdefault(text, bits) == bits
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight files of thirty rows, three shards each."""
    for number in range(8):
        write_parquet(tmp_path / f"in/{number:02}.parquet", 30, seed=number)
    return tmp_path / "in"


@pytest.fixture
def night(submit: Bei, bei: Bei, folder: Path, tmp_path: Path) -> Callable[..., dict[str, int]]:
    """One more run over the folder, which is sound afterwards; what its rows cost."""

    def run(*words: object) -> dict[str, int]:
        keep = () if "--keep" in words else ("--keep", "text")
        output = ("--output", tmp_path / "out", "--rows-per-shard", 10)
        done = submit(folder, *output, *keep, "--json", *words)
        assert bei("verify", tmp_path / "out").code == 0
        return counted(done)

    return run


def change(path: Path, **rows: str) -> None:
    """Give some rows of a file another text: r3="…"."""
    table = pq.read_table(path)
    text = table["text"].to_pylist()
    for row, value in rows.items():
        text[int(row[1:])] = value
    pq.write_table(table.set_column(1, "text", pa.array(text)), path)


def test_a_night_costs_its_new_texts(
    night: Callable[..., dict[str, int]], bei: Bei, folder: Path, tmp_path: Path
) -> None:
    assert night() == {"computed": 240}
    before = vectors(read_output(bei, tmp_path / "out"))

    change(folder / "03.parquet", r7="a new text")
    change(folder / "01.parquet", r29="another new text")
    write_parquet(folder / "08.parquet", 30, seed=20)
    (folder / "05.parquet").unlink()
    os.utime(folder / "06.parquet")

    assert night() == {"computed": 32, "reused": 208}
    after = vectors(read_output(bei, tmp_path / "out"))
    assert {text: after[text] for text in before.keys() & after.keys()} == {
        text: bits for text, bits in before.items() if text in after
    }
    assert night() == {"reused": 240}
    assert not list((tmp_path / "out" / COPIES).glob("*"))


def renamed(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(folder / f"renamed-{path.name}")


def resharded(folder: Path) -> None:
    """As a nightly overwrite does: other files, other names, other order."""
    table = pa.concat_tables(pq.read_table(path) for path in sorted(folder.iterdir()))
    shutil.rmtree(folder)
    folder.mkdir()
    table = table.take(pa.array(np.random.default_rng(1).permutation(len(table))))
    for number in range(3):
        rows = table.slice(number * 90, 90)
        pq.write_table(rows, folder / f"part-{number:05}-c000.snappy.parquet", row_group_size=40)


def split(folder: Path) -> None:
    for path in list(folder.iterdir()):
        table = pq.read_table(path)
        pq.write_table(table.slice(0, 13), path.with_name(f"{path.stem}-a.parquet"))
        pq.write_table(table.slice(13), path.with_name(f"{path.stem}-b.parquet"))
        path.unlink()


def with_a_column(folder: Path) -> None:
    for path in folder.iterdir():
        table = pq.read_table(path)
        pq.write_table(table.append_column("lang", pa.array(["en"] * len(table))), path)


@pytest.mark.parametrize("change_files", [renamed, resharded, split, with_a_column])
def test_files_that_only_changed_their_shape_cost_nothing(
    night: Callable[..., dict[str, int]],
    bei: Bei,
    folder: Path,
    tmp_path: Path,
    change_files: Callable[[Path], None],
) -> None:
    night()
    before = vectors(read_output(bei, tmp_path / "out"))
    change_files(folder)
    words = ("--keep", "text,lang") if change_files is with_a_column else ()

    assert night(*words) == {"reused": 240}

    table = read_output(bei, tmp_path / "out")
    assert vectors(table) == before
    assert sorted(table["id"].to_pylist()) == sorted(
        f"{n}-{row}" for n in range(8) for row in range(30)
    )


def test_a_moved_folder_costs_nothing(
    night: Callable[..., dict[str, int]], submit: Bei, folder: Path, tmp_path: Path
) -> None:
    night()
    moved = folder.rename(tmp_path / "moved")
    out = ("--output", tmp_path / "out", "--rows-per-shard", 10, "--keep", "text")
    assert counted(submit(moved, *out, "--replace", "--json")) == {"reused": 240}


def test_a_line_appended_to_a_file_costs_one_row(submit: Bei, tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(50)))
    assert counted(submit(corpus, "--json")) == {"computed": 50}
    with corpus.open("a") as file:
        file.write('{"text": "one more"}\n')
    assert counted(submit(corpus, "--json")) == {"computed": 1, "reused": 50}


def test_a_file_put_back_before_the_run_is_finished_costs_nothing(
    night: Callable[..., dict[str, int]], bei: Bei, folder: Path, tmp_path: Path, redis_url: str
) -> None:
    night()
    aside = (folder / "04.parquet").rename(tmp_path / "aside")
    change(folder / "05.parquet", r0="new")
    words = ("--output", tmp_path / "out", "--rows-per-shard", 10, "--keep", "text")
    queued = bei("submit", folder, *words, "--model", TINY, "--broker", redis_url, "--json")
    assert (queued.json["run"], queued.json["state"]) == (2, "waiting for workers")
    aside.rename(folder / "04.parquet")
    assert night() == {"computed": 1, "reused": 239}


def test_rows_of_a_run_that_failed_are_taken(submit: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "in/a.parquet")
    words = (corpus.parent, "--max-failed-rows", 0)
    assert submit(*words).code == 0
    write_parquet(tmp_path / "in/b.parquet", 30, seed=1, text=[None, *texts(29, seed=1)])
    assert submit(*words).code == 1  # its parts are there, but no manifest lists them
    change(tmp_path / "in/b.parquet", r0="mended")
    assert counted(submit(*words, "--json")) == {"computed": 1, "reused": 49}


def test_rows_of_another_output_are_taken_on_request(
    submit: Bei, bei: Bei, folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert submit(folder, "--output", first).code == 0
    write_parquet(folder / "08.parquet", 30, seed=20)

    done = submit(folder, "--output", second, "--reuse-from", first, "--json")

    assert counted(done) == {"computed": 30, "reused": 240}
    assert bei("verify", second).code == 0
    fresh = read_output(bei, first)
    assert read_output(bei, second).slice(0, 240).equals(fresh)


def test_rows_of_other_values_are_never_taken(submit: Bei, tmp_path: Path) -> None:
    corpus, other = write_parquet(tmp_path / "c.parquet"), tmp_path / "other"
    assert submit(corpus, "--output", other, "--prompt", "query: ").code == 0
    for uri, reason in ((other, "--prompt 'query: ' there"), (tmp_path / "none", "no job")):
        refused = submit(corpus, "--reuse-from", uri)
        assert refused.code == 1
        assert f"--reuse-from {uri}" in refused.err
        assert reason in refused.err
        assert "Traceback" not in refused.err


def test_equal_texts_of_a_job_are_computed_once(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    text = [f"text {row % 7}" if row % 3 else f"alone {row}" for row in range(2000)]
    text[40] = text[1500] = None
    corpus = write_parquet(tmp_path / "c.parquet", 2000, text=text)
    different = len({one for one in text if one})

    done = submit(
        corpus, "--rows-per-shard", 100, "--keep", "text", "--max-failed-rows", 2, "--json"
    )

    assert counted(done) == {"computed": different, "deduplicated": 1998 - different, "failed": 2}
    assert bei("verify", tmp_path / "c.embed").code == 0
    table = read_output(bei, tmp_path / "c.embed").filter(pa.array([bool(one) for one in text]))
    assert len(vectors(table)) == different


@pytest.mark.parametrize(
    ("task", "model", "columns"),
    [
        ("rerank", RERANKER, ("query", "documents")),
        ("tag", TAGGER, ("text",)),
        ("classify", GOLDENS / "langid_xlmr", ("text",)),
    ],
)
def test_copies_are_right_in_every_task(
    submit: Bei, bei: Bei, tmp_path: Path, task: str, model: Path, columns: tuple[str, ...]
) -> None:
    """A corpus with every row three times, and a changed one, against each row alone."""
    text = texts(12)
    rows: dict[str, list[Any]] = {"text": text, "query": text[::-1]}
    rows["documents"] = [text[row : row + row % 4] for row in range(12)]
    alone = pa.table({name: rows[name] for name in columns})
    pq.write_table(alone, tmp_path / "alone.parquet")
    pq.write_table(pa.concat_tables([alone] * 3), tmp_path / "thrice.parquet")
    words = ("--task", task, "--model", model, "--token-budget", 64, "--json")
    assert counted(submit(tmp_path / "alone.parquet", *words)) == {"computed": 12}
    assert counted(submit(tmp_path / "thrice.parquet", *words)) == {
        "computed": 12, "deduplicated": 24,
    }  # fmt: skip

    def results(name: str) -> list[dict[str, Any]]:
        table = read_output(bei, tmp_path / f"{name}.{task}")
        return table.drop_columns(["source_file", "source_row"]).to_pylist()

    expected = results("alone")
    assert results("thrice") == expected * 3

    pq.write_table(pa.concat_tables([alone.slice(5), alone]), tmp_path / "alone.parquet")
    assert counted(submit(tmp_path / "alone.parquet", *words)) == {"reused": 19}
    assert results("alone") == [*expected[5:], *expected]


def test_the_key_is_the_documented_hash(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    text = ["one", "zwei ü", None]
    corpus = write_parquet(tmp_path / "c.parquet", 3, text=text)
    assert submit(corpus, "--max-failed-rows", 1).code == 3
    keys = read_output(bei, tmp_path / "c.embed")["row_key"].to_pylist()
    assert keys == [
        None if one is None else blake2b(one.encode(), digest_size=16).digest() for one in text
    ]

    pairs = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"query": ["q"], "documents": [["one", "two"]]}), pairs)
    assert submit(pairs, "--task", "rerank", "--model", RERANKER).code == 0

    def sized(text: str) -> bytes:
        return len(text).to_bytes(8, "little") + text.encode()

    whole = sized("q") + (2).to_bytes(8, "little") + sized("one") + sized("two")
    (key,) = read_output(bei, tmp_path / "pairs.rerank")["row_key"].to_pylist()
    assert key == blake2b(whole, digest_size=16).digest()


def test_verify_finds_a_row_whose_key_is_not_that_of_its_text(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus, output = write_parquet(tmp_path / "c.parquet"), tmp_path / "c.embed"
    assert submit(corpus).code == 0

    def exchanged(table: pa.Table) -> pa.Table:
        keys = table["row_key"].to_pylist()
        return with_values(table, "row_key", [*keys[1:], keys[0]])

    rewrite_part(output / parts(output)[0], exchanged)
    found = bei("verify", output)
    assert found.code == 1
    assert "row keys" in found.out


@pytest.mark.parametrize(
    "values", [{"precision": "bfloat16"}, {"space": "0" * 16}, {"numerics_version": "7"}]
)
def test_a_part_that_was_computed_in_another_way_is_not_copied(
    submit: Bei, tmp_path: Path, values: dict[str, str]
) -> None:
    corpus, output = write_parquet(tmp_path / "c.parquet"), tmp_path / "c.embed"
    assert submit(corpus).code == 0
    rewrite_part(output / parts(output)[0], **values)
    os.utime(corpus)
    assert counted(submit(corpus, "--json")) == {"computed": 20}


def test_a_row_that_failed_is_tried_again(submit: Bei, tmp_path: Path) -> None:
    corpus, output = write_parquet(tmp_path / "c.parquet"), tmp_path / "c.embed"
    assert submit(corpus).code == 0

    def failed(table: pa.Table) -> pa.Table:
        return with_values(table, "error", ["killed its process (signal 9)", *[None] * 19])

    rewrite_part(output / parts(output)[0], failed)
    os.utime(corpus)
    assert counted(submit(corpus, "--json")) == {"computed": 1, "reused": 19}


@pytest.mark.parametrize("damage", ["gone", "wrong rows", "rubbish"])
def test_a_list_of_copies_can_make_no_row_wrong(
    submit: Bei, bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    corpus, output = write_parquet(tmp_path / "c.parquet"), tmp_path / "c.embed"
    assert submit(corpus, "--keep", "text").code == 0
    before = vectors(read_output(bei, output))
    stored = Copies.to_bytes

    def harmed(copies: Copies) -> bytes:
        if damage == "wrong rows":
            row = copies.row[::-1].copy()
            return stored(Copies(copies.sources, copies.source, row))
        if damage == "gone":
            (output / parts(output)[0]).unlink()
            return stored(copies)
        return b"rubbish"

    monkeypatch.setattr(Copies, "to_bytes", harmed)
    os.utime(corpus)
    assert counted(submit(corpus, "--keep", "text", "--json")) == {"computed": 20}
    assert vectors(read_output(bei, output)) == before
    assert bei("verify", output).code == 0


@pytest.mark.usefixtures("device_in_this_process")
def test_rows_that_were_saved_early_are_there_for_their_duplicates(
    submit: Bei, bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commit.SAVE_SECONDS", 0.0)  # after every batch
    monkeypatch.setattr("pipeline.slices.READ_ROWS", 20)
    monkeypatch.setattr("pipeline.blocks._FIRST_BLOCK_ROWS", 20)
    monkeypatch.setattr("pipeline.blocks._BLOCK_ROWS", 20)
    corpus = write_parquet(tmp_path / "c.parquet", 200, text=texts(20) * 10, row_group=200)

    done = submit(corpus, "--keep", "text", "--token-budget", 64, "--json")

    assert counted(done) == {"computed": 20, "deduplicated": 180}
    assert bei("verify", tmp_path / "c.embed").code == 0
    assert len(vectors(read_output(bei, tmp_path / "c.embed"))) == 20

"""`bei-jobs plan` says what the run will report, and writes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome
from corpora import GOLDENS, ROOT, TINY, texts, write_parquet

from pipeline.planning.count_rows import Repeats

RERANKER, TAGGER = GOLDENS / "bge_reranker_xlmr", GOLDENS / "ner_bert"

Plan = Callable[..., dict[str, Any]]


def everything(folder: Path) -> dict[str, int]:
    """Every file and folder, and when it was changed."""
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.fixture
def plan(bei: Bei, tmp_path: Path) -> Bei:
    """Type `bei-jobs plan WORDS… --quiet`; nothing below tmp_path may change."""

    def planned(*words: object) -> Outcome:
        model = () if "--model" in words else ("--model", TINY)
        before = everything(tmp_path)
        done = bei("plan", *words, *model, "--device", "cpu", "--quiet")
        assert everything(tmp_path) == before
        assert "Traceback" not in done.err
        return done

    return planned


@pytest.fixture
def foretold(plan: Bei, submit: Bei) -> Plan:
    """Plan, then submit the same: both must say the same. What was planned."""

    def both(*words: object) -> dict[str, Any]:
        planned = plan(*words, "--json")
        assert planned.code == 0, planned.err
        found: dict[str, Any] = planned.json
        done = submit(*words, "--json").json
        assert found["rows"] == {key: done["rows"][key] for key in found["rows"]}
        assert found["tokens"]["total"] == done["tokens"]
        assert found["truncated"] == done["truncated"]
        assert found["shards"] == done["shards"]["total"]
        assert sum(bar["rows"] for bar in found["lengths"]) == found["rows"]["computed"]
        return found

    return both


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        write_parquet(tmp_path / f"in/{number}.parquet", 30, seed=number)
    return tmp_path / "in"


def test_a_new_corpus(foretold: Plan, folder: Path) -> None:
    text: list[str | None] = [f"text {row % 7}" for row in range(30)]
    text[3], text[4], text[5], text[6] = None, "  \n", "", "long " * 900
    write_parquet(folder / "4.parquet", 30, text=text)

    found = foretold(folder, "--rows-per-shard", 10, "--max-failed-rows", 9)

    assert found["files"] == {
        "total": 5, "new": 5, "changed": 0, "renamed": 0, "gone": 0, "unchanged": 0, "skipped": [],
    }  # fmt: skip
    assert found["rows"]["deduplicated"] == 30 - 4 - 7
    assert found["blank"] == 3
    assert found["truncated"] == 1
    tokens = found["tokens"]
    assert tokens["exact"]
    assert tokens["low"] == tokens["high"] == tokens["total"] > tokens["computed"]
    output = sum(path.stat().st_size for path in folder.parent.glob("in.embed/*.arrow"))
    assert 0.7 < found["bytes"] / output < 1.4


def test_rows_that_cannot_be_tokenized_are_neither_computed_nor_duplicates(
    foretold: Plan, tmp_path: Path
) -> None:
    text = ["short", "long " * 50, None, "long " * 50, "short", None]
    corpus = write_parquet(tmp_path / "c.parquet", 6, text=text)

    words = ("--truncate", "error", "--max-length", 16, "--max-failed-rows", 6)
    assert foretold(corpus, *words)["rows"] == {
        "total": 6, "computed": 1, "reused": 0, "deduplicated": 1, "failed": 4,
    }  # fmt: skip


def test_a_night(foretold: Plan, folder: Path, tmp_path: Path) -> None:
    foretold(folder, "--rows-per-shard", 10)
    changed = pq.read_table(folder / "1.parquet")
    text = [*changed["text"].to_pylist()[:-1], "a new text"]
    pq.write_table(changed.set_column(1, "text", pa.array(text)), folder / "1.parquet")
    write_parquet(folder / "9.parquet", 30, seed=9, text=[*texts(29, seed=9), "a new text"])
    (folder / "2.parquet").unlink()
    os.utime(folder / "3.parquet")

    found = foretold(folder, "--rows-per-shard", 10)

    assert found["files"] == {
        "total": 4, "new": 1, "changed": 2, "renamed": 0, "gone": 1, "unchanged": 1, "skipped": [],
    }  # fmt: skip
    assert found["rows"] == {
        "total": 120, "computed": 30, "reused": 89, "deduplicated": 1, "failed": 0,
    }  # fmt: skip
    assert found["tokens"]["computed"] < found["tokens"]["total"]
    output = sum(path.stat().st_size for path in tmp_path.glob("in.embed/*.arrow"))
    assert 0.9 < found["bytes"] / output < 1.1


def test_a_limit_other_inputs_and_kept_columns(foretold: Plan, tmp_path: Path) -> None:
    lines = [{"text": text, "note": "a long note " * 40} for text in texts(200)]
    for name, rows in (("a", lines[:120]), ("b", lines[100:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--output", tmp_path / "out", "--keep", "note", "--rows-per-shard", 50)

    assert foretold(tmp_path / "a.jsonl", *words, "--limit", 60)["rows"]["computed"] == 60
    found = foretold(tmp_path / "a.jsonl", *words)
    assert (found["rows"]["computed"], found["rows"]["reused"]) == (60, 60)
    found = foretold(tmp_path / "b.jsonl", *words, "--add")
    assert (found["rows"]["computed"], found["files"]["total"]) == (80, 2)
    fresh = foretold(tmp_path / "b.jsonl", *words, "--output", tmp_path / "fresh")
    output = sum(path.stat().st_size for path in tmp_path.glob("fresh/*.arrow"))
    assert 0.7 < fresh["bytes"] / output < 1.4


@pytest.mark.parametrize(
    ("task", "model", "words"),
    [
        ("rerank", RERANKER, ()),
        ("rerank", RERANKER, ("--document-column", "text")),
        ("tag", TAGGER, ()),
        ("classify", GOLDENS / "langid_xlmr", ()),
    ],
)
def test_every_task(
    foretold: Plan, tmp_path: Path, task: str, model: Path, words: tuple[str, ...]
) -> None:
    text = texts(12)
    documents: list[Any] = [text[row : row + row % 4] for row in range(12)]
    documents[5] = None
    rows = {"text": text, "query": text[::-1], "documents": documents}
    corpus = tmp_path / "c.parquet"
    pq.write_table(pa.table({key: [*values, *values[:6]] for key, values in rows.items()}), corpus)
    words = (*words, "--task", task, "--model", str(model), "--max-failed-rows", "50%")
    assert foretold(corpus, *words)["rows"]["deduplicated"] in (5, 6)

    more = {key: [*values[6:], values[0]] for key, values in rows.items()}
    more["text"][1] = more["query"][1] = "a new text"
    pq.write_table(pa.table(more), corpus)
    assert foretold(corpus, *words, "--prune")["rows"]["reused"] == 6


def test_rows_of_another_output_are_counted_as_reused(
    foretold: Plan, submit: Bei, folder: Path, tmp_path: Path
) -> None:
    assert submit(folder, "--output", tmp_path / "first").code == 0
    write_parquet(folder / "4.parquet", 30, seed=20)
    found = foretold(folder, "--output", tmp_path / "two", "--reuse-from", tmp_path / "first")
    assert found["rows"]["reused"] == 120


def test_a_part_of_another_precision_is_not_counted_as_reused(
    foretold: Plan, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet")
    foretold(corpus)
    (part,) = (tmp_path / "c.embed").glob("*.arrow")
    part.write_bytes(part.read_bytes().replace(b"float32", b"float16"))  # as a GPU writes it
    os.utime(corpus)
    assert foretold(corpus)["rows"]["computed"] == 20


def test_the_rest_of_a_run_that_others_began(
    foretold: Plan, bei: Bei, folder: Path, tmp_path: Path, redis_url: str
) -> None:
    """What it copies was decided when it was planned."""
    foretold(folder)
    write_parquet(folder / "1.parquet", 30, seed=1, text=[*texts(29, seed=1), "a new text"])
    queued = bei("submit", folder, "--model", TINY, "--broker", redis_url, "--json", "--quiet")
    assert queued.json["state"] == "waiting for workers"
    assert foretold(folder)["rows"]["computed"] == 1


@pytest.mark.usefixtures("device_in_this_process")  # which forgets what it computed
def test_an_interrupted_run_that_is_continued(foretold: Plan, tmp_path: Path) -> None:
    """It copies nothing from its own parts: what it may copy was decided when it was planned."""
    corpus = write_parquet(tmp_path / "c.parquet", 20, text=texts(10) * 2)
    assert foretold(corpus, "--rows-per-shard", 10)["rows"]["deduplicated"] == 10
    output = tmp_path / "c.embed"
    sorted(output.glob("*.arrow"))[1].unlink()
    (output / "_bei/runs/1/manifest.json").unlink()
    assert foretold(corpus, "--rows-per-shard", 10)["rows"]["computed"] == 10


_NOTHING_READ = """
import json, sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
from jobs.cli import main
try:
    main()
finally:
    read = [name for name in opened if name.endswith("c.parquet")]
    print(json.dumps([read, "torch" in sys.modules, "tokenizers" in sys.modules]))
"""


def test_an_unchanged_corpus_is_not_read_and_no_model_is_loaded(
    foretold: Plan, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet")
    foretold(corpus)

    words = ("plan", corpus, "--model", TINY, "--device", "cpu", "--quiet")
    done = subprocess.run(
        [sys.executable, "-c", _NOTHING_READ, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    *page, read = done.stdout.splitlines()
    assert any("nothing to do" in line for line in page)
    read, torch, _ = json.loads(read)
    assert (read, torch) == ([], False)
    found = foretold(corpus)
    assert found["rows"] == {
        "total": 20, "computed": 0, "reused": 20, "deduplicated": 0, "failed": 0,
    }  # fmt: skip
    assert (found["tokens"]["computed"], found["seconds"], found["lengths"]) == (0, 0, [])


def test_nothing_is_written_in_any_store(bei: Bei, tmp_path: Path, store_uri: str) -> None:
    corpus = write_parquet(tmp_path / "c.parquet")
    words = (corpus, "--model", TINY, "--device", "cpu", "--quiet", "--output", store_uri)
    assert bei("plan", *words).code == 0
    files, place = fsspec.url_to_fs(store_uri)
    files.invalidate_cache()
    assert not files.exists(place)
    assert files.find(place) == []


def test_a_sample_of_a_huge_input_gives_an_interval(
    plan: Bei, submit: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.planning.count_rows.ALL_TOKENIZED_ROWS", 999)
    monkeypatch.setattr("pipeline.planning.count_rows.SAMPLED_ROWS", 200)
    monkeypatch.setattr("pipeline.planning.count_rows._CLUSTER_ROWS", 10)
    text: list[str | None] = [*texts(900), *texts(98), None, "long " * 90]
    corpus = write_parquet(tmp_path / "c.parquet", 1000, text=text, row_group=1000)

    found, exact = plan(corpus, "--json").json, plan(corpus, "--json", "--exact").json
    done = submit(corpus, "--json").json

    assert exact["tokens"]["total"] == done["tokens"]
    tokens = found["tokens"]
    assert not tokens["exact"]
    assert tokens["low"] < tokens["total"] < tokens["high"]
    assert tokens["low"] <= done["tokens"] <= tokens["high"]
    assert tokens["high"] - tokens["low"] < 0.2 * done["tokens"]
    assert abs(tokens["computed"] / exact["tokens"]["computed"] - 1) < 0.1
    assert found["rows"] == exact["rows"]  # they are counted, not estimated
    assert exact["rows"] == {key: done["rows"][key] for key in exact["rows"]}


def test_a_duplicate_counts_as_one_only_while_the_run_remembers_its_text() -> None:
    remembered = Repeats(2)
    keys = pa.array([1, 2, 1, 3, 4, 1, 1], pa.uint64()).to_numpy()
    assert remembered.among(keys).tolist() == [False, False, True, False, False, False, True]


def test_the_time_comes_from_the_last_run_and_the_price_from_the_time(
    bei: Bei, plan: Bei, submit: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 200)
    busy = plan(corpus, "--json").json
    monkeypatch.setattr("workers.calibrate._steady", lambda ends, loaded: True)
    measured = plan(corpus, "--json").json
    assert [each["rate"]["source"] for each in (busy, measured)] == ["calibration"] * 2
    assert measured["choices"].keys() >= {"precision", "token-budget", "output", "max-length"}
    kept = plan(corpus, "--output-dtype", "int8", "--json").json  # another space, and as fast
    assert kept["rate"]["source"] == "earlier calibration"
    speeds = [each["rate"]["tokens_per_second"] for each in (kept, measured)]
    assert speeds[0] == pytest.approx(speeds[1])
    longer = write_parquet(
        tmp_path / "long.parquet", 20, text=[f"{row} word" * 60 for row in range(20)]
    )
    assert plan(longer, "--json").json["rate"]["source"] == "calibration"
    monkeypatch.setattr("workers.rates.MIN_SECONDS", 0.0)
    assert submit(corpus).code == 0

    words = (corpus, "--output", tmp_path / "again", "--price-per-hour", 1000)
    found = plan(*words, "--json").json

    rate = found["rate"]
    assert rate["source"] == "last run"
    seconds = rate["loading_seconds"] + found["tokens"]["computed"] / rate["tokens_per_second"]
    assert found["seconds"] == pytest.approx(seconds, abs=0.01)
    assert found["price"] == pytest.approx(seconds / 3.6, rel=0.01)
    other = plan(*words, "--max-length", 32, "--json").json
    assert other["rate"]["source"] == "calibration"

    (file,) = (tmp_path / "state/rates").iterdir()
    remembered = file.read_text()
    write_parquet(corpus, 201, text=[*texts(200), "a new text"])
    assert submit(corpus, "--json").json["rows"]["computed"] == 1
    assert file.read_text() == remembered  # a night of copies says nothing about computing


@pytest.mark.parametrize(
    "damage",
    [
        {"tokens_per_second": float("nan")},
        {"tokens_per_second": -1},
        {"tokens_per_second": True},
        {"loading_seconds": "3"},
        {"space": "0" * 16},
        {"more": "x" * 5000},
        "[]",
        "rubbish",
    ],
)
def test_a_damaged_rate_is_not_used(
    plan: Bei, submit: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    monkeypatch.setattr("workers.rates.MIN_SECONDS", 0.0)
    corpus = write_parquet(tmp_path / "c.parquet")
    assert submit(corpus).code == 0
    (file,) = (tmp_path / "state/rates").iterdir()
    data = damage if isinstance(damage, str) else json.dumps(json.loads(file.read_text()) | damage)
    file.write_text(data)
    found = plan(corpus, "--output", tmp_path / "again", "--json").json
    assert found["rate"]["source"] == "calibration"


def test_what_submit_refuses_plan_refuses_in_the_same_words(
    plan: Bei, submit: Bei, folder: Path, tmp_path: Path
) -> None:
    assert submit(folder, "--output", tmp_path / "out").code == 0
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    for words in (
        ("--output", tmp_path / "out"),  # would drop most rows
        ("--output", tmp_path / "out", "--prompt", "query: ", "--prune"),
        ("--output", folder),
        ("--text-column", "body"),
        ("--top-k", 3),
        ("--reuse-from", tmp_path / "none"),
    ):
        refused = plan(folder, *words)
        assert refused.code in (1, 2)
        assert refused.screen == submit(folder, *words).screen


def test_a_file_that_cannot_be_read_is_named(plan: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet")
    data = bytearray(corpus.read_bytes())
    data[4:400] = bytes(396)
    corpus.write_bytes(data)
    refused = plan(corpus)
    assert refused.code == 1
    assert str(corpus) in refused.err


def test_it_has_the_options_of_submit_and_takes_its_job_file(plan: Bei, tmp_path: Path) -> None:
    from jobs.cli import cli

    context = click.Context(cli)
    names = {}
    for name in ("submit", "plan"):
        command = cli.get_command(context, name)
        assert command is not None
        names[name] = {parameter.name for parameter in command.params}
    assert names["plan"] - names["submit"] == {"exact", "price_per_hour"}
    assert names["submit"] <= names["plan"]

    corpus = write_parquet(tmp_path / "c.parquet")
    job = tmp_path / "job.toml"
    job.write_text(f'inputs = ["{corpus}"]\nbroker = "redis://nowhere:1/0"\nwait = true\n')
    assert plan("--job-file", job).code == 0


def test_the_page_says_it_all(plan: Bei, bei: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 30, text=[*texts(29), texts(1)[0]])
    page = plan(corpus, "--price-per-hour", 2).out
    assert page.startswith("plan  embed with ")
    for words in (
        "files     1: 1 new", "rows      30: 29 to compute", "1 duplicates", "tokens    ",
        "lengths   up to", "3.3% duplicates", "shards    ", "tokens/s (calibration)", "price     ",
        "c.embed, nothing is written yet",
    ):  # fmt: skip
        assert words in page

    told = bei("plan", corpus, "--model", TINY, "--device", "cpu", "--broker", "redis://no:1/0")
    assert "no worker of the broker is asked" in told.err

"""`bei-jobs submit`, the main path: every input format to vectors, columns, order and options."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from commandline import Bei, read_output
from corpora import TINY, parts, texts, write_parquet

from pipeline.planning.default_output import default_output

GOLDEN = json.loads((Path(TINY) / "cases.json").read_text())


def vectors(table: pa.Table) -> np.ndarray:
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def test_one_command_turns_a_file_into_vectors_beside_it(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 20)
    done = submit(corpus, "--json")
    assert done.code == 0
    assert done.json["state"] == "done"
    assert done.json["rows"] == {
        "total": 20, "done": 20, "computed": 20, "reused": 0, "deduplicated": 0, "failed": 0,
    }  # fmt: skip
    assert done.json["output"] == str(tmp_path / "corpus.embed")
    table = read_output(bei, tmp_path / "corpus.embed")
    assert table.schema == pa.schema(
        [
            ("id", pa.string()),
            ("embedding", pa.list_(pa.float32(), 32)),
            ("n_tokens", pa.int32()),
            ("truncated", pa.bool_()),
            ("error", pa.string()),
            ("row_key", pa.binary(16)),
        ]
    )
    assert table["id"].to_pylist() == [f"0-{row}" for row in range(20)]
    assert bei("verify", tmp_path / "corpus.embed").code == 0


def test_vectors_are_those_of_sentence_transformers(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    case = GOLDEN["cases"][0]
    corpus = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": case["texts"]}), corpus)
    assert submit(corpus).code == 0
    table = read_output(bei, tmp_path / "corpus.embed")
    np.testing.assert_allclose(vectors(table), case["expected"], atol=1e-5)
    assert "" in case["texts"]  # an empty text has a vector as the reference has
    assert table["error"].null_count == len(table)
    assert table["truncated"].to_pylist()[-1] is True


ROWS = 7


def _written(folder: Path, kind: str) -> Path:
    """The same rows in one of the formats."""
    table = pa.table({"id": [f"r{row}" for row in range(ROWS)], "text": texts(ROWS)})
    path = folder / f"corpus.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "arrow":
        feather.write_feather(table, str(path), compression="uncompressed")
    elif kind.startswith("jsonl"):
        path.write_bytes(_compressed(lines, kind))
    else:
        plain = folder / "plain"
        with plain.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table.column_names)
            writer.writerows(zip(*(column.to_pylist() for column in table), strict=True))
        path.write_bytes(_compressed(plain.read_bytes(), kind))
        plain.unlink()
    return path


def _compressed(data: bytes, kind: str) -> bytes:
    if kind.endswith(".gz"):
        return gzip.compress(data)
    return zstandard.compress(data) if kind.endswith(".zst") else data


@pytest.mark.parametrize(
    "kind",
    ["parquet", "arrow", "jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "csv.zst"],
)
def test_every_format_gives_the_same_rows(submit: Bei, bei: Bei, tmp_path: Path, kind: str) -> None:
    reference = _written(tmp_path, "parquet")
    assert submit(reference, "--output", tmp_path / "expected").code == 0
    assert submit(_written(tmp_path, kind), "--output", tmp_path / "found").code == 0
    expected, found = (read_output(bei, tmp_path / name) for name in ("expected", "found"))
    assert found["id"].to_pylist() == expected["id"].to_pylist()
    np.testing.assert_array_equal(vectors(found), vectors(expected))


def test_a_directory_is_taken_in_the_order_of_its_files_and_hive_keys_become_columns(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    for seed, (day, lang) in enumerate([("1", "en"), ("1", "de"), ("2", "en")]):
        folder = tmp_path / "data" / f"day={day}" / f"lang={lang}"
        write_parquet(folder / "rows.parquet", 3, seed=seed)
    write_parquet(tmp_path / "data/_hidden/rows.parquet", 3, seed=9)
    done = submit(tmp_path / "data", "--json")
    assert done.code == 0
    assert done.json["output"] == str(tmp_path / "data.embed")
    table = read_output(bei, tmp_path / "data.embed")
    assert table.column_names[:3] == ["id", "day", "lang"]
    assert table["day"].to_pylist() == ["1"] * 6 + ["2"] * 3
    assert table["lang"].to_pylist() == ["de"] * 3 + ["en"] * 6
    assert table["id"].to_pylist() == [f"{seed}-{row}" for seed in (1, 0, 2) for row in range(3)]


def test_a_glob_takes_what_it_matches(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    for name in ("a", "b", "other"):
        write_parquet(tmp_path / f"data/{name}.parquet", 2, seed=ord(name[0]))
    done = submit(tmp_path / "data/[ab].parquet", "--json")
    assert (done.code, done.json["rows"]["total"]) == (0, 4)
    assert done.json["output"] == str(tmp_path / "data.embed")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/d/corpus.parquet", "/d/corpus.embed"),
        ("/d/corpus.arrows", "/d/corpus.embed"),
        ("/d/corpus.jsonl.gz", "/d/corpus.embed"),
        ("/d/v1.2.csv.zst", "/d/v1.2.embed"),
        ("/d/data/", "/d/data.embed"),
        ("/d/data/*.parquet", "/d/data.embed"),
        ("/d/data/**/part-?.csv", "/d/data.embed"),
        ("s3://bucket/corpus.parquet", "s3://bucket/corpus.embed"),
    ],
)
def test_the_output_is_next_to_the_input(given: str, expected: str) -> None:
    assert default_output([given], "embed") == expected


def test_several_inputs_need_an_output_of_their_own(submit: Bei, tmp_path: Path) -> None:
    one, two = (write_parquet(tmp_path / f"{n}.parquet", 2) for n in "ab")
    refused = submit(one, two)
    assert refused.code == 2
    assert "--output" in refused.err
    assert submit(one, two, "--output", tmp_path / "out").code == 0


def test_kept_columns_pass_through_with_name_and_type_unchanged(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    rows = 25
    when = [datetime(2024, 1, 1, hour=row % 24, tzinfo=UTC) for row in range(rows)]
    kept = {
        "id": pa.array(range(rows), pa.uint16()),
        "lang": pa.array([f"l{row % 3}" for row in range(rows)]).dictionary_encode(),
        "tags": pa.array([None if row == 3 else ["x"] * (row % 4) for row in range(rows)]),
        "when": pa.array(when, pa.timestamp("us", tz="Europe/Berlin")),
        "meta": pa.array([{"a": row, "b": [{"c": row / 2}]} for row in range(rows)]),
        "price": pa.array(list(range(rows)), pa.decimal128(9, 2)),
        "view": pa.array([f"v{row}" for row in range(rows)], pa.string_view()),
    }
    table = pa.table({"junk": range(rows), "text": texts(rows), **kept})
    path = tmp_path / "corpus.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    keep = [word for name in reversed(list(kept)[1:]) for word in ("--keep", name)]
    assert submit(path, *keep, "--rows-per-shard", 10).code == 0
    found = read_output(bei, tmp_path / "corpus.embed")
    expected = ["id", *reversed(list(kept)[1:])]
    assert found.column_names == [
        *expected,
        "embedding",
        "n_tokens",
        "truncated",
        "error",
        "row_key",
    ]
    for name in expected:
        assert found.schema.field(name).type == table.schema.field(name).type
        assert found[name].to_pylist() == table[name].to_pylist()
    assert bei("verify", tmp_path / "corpus.embed").code == 0


def test_dictionaries_that_differ_between_files_and_chunks_keep_their_values(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    values = []
    for name in "ab":
        chunks = [[f"{name}{chunk}{row % 2}" for row in range(4)] for chunk in range(3)]
        table = pa.Table.from_batches(
            [
                pa.record_batch({"text": texts(4), "kind": pa.array(chunk).dictionary_encode()})
                for chunk in chunks
            ]
        )
        with pa.ipc.new_stream(tmp_path / f"{name}.arrows", table.schema) as writer:
            writer.write_table(table)
        values += [value for chunk in chunks for value in chunk]
    assert submit(tmp_path, "--output", tmp_path / "out", "--keep", "kind").code == 0
    found = read_output(bei, tmp_path / "out")
    assert pa.types.is_dictionary(found.schema.field("kind").type)
    assert found["kind"].to_pylist() == values


def test_the_id_column_may_have_any_name_and_the_text_column_may_be_kept(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"key": [3, 1, 2], "id": [0, 0, 0], "body": texts(3)}), corpus)
    words = ("--id-column", "key", "--text-column", "body", "--keep", "body")
    assert submit(corpus, *words).code == 0
    table = read_output(bei, tmp_path / "corpus.embed")
    assert table.column_names[:3] == ["key", "body", "embedding"]
    assert table.schema.field("body").type == pa.string()
    assert table["key"].to_pylist() == [3, 1, 2]


def test_a_null_text_becomes_an_error_row_and_a_file_that_can_be_submitted_again(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    words: list[str | None] = list(texts(30))
    words[3] = words[17] = None
    corpus = write_parquet(tmp_path / "corpus.parquet", 30, text=words)
    done = submit(corpus, "--max-failed-rows", 2, "--rows-per-shard", 10, "--json")
    assert done.code == 3
    assert done.json["state"] == "done"
    assert done.json["rows"]["failed"] == 2
    table = read_output(bei, tmp_path / "corpus.embed")
    failed = [row for row, text in enumerate(words) if text is None]
    errors = table["error"].to_pylist()
    assert [row for row, error in enumerate(errors) if error] == failed
    assert [row for row, v in enumerate(table["embedding"].to_pylist()) if v is None] == failed
    assert table["id"].to_pylist() == [f"0-{row}" for row in range(30)]
    assert bei("verify", tmp_path / "corpus.embed").code == 0

    folder = tmp_path / "corpus.embed/_bei/quarantine"
    bad = pq.read_table(folder)
    assert bad["id"].to_pylist() == ["0-3", "0-17"]
    assert bad["bei_row"].to_pylist() == failed
    assert set(bad["bei_input"].to_pylist()) == {str(corpus)}
    assert bad["bei_error"].to_pylist() == ["the text is null"] * 2
    again = submit(
        folder, "--output", tmp_path / "again", "--max-failed-rows", "100%",
        "--keep", "bei_row", "--json",
    )  # fmt: skip
    assert (again.code, again.json["rows"]["failed"]) == (3, 2)
    assert read_output(bei, tmp_path / "again")["bei_row"].to_pylist() == failed


def test_a_file_of_nothing_but_nulls_is_an_output_of_nothing_but_errors(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 3, text=pa.nulls(3, pa.string()))
    assert submit(corpus, "--max-failed-rows", "100%").code == 3
    assert read_output(bei, tmp_path / "c.embed")["error"].to_pylist() == ["the text is null"] * 3
    assert bei("verify", tmp_path / "c.embed").code == 0


def test_more_failed_rows_than_allowed_fail_the_job_and_a_higher_budget_needs_no_computing(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 20, text=[None, *texts(19)])
    failed = submit(corpus, "--max-failed-rows", "1%")
    assert failed.code == 1
    assert "1 of 20 rows failed" in failed.err
    assert "--max-failed-rows" in failed.err
    status = bei("status", tmp_path / "c.embed", "--json")
    assert (status.code, status.json["state"]) == (1, "failed")
    assert "1 of 20" in status.json["reason"]
    assert (status.json["rows"]["computed"], status.json["rows"]["failed"]) == (19, 1)
    assert status.json["tokens"] > 0
    assert bei("files", tmp_path / "c.embed").code == 1
    assert submit(corpus, "--max-failed-rows", "1%").code == 1
    raised = submit(corpus, "--max-failed-rows", "5%", "--json")
    assert raised.code == 3
    assert raised.json["rows"]["computed"] == 0
    assert raised.json["rows"]["reused"] == 19


def test_a_blank_text_in_a_sample_is_no_failure_of_the_job_but_nothing_else_is(
    submit: Bei, tmp_path: Path
) -> None:
    sample = write_parquet(tmp_path / "sample.parquet", 14, text=[None, "", *texts(12)])
    done = submit(sample, "--json")
    assert (done.code, done.json["state"]) == (3, "done")
    assert done.json["rows"]["failed"] == 1
    null = write_parquet(tmp_path / "null.parquet", 3, text=pa.nulls(3, pa.string()))
    failed = submit(null)
    assert failed.code == 1
    assert "3 of 3 rows failed, more than --max-failed-rows 1% or 100 allows (2)" in failed.err


def test_a_run_that_was_finished_under_an_earlier_default_is_found_complete(
    submit: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 5)
    assert submit(corpus).code == 0
    run = tmp_path / "c.embed/_bei/runs/1/run.json"
    run.write_text(run.read_text().replace('"1% or 100"', '"1%"'))
    assert submit(corpus, "--json").json["run"] == 1
    assert submit(corpus, "--max-failed-rows", "2", "--json").json["run"] == 2


def test_limit_takes_the_first_rows_and_a_run_without_it_the_rest(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 25)
    first = submit(corpus, "--limit", 13, "--json")
    assert (first.code, first.json["rows"]["total"]) == (0, 13)
    table = read_output(bei, tmp_path / "c.embed")
    assert table["id"].to_pylist() == [f"0-{row}" for row in range(13)]
    assert bei("verify", tmp_path / "c.embed").code == 0
    whole = submit(corpus, "--json")
    assert (whole.code, whole.json["rows"]["total"]) == (0, 25)
    assert read_output(bei, tmp_path / "c.embed")["id"].to_pylist() == [
        f"0-{row}" for row in range(25)
    ]
    assert bei("verify", tmp_path / "c.embed").code == 0


def test_limit_never_removes_a_row(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/a.parquet", 10)
    write_parquet(tmp_path / "data/b.parquet", 10, seed=1)
    assert submit(tmp_path / "data").code == 0
    again = submit(tmp_path / "data", "--limit", 1, "--json")
    assert (again.code, again.json["rows"]["total"]) == (0, 20)
    assert again.json["rows"]["computed"] == 0
    assert len(read_output(bei, tmp_path / "data.embed")) == 20


def test_dimensions_keep_the_first_ones_at_unit_length(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 5)
    assert submit(corpus, "--output", tmp_path / "whole").code == 0
    assert submit(corpus, "--output", tmp_path / "short", "--dimensions", 8).code == 0
    whole, short = (vectors(read_output(bei, tmp_path / n)) for n in ("whole", "short"))
    cut = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(short, cut, atol=1e-6)


def test_output_dtypes_have_the_types_and_values_of_their_names(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 9, text=[None, *texts(8)])
    tables = {}
    for dtype in ("float32", "float16", "int8", "binary"):
        words = ("--output-dtype", dtype, "--max-failed-rows", "50%")
        assert submit(corpus, "--output", tmp_path / dtype, *words).code == 3
        assert bei("verify", tmp_path / dtype).code == 0
        table = read_output(bei, tmp_path / dtype)
        assert table["embedding"][0].as_py() is None
        tables[dtype] = table.slice(1)
    exact = vectors(tables["float32"])
    assert tables["float16"].schema.field("embedding").type == pa.list_(pa.float16(), 32)
    np.testing.assert_allclose(vectors(tables["float16"]), exact, atol=1e-3)
    assert tables["int8"].schema.field("embedding").type == pa.list_(pa.int8(), 32)
    scale = tables["int8"]["embedding_scale"].to_numpy()[:, None]
    np.testing.assert_allclose(vectors(tables["int8"]) * scale, exact, atol=scale.max())
    assert abs(vectors(tables["int8"])).max() == 127
    assert tables["binary"].schema.field("embedding").type == pa.list_(pa.uint8(), 4)
    bits = np.unpackbits(vectors(tables["binary"]), axis=1)
    np.testing.assert_array_equal(bits, exact > 0)


def test_normalize_makes_unit_vectors_and_no_normalize_leaves_their_length(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 5)
    lengths = {}
    for word in ("--normalize", "--no-normalize"):
        assert submit(corpus, "--output", tmp_path / word, word).code == 0
        lengths[word] = np.linalg.norm(vectors(read_output(bei, tmp_path / word)), axis=1)
    np.testing.assert_allclose(lengths["--normalize"], 1, atol=1e-6)
    assert not np.allclose(lengths["--no-normalize"], 1, atol=1e-3)


def test_a_prompt_is_put_before_each_text(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    plain = write_parquet(tmp_path / "plain.parquet", 5)
    spelled = write_parquet(
        tmp_path / "spelled.parquet", 5, text=[f"query: {text}" for text in texts(5)]
    )
    assert submit(plain, "--prompt", "query: ").code == 0
    assert submit(spelled).code == 0
    found, expected = (read_output(bei, tmp_path / f"{n}.embed") for n in ("plain", "spelled"))
    np.testing.assert_array_equal(vectors(found), vectors(expected))


def test_a_prompt_can_be_named_and_an_unknown_one_names_the_existing_ones(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    model = Path(TINY).parent / "e5_xlmr"
    prompts = json.loads((model / "config_sentence_transformers.json").read_text())["prompts"]
    name, prompt = next((name, prompt) for name, prompt in prompts.items() if prompt)
    corpus = write_parquet(tmp_path / "c.parquet", 3)
    common = (corpus, "--model", model)
    assert submit(*common, "--output", tmp_path / "named", "--prompt-name", name).code == 0
    assert submit(*common, "--output", tmp_path / "given", "--prompt", prompt).code == 0
    named, given = (vectors(read_output(bei, tmp_path / n)) for n in ("named", "given"))
    np.testing.assert_array_equal(named, given)
    unknown = submit(*common, "--output", tmp_path / "no", "--prompt-name", "nonsense")
    assert unknown.code == 2
    assert name in unknown.err
    assert not (tmp_path / "no").exists()


def test_truncation_that_would_take_a_prompt_off_pooling_is_refused_before_anything_is_written(
    bei: Bei, submit: Bei, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    pooling = model / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)
    words = (corpus, "--model", model, "--truncate", "left")

    refused = submit(*words, "--prompt", "query: ")

    assert refused.code == 2
    assert "--truncate left would cut the prompt off" in refused.screen[0]
    assert "--truncate right or error" in refused.screen[1]
    named = submit(*words[:3], "--long-texts", "cut-start", "--prompt", "query: ")
    assert "--long-texts cut-start would cut the prompt off" in named.screen[0]
    assert not (tmp_path / "corpus.embed").exists()
    assert submit(*words, "--prompt", "").code == 0


def test_truncate_right_left_and_error(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    long = "first " * 50 + "last " * 50
    corpus = write_parquet(tmp_path / "c.parquet", 2, text=["short", long])
    tables = {}
    for end in ("right", "left", "error"):
        words = ("--truncate", end, "--max-length", 20, "--max-failed-rows", "50%")
        code = submit(corpus, "--output", tmp_path / end, *words).code
        assert code == (3 if end == "error" else 0)
        tables[end] = read_output(bei, tmp_path / end)
    assert tables["right"]["truncated"].to_pylist() == [False, True]
    assert tables["right"]["n_tokens"].to_pylist()[1] == 20
    only = write_parquet(tmp_path / "o.parquet", 2, text=["first " * 50, "last " * 50])
    assert submit(only, "--max-length", 20).code == 0
    first, last = vectors(read_output(bei, tmp_path / "o.embed"))
    np.testing.assert_allclose(vectors(tables["right"])[1], first, atol=1e-6)
    np.testing.assert_allclose(vectors(tables["left"])[1], last, atol=1e-6)
    assert "more than --max-length 20" in tables["error"]["error"][1].as_py()


def test_a_vector_depends_neither_on_shards_nor_on_batches(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 60, row_group=60)
    options = {
        "one": (),
        "small": ("--rows-per-shard", 7),
        "alone": ("--token-budget", 1),
    }
    found = {}
    for name, words in options.items():
        assert submit(corpus, "--output", tmp_path / name, *words).code == 0
        found[name] = vectors(read_output(bei, tmp_path / name))
    assert len(parts(tmp_path / "small")) == 9
    np.testing.assert_allclose(found["small"], found["one"], atol=1e-6)
    np.testing.assert_allclose(found["alone"], found["one"], atol=1e-6)


@pytest.mark.usefixtures("device_in_this_process")
def test_many_small_files_share_batches(
    submit: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.encoder.engine import Engine

    for number in range(40):
        write_parquet(tmp_path / f"data/{number:02}.parquet", 2, seed=number)
    batches = []
    run = Engine.run_all

    def counted(self, given, *args):
        for batch, rows in run(self, given, *args):
            batches.append(len(batch))
            yield batch, rows

    monkeypatch.setattr(Engine, "run_all", counted)
    done = submit(tmp_path / "data", "--json")
    assert (done.code, done.json["shards"]["total"]) == (0, 40)
    assert sum(batches) in (80, 80 + 16)  # with those of the canary, unless they are remembered
    assert len(batches) < 8


def test_a_file_without_rows_among_others_is_skipped(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/a.parquet", 3)
    write_parquet(tmp_path / "data/b.parquet", 0, id=pa.array([], pa.string()),
                  text=pa.array([], pa.string()))  # fmt: skip
    done = submit(tmp_path / "data", "--json")
    assert (done.code, done.json["rows"]["done"]) == (0, 3)
    assert bei("verify", tmp_path / "data.embed").code == 0


def test_a_row_whose_text_is_not_utf8_fails_alone(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe bad", b"fine too"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    corpus = tmp_path / "c.arrow"
    table = pa.table({"text": bad})
    with pa.ipc.new_file(corpus, table.schema) as writer:
        writer.write_table(table)
    assert submit(corpus, "--max-failed-rows", "50%").code == 3
    errors = read_output(bei, tmp_path / "c.embed")["error"].to_pylist()
    assert [error is None for error in errors] == [True, False, True]
    assert "UTF-8" in errors[1]
    assert bei("verify", tmp_path / "c.embed").code == 0

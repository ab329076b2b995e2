"""`--long-texts`: a long text is cut, refused, or read in chunks, and each row is there once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, read_output, spawn
from corpora import GOLDENS, TINY, parts
from faults.points import PausePoint
from forgery import rewrite_part, with_values
from tokenizers import Tokenizer

from pipeline.output.output import Output
from pipeline.output.part_file import read_info, read_rows
from pipeline.tokenize.chunk_texts import ChunkTokenizer
from pipeline.tokenize.tokens import Tokens

CHUNKS = ("--chunk-tokens", 24, "--max-length", 64)
POLICIES = ("chunk", "late-chunk")


def long_text(number: int) -> str:
    """One sentence to a few dozen, each of a chunk's length."""
    return " ".join(f"Sentence {i} of {number} is here." for i in range(1 + number * 5 % 13))


def rows(count: int = 30) -> list[str | None]:
    texts: list[str | None] = [long_text(number) for number in range(count)]
    texts[3], texts[7] = None, ""
    texts[11] = texts[10]  # a duplicate, and one of another shard
    texts[25] = texts[10]
    return texts


def write(path: Path, texts: list[str | None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"id": range(len(texts)), "text": texts, "lang": ["en", "de"] * (len(texts) // 2)}
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), path)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "in/corpus.parquet", rows())


@pytest.fixture
def night(submit: Bei, bei: Bei, corpus: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """One more run, which is sound afterwards."""

    def run(policy: str, *words: object, output: str = "out") -> Outcome:
        done = submit(
            corpus.parent, "--output", tmp_path / output, "--long-texts", policy, *CHUNKS,
            "--keep", "lang", "--rows-per-shard", 10, "--max-failed-rows", 2, "--json", *words,
        )  # fmt: skip
        assert done.code in (0, 3), done.err
        sound = bei("verify", tmp_path / output)
        assert sound.code == 0, sound.out
        return done

    return run


def counted(done: Outcome) -> dict[str, int]:
    kinds = ("computed", "reused", "deduplicated", "failed")
    found: dict[str, int] = done.json["rows"]
    assert sum(found[kind] for kind in kinds) == found["done"] == found["total"]
    return {kind: found[kind] for kind in kinds if found[kind]}


def of_rows(table: pa.Table) -> dict[int, list[dict[str, Any]]]:
    """Id → its chunks, which stand together."""
    found: dict[int, list[dict[str, Any]]] = {}
    last = None
    for row in table.to_pylist():
        assert row["id"] == last or row["id"] not in found
        last = row["id"]
        found.setdefault(last, []).append(row)
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_each_chunk_is_a_row_in_the_order_of_its_text(
    policy: str, night: Callable[..., Outcome], bei: Bei, tmp_path: Path
) -> None:
    done = night(policy)
    table = read_output(bei, tmp_path / "out")
    assert table.schema.names == [
        "id", "lang", "chunk", "chunk_start", "chunk_end", "embedding",
        "n_tokens", "truncated", "error", "row_key",
    ]  # fmt: skip
    found = of_rows(table)
    assert list(found) == list(range(30))
    for number, text in enumerate(rows()):
        chunks = found[number]
        if text is None:
            (failed,) = chunks
            assert failed["error"] == "the text is null"
            assert [failed[name] for name in ("chunk", "chunk_start", "embedding")] == [None] * 3
            continue
        assert [chunk["chunk"] for chunk in chunks] == list(range(len(chunks)))
        own = [text[chunk["chunk_start"] : chunk["chunk_end"]] for chunk in chunks]
        assert " ".join(own) == text  # cut between sentences, and nothing is left out
        assert {chunk["lang"] for chunk in chunks} == {("en", "de")[number % 2]}
        assert len({chunk["row_key"] for chunk in chunks}) == 1
        assert all(0 < chunk["n_tokens"] <= 24 for chunk in chunks)
    assert counted(done) == {"computed": 27, "deduplicated": 2, "failed": 1}
    assert (
        done.json["chunks"]
        == table.num_rows
        == bei("status", tmp_path / "out", "--json").json["chunks"]
    )
    assert done.json["tokens"] == pc.sum(table["n_tokens"]).as_py()
    assert done.json["truncated"] == 0
    assert (
        f"{table.num_rows} rows in the output, one for each chunk"
        in bei("status", tmp_path / "out").out
    )


def test_a_chunk_has_the_vector_of_its_own_text(
    night: Callable[..., Outcome], submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    night("chunk")
    texts = rows()
    chunks = [c for number, of in of_rows(read_output(bei, tmp_path / "out")).items() for c in of
              if texts[number]]  # fmt: skip
    alone = [texts[chunk["id"]][chunk["chunk_start"] : chunk["chunk_end"]] for chunk in chunks]
    pq.write_table(pa.table({"id": range(len(alone)), "text": alone}), tmp_path / "alone.parquet")
    assert submit(tmp_path / "alone.parquet", "--max-length", 64).code == 0
    expected = read_output(bei, tmp_path / "alone.embed")
    vectors = np.array([chunk["embedding"] for chunk in chunks])
    assert np.allclose(vectors, np.array(expected["embedding"].to_pylist()), atol=1e-6)
    assert [chunk["n_tokens"] for chunk in chunks] == expected["n_tokens"].to_pylist()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_a_night_computes_the_rows_that_changed_and_copies_the_others_with_all_their_chunks(
    policy: str, format: str, night: Callable[..., Outcome], corpus: Path, bei: Bei, tmp_path: Path
) -> None:
    words = ("--output-format", format)
    night(policy, *words)
    before = of_rows(read_output(bei, tmp_path / "out"))
    assert counted(night(policy, *words)) == {"reused": 29, "failed": 1}
    texts = rows()
    texts[12] = "Another one. " * 20
    texts = [*texts[15:], *texts[:15]]  # other rows in each shard
    write(corpus, texts)
    assert counted(night(policy, *words)) == {"computed": 1, "reused": 28, "failed": 1}
    after = of_rows(read_output(bei, tmp_path / "out"))
    for number, chunks in after.items():
        if number == 27:
            assert len(chunks) > 2
            continue
        old = before[(number + 15) % 30]
        same = ("chunk", "chunk_start", "chunk_end", "embedding", "n_tokens", "error", "row_key")
        assert [[c[name] for name in same] for c in chunks] == [
            [c[name] for name in same] for c in old
        ]
    plan = bei("plan", corpus.parent, "--output", tmp_path / "out", "--long-texts", policy, *CHUNKS,
               "--keep", "lang", "--model", TINY, "--device", "cpu", "--json")  # fmt: skip
    assert plan.json["rows"] | {"total": 0} == {"total": 0, "computed": 0, "reused": 29,
                                                "deduplicated": 0, "failed": 1}  # fmt: skip
    assert plan.json["chunks"] == sum(map(len, after.values()))


@pytest.mark.usefixtures("device_in_this_process")
def test_a_text_that_cannot_be_cut_into_chunks_is_a_row_of_its_own(
    night: Callable[..., Outcome], bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ChunkTokenizer.encode

    def broken(self: ChunkTokenizer, texts: list[str]) -> Tokens:
        if long_text(14) in texts:
            raise ValueError("a bug")
        return real(self, texts)

    monkeypatch.setattr(ChunkTokenizer, "encode", broken)
    done = night("chunk")
    assert counted(done)["failed"] == 2
    (failed,) = of_rows(read_output(bei, tmp_path / "out"))[14]
    assert "a bug" in failed["error"]
    assert failed["chunk"] is None


@pytest.mark.usefixtures("device_in_this_process")
def test_a_chunk_that_float16_cannot_hold_is_an_error_of_its_own_text(
    night: Callable[..., Outcome], bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import part_rows

    real = part_rows.RowBuilder._computed

    def large(self: Any, computed: Any) -> pa.Table:
        texts = computed.block.texts["text"].to_pylist()
        if long_text(14) in texts and computed.outputs.rows.shape[0]:
            row_of = computed.block.tokens.chunks.row_of
            computed.outputs.rows[np.flatnonzero(row_of == texts.index(long_text(14)))[-1]] = 1e6
        return real(self, computed)

    monkeypatch.setattr(part_rows.RowBuilder, "_computed", large)
    assert counted(night("late-chunk", "--output-dtype", "float16"))["failed"] == 2
    (failed,) = of_rows(read_output(bei, tmp_path / "out"))[14]
    assert "float16" in failed["error"]


@pytest.mark.usefixtures("device_in_this_process")
def test_a_row_fails_with_all_of_its_chunks_and_retry_brings_all_of_them(
    night: Callable[..., Outcome], bei: Bei, tmp_path: Path
) -> None:
    from pipeline import part_rows

    real = part_rows.RowBuilder._computed
    poisoned = long_text(14)

    def broken(self: Any, computed: Any) -> pa.Table:
        texts = computed.block.texts["text"].to_pylist()
        if poisoned in texts and computed.outputs.rows.shape[0]:
            first = int(np.searchsorted(computed.block.tokens.row_of, texts.index(poisoned)))
            computed.outputs.rows[first + 1] = np.nan  # one chunk of several
        return real(self, computed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_rows.RowBuilder, "_computed", broken)
        done = night("chunk")
    assert counted(done) == {"computed": 26, "deduplicated": 2, "failed": 2}
    (failed,) = of_rows(read_output(bei, tmp_path / "out"))[14]
    assert "not finite" in failed["error"]
    assert failed["chunk"] is None
    held = pa.concat_tables(map(pq.read_table, (tmp_path / "out/_bei/quarantine").glob("*")))
    assert sorted(held["bei_row"].to_pylist()) == [3, 14]
    retried = bei("retry", tmp_path / "out", "--json")
    assert counted(retried) == {"computed": 1, "reused": 28, "failed": 1}
    assert bei("verify", tmp_path / "out").code == 0
    chunks = of_rows(read_output(bei, tmp_path / "out"))[14]
    assert [chunk["chunk"] for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk["error"] is None for chunk in chunks)


@pytest.mark.usefixtures("device_in_this_process")
def test_an_attempt_that_breaks_off_goes_on_with_the_rows_that_are_saved(
    night: Callable[..., Outcome], bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import commit
    from pipeline.tokenize.tokens import Tokens

    night("chunk", output="whole")
    real, batches = Tokens.batch, 0

    def breaks_once(*arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 6:
            raise OSError("the device is gone")
        return real(*arguments)

    monkeypatch.setattr(commit, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Tokens, "batch", breaks_once)
    night("chunk", "--token-budget", 300)
    found, expected = (read_output(bei, tmp_path / name) for name in ("out", "whole"))
    assert found.drop_columns("embedding").equals(expected.drop_columns("embedding"))
    output = Output(str(tmp_path / "out"))
    infos = [read_info(output.directory, part) for part in parts(tmp_path / "out")]
    assert sum(int(info.values.get("resumed", 0)) for info in infos) > 0
    assert not list((tmp_path / "out/_bei/open").rglob("*.arrow"))


def test_a_job_in_chunks_that_is_killed_is_resumed_by_the_same_command(
    night: Callable[..., Outcome], bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    night("late-chunk", output="whole")
    paused = PausePoint.make(tmp_path, "before-commit")
    process = spawn(
        "submit", corpus.parent, "--output", tmp_path / "out", "--long-texts",
        "late-chunk", *CHUNKS,
        "--keep", "lang", "--rows-per-shard", 10, "--max-failed-rows", 2, "--model", TINY,
        "--device", "cpu", **paused.environment,
    )  # fmt: skip
    paused.reached()
    process.kill()
    paused.release()
    process.wait()
    assert night("late-chunk").json["run"] == 1
    found, expected = (read_output(bei, tmp_path / name) for name in ("out", "whole"))
    assert found.drop_columns("embedding").equals(expected.drop_columns("embedding"))


def test_pool_is_the_mean_of_the_chunks_weighted_by_their_tokens(
    night: Callable[..., Outcome], bei: Bei, tmp_path: Path
) -> None:
    night("chunk", "--no-normalize", output="chunks")
    night("pool", "--no-normalize")
    pooled = read_output(bei, tmp_path / "out")
    assert "chunk" not in pooled.schema.names
    chunks = of_rows(read_output(bei, tmp_path / "chunks"))
    for number, row in enumerate(pooled.to_pylist()):
        if row["error"]:
            continue
        vectors = np.array([chunk["embedding"] for chunk in chunks[number]])
        sizes = np.array([chunk["n_tokens"] for chunk in chunks[number]])
        assert np.allclose(np.average(vectors, axis=0, weights=sizes), row["embedding"], atol=1e-6)
        assert row["n_tokens"] == sizes.sum()
    night("pool", output="unit")
    units = np.array([v for v in read_output(bei, tmp_path / "unit")["embedding"].to_pylist() if v])
    assert np.allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_small_vectors_of_chunks_are_those_of_their_texts(
    dtype: str, night: Callable[..., Outcome], bei: Bei, tmp_path: Path
) -> None:
    night("chunk", output="whole")
    night("chunk", "--output-dtype", dtype)
    small, whole = (read_output(bei, tmp_path / name) for name in ("out", "whole"))
    good = [vector for vector in whole["embedding"].to_pylist() if vector]
    values = np.array([vector for vector in small["embedding"].to_pylist() if vector])
    if dtype == "binary":
        assert np.array_equal(values, np.packbits(np.array(good) > 0, axis=1))
        return
    scales = np.array(
        [scale for scale in small["embedding_scale"].to_pylist() if scale is not None]
    )
    assert np.allclose(values * scales[:, None], good, atol=0.01)


@pytest.mark.parametrize("destination", ["vectors.npy", "out.parquet", "folder/"])
def test_an_export_has_a_row_for_each_chunk(
    destination: str, night: Callable[..., Outcome], bei: Bei, tmp_path: Path
) -> None:
    night("late-chunk")
    table = read_output(bei, tmp_path / "out")
    done = bei("export", tmp_path / "out", f"{tmp_path}/{destination}", "--json")
    assert done.code in (0, 3), done.err  # a .npy file has no place for a row that failed
    good = table.filter(pc.is_null(table["error"]))
    if destination.endswith(".npy"):
        assert np.array_equal(np.load(tmp_path / destination), good["embedding"].to_pylist())
        beside = pq.read_table(next(tmp_path.glob("vectors*.parquet")))
        assert beside["chunk_start"].to_pylist() == good["chunk_start"].to_pylist()
        assert done.json["rows"] == len(good)
    else:
        exported = pq.read_table(tmp_path / destination)
        assert exported["chunk"].to_pylist() == table["chunk"].to_pylist()
        assert done.json["rows"] == len(table)


def test_verify_sees_a_chunk_that_is_missing_doubled_or_of_another_row(
    night: Callable[..., Outcome], bei: Bei, tmp_path: Path
) -> None:
    night("chunk")
    path = tmp_path / "out" / parts(tmp_path / "out")[0]
    table = read_rows(path.name, path.read_bytes())
    row = table["chunk"].to_pylist().index(2)  # the third chunk of a row
    missing = table.take(pa.array([*range(row - 1), *range(row, len(table))]))
    doubled = table.take(pa.array([*range(row), row, *range(row, len(table))]))
    langs = ["fr" if i == row else lang for i, lang in enumerate(table["lang"].to_pylist())]
    other = with_values(table, "lang", langs)
    for problem, tampered in (
        ("numbered one after another", missing),
        ("numbered one after another", doubled),
        ("lang differs between the chunks of a row", other),
    ):
        rewrite_part(path, lambda _, tampered=tampered: tampered)
        found = bei("verify", tmp_path / "out")
        assert found.code == 1
        assert problem in found.out + found.err


def test_a_job_that_keeps_its_text_a_small_limit_and_a_wrong_model_are_refused(
    submit: Bei, corpus: Path, tmp_path: Path
) -> None:
    cls = GOLDENS / "modernbert_cls"
    for words, message in (
        (("--long-texts", "chunk", "--keep", "text"), "--keep text would repeat the whole text"),
        (("--long-texts", "chunk", "--keep", "lang,text"), "--keep text would repeat the whole"),
        (("--long-texts", "chunk", "--id-column", "text"), "--id-column text would repeat"),
        (
            ("--long-texts", "chunk", "--chunk-tokens", 2),
            "--chunk-tokens 2 leaves no room for text besides the 2 tokens",
        ),
        (("--max-length", 2), "--max-length 2 leaves no room for text"),
        (("--chunk-tokens", 8), "--chunk-tokens needs --long-texts chunk, late-chunk or pool"),
        (("--long-texts", "cut-end", "--chunk-overlap", 8), "--chunk-overlap needs --long-texts"),
        (("--long-texts", "chunk", "--truncate", "left"), "cannot be used together"),
        (("--long-texts", "pool", "--chunk-tokens", 999), "is more than --max-length"),
        (("--long-texts", "pool", "--chunk-tokens", 9, "--chunk-overlap", 5), "more than half of"),
        (("--long-texts", "late-chunk", "--model", cls), "pools by cls"),
        (("--long-texts", "chunk", "--task", "rerank"), "does not belong to --task rerank"),
        (("--long-texts", "pool", "--task", "tag"), "does not belong to --task tag"),
        (("--long-texts", "cut-start", "--task", "tag"), "--long-texts cut-start does not belong"),
        (("--long-texts", "cut-end", "--task", "tag"), "--long-texts cut-end does not belong"),
    ):  # fmt: skip
        refused = submit(corpus, *words, "--output", tmp_path / "refused")
        assert refused.code == 2, (words, refused.err)
        assert message in refused.screen[0], words
        assert len(refused.screen) == 2, refused.screen  # with a hint
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("earlier", "name"), [("right", "cut-end"), ("left", "cut-start"), ("error", "error")]
)
def test_truncate_is_another_name_of_three_policies(
    earlier: str, name: str, submit: Bei, corpus: Path, tmp_path: Path
) -> None:
    words = (
        corpus,
        "--max-length",
        20,
        "--output",
        tmp_path / "out",
        "--max-failed-rows",
        "90%",
        "--json",
    )
    first = submit(*words, "--truncate", earlier)
    again = submit(*words, "--long-texts", name)
    assert again.json["rows"]["computed"] == 0
    assert again.json["run"] == 1
    spec = json.loads((tmp_path / "out/_bei/spec.json").read_text())["spec"]
    assert spec["truncate"] == earlier
    assert not any(key.startswith("chunk") for key in spec)
    if earlier == "error":
        assert first.json["rows"]["failed"] > 1
        assert first.json["truncated"] == 0


@pytest.mark.parametrize("name", ["cut-end", "cut-start"])
def test_the_ledger_says_how_many_tokens_were_cut(
    name: str, submit: Bei, bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    words = (corpus, "--long-texts", name, "--max-failed-rows", 1)
    done = submit(*words, "--max-length", 20, "--output", tmp_path / "out", "--json").json
    vocabulary = Tokenizer.from_file(f"{TINY}/tokenizer.json")
    lengths = [len(vocabulary.encode(text)) for text in rows() if text is not None]
    cut = done["tokens_cut"]
    assert sum(lengths) == done["tokens"] + sum(max(0, length - 20) for length in lengths)
    if name == "cut-start":
        assert cut == sum(lengths) - done["tokens"]
    else:  # of a text far over the limit, tokens are counted by characters
        assert cut == pytest.approx(sum(lengths) - done["tokens"], rel=0.05)
    plan = bei(
        "plan", *words[:3], "--max-length", 20, "--output", tmp_path / "new", "--model", TINY,
        "--device", "cpu", "--json",
    ).json  # fmt: skip
    assert (plan["truncated"], plan["tokens_cut"]) == (done["truncated"], cut)
    assert (
        f"{done['truncated']} rows truncated: {cut:,} tokens cut off"
        in bei("status", tmp_path / "out").out
    )
    # The next night copies the rows, and still knows.
    pq.write_table(pq.read_table(corpus).append_column("more", pa.nulls(30)), corpus)
    again = submit(*words, "--max-length", 20, "--output", tmp_path / "out", "--json").json
    assert again["rows"]["reused"] == 29
    assert again["tokens_cut"] == pytest.approx(cut, abs=3)  # a copy has its share of its part's
    assert again["run"] == 2


def test_the_ledger_counts_a_row_that_another_column_made_an_error(
    submit: Bei, tmp_path: Path
) -> None:
    text = b" ".join([b"long"] * 40)
    lines = [b'{"id": %d, "lang": "%s", "text": "%s"}\n' % (i, lang, text)
             for i, lang in enumerate([b"en", b"d\xff"])]  # fmt: skip
    (tmp_path / "in.jsonl").write_bytes(b"".join(lines))
    words = (tmp_path / "in.jsonl", "--keep", "lang", "--max-length", 20, "--json")
    done = submit(*words, "--max-failed-rows", 1).json
    assert done["rows"]["failed"] == 1
    assert done["truncated"] == 2
    vocabulary = Tokenizer.from_file(f"{TINY}/tokenizer.json")
    assert done["tokens_cut"] == 2 * (len(vocabulary.encode(text.decode())) - 20)

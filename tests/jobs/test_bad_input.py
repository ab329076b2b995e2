"""Bad input: each error says in a few lines what is wrong, where, and what to do next."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commandline import Bei, Outcome, command, read_output
from corpora import ROOT, TINY, damaged_in_the_middle, parts, texts, write_parquet

from pipeline.store.backends import LocalStore

MAX_LINES = 6


def refused(outcome: Outcome, *named: object, code: int = 1) -> None:
    """One screen, the right exit code, what it is about, and a next step."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    screen = outcome.screen
    assert len(screen) <= MAX_LINES, outcome.err
    assert screen[0].startswith(("bei-jobs: ", "Usage: ")), outcome.err
    assert any("→" in line or "Try " in line for line in screen), outcome.err
    assert all(len(line) < 700 for line in screen)
    for word in named:
        assert str(word) in outcome.err, outcome.err


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", 20)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "corpus.embed"


# The input


def test_a_missing_file(submit: Bei, tmp_path: Path) -> None:
    missing = tmp_path / "no.parquet"
    refused(submit(missing), missing, "does not exist", "check the path")
    assert not (tmp_path / "no.embed").exists()


def test_a_glob_that_matches_nothing(submit: Bei, tmp_path: Path) -> None:
    refused(submit(tmp_path / "*.parquet"), tmp_path / "*.parquet", "matches no file")


def test_a_directory_without_an_input_file(submit: Bei, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    refused(submit(tmp_path / "data"), tmp_path / "data")
    (tmp_path / "data/notes.md").write_text("x")
    refused(submit(tmp_path / "data"), "notes.md")


def test_no_input_at_all(submit: Bei) -> None:
    refused(submit(), "no INPUT", code=2)


def test_a_file_of_unknown_format(submit: Bei, tmp_path: Path) -> None:
    (tmp_path / "corpus.xlsx").write_bytes(b"x")
    refused(submit(tmp_path / "corpus.xlsx"), "corpus.xlsx", "format")


@pytest.mark.parametrize("name", ["c.parquet", "c.arrow", "c.jsonl", "c.csv"])
def test_an_empty_file(submit: Bei, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    refused(submit(tmp_path / name), name, "empty")


def test_a_file_of_zero_rows(submit: Bei, tmp_path: Path) -> None:
    none = pa.array([], pa.string())
    corpus = write_parquet(tmp_path / "c.parquet", 0, id=none, text=none)
    refused(submit(corpus), "no rows", corpus)
    (tmp_path / "c.csv").write_text("id,text\n")
    refused(submit(tmp_path / "c.csv"), "no rows", "c.csv")
    assert not (tmp_path / "c.embed").exists()


def test_a_missing_column_is_named_with_the_existing_ones(submit: Bei, corpus: Path) -> None:
    refused(submit(corpus, "--text-column", "body"), corpus, "'body'", "id, text", "--text-column")
    refused(submit(corpus, "--keep", "lang"), corpus, "'lang'", "id, text", "--keep")
    refused(submit(corpus, "--id-column", "key"), corpus, "'key'", "id, text")


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv"])
def test_a_missing_column_of_a_text_format(submit: Bei, tmp_path: Path, name: str) -> None:
    lines = {"c.jsonl": '{"id": 1, "body": "x"}\n', "c.csv": "id,body\n1,x\n"}
    (tmp_path / name).write_text(lines[name])
    refused(submit(tmp_path / name), name, "'text'", "body")


def test_a_column_of_the_wrong_type(submit: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 5, text=list(range(5)))
    refused(submit(corpus), corpus, "'text'", "int64", "--text-column")


def test_a_kept_column_that_the_job_would_overwrite(submit: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 5, error=["x"] * 5)
    refused(submit(corpus, "--keep", "error"), "'error'")


def test_files_whose_columns_do_not_go_together(submit: Bei, tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/a.parquet", 5)
    write_parquet(tmp_path / "data/b.parquet", 5, id=[[1]] * 5)
    refused(submit(tmp_path / "data", "--max-bad-files", 0), "b.parquet", "'id'")


def test_a_corrupt_footer(submit: Bei, corpus: Path, output: Path) -> None:
    data = bytearray(corpus.read_bytes())
    data[-40:-8] = b"\xff" * 32
    corpus.write_bytes(data)
    refused(submit(corpus), corpus)
    assert not output.exists()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_truncated_file(submit: Bei, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"c.{kind}"
    table = pa.table({"text": texts(1000)})
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(submit(path), path)


def test_a_file_that_is_not_what_its_name_says(submit: Bei, tmp_path: Path) -> None:
    for name in ("c.parquet", "c.arrow", "c.jsonl", "c.jsonl.gz", "c.jsonl.zst", "c.csv.gz"):
        (tmp_path / name).write_bytes(b"\x00\xffthis is nothing of the kind\n" * 40)
        refused(submit(tmp_path / name), name)


def test_a_line_of_jsonl_that_is_not_json(submit: Bei, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "b"}\n')
    refused(submit(tmp_path / "c.jsonl"), "c.jsonl")


def test_a_row_group_that_cannot_be_read_fails_alone_and_the_same_command_finishes(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    folder, output = tmp_path / "data", tmp_path / "data.embed"
    for seed, name in enumerate("abc"):
        write_parquet(folder / f"{name}.parquet", 40, seed=seed, row_group=10)
    sound = damaged_in_the_middle(folder / "b.parquet", 2)
    words = (folder, "--rows-per-shard", 10, "--max-bad-files", 0)
    failed = submit(*words)
    refused(failed, "b.parquet", "1 of 12 shards failed", "rows 20-29")
    assert len(parts(output)) == 11
    status = bei("status", output, "--json")
    assert (status.code, status.json["state"]) == (1, "failed")
    assert status.json["shards"] == {"total": 12, "done": 11, "failed": 1}
    assert status.json["rows"]["done"] == 110
    assert "b.parquet" in status.json["reason"]
    refused(bei("files", output), output)

    refused(submit(*words), "b.parquet", "rows 20-29")  # still damaged, and nothing else to do
    (folder / "b.parquet").write_bytes(sound)
    done = submit(*words, "--json")
    assert (done.code, done.json["rows"]["done"]) == (0, 120)
    assert done.json["rows"]["reused"] == 110  # of b, a new version of itself, what was there
    table = read_output(bei, output)
    assert table["id"].to_pylist() == [f"{s}-{row}" for s in range(3) for row in range(40)]
    assert bei("verify", output).code == 0


def test_the_shard_before_a_damaged_one_is_committed(submit: Bei, bei: Bei, tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 40, row_group=10)
    damaged_in_the_middle(corpus, 1)
    refused(submit(corpus, "--rows-per-shard", 10), "1 of 4 shards failed", "rows 10-19")
    assert [name.split("-")[3] for name in parts(tmp_path / "c.embed")] == [
        f"{first:012}" for first in (0, 20, 30)
    ]


# Options


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--prompt", "a", "--prompt-name", "b"), "--prompt-name"),
        (("--add", "--replace"), "--replace"),
        (("--max-failed-rows", "many"), "--max-failed-rows"),
        (("--max-failed-rows", "101%"), "--max-failed-rows"),
        (("--dimensions", "33"), "--dimensions"),
        (("--dimensions", "12", "--output-dtype", "binary"), "binary"),
        (("--dimensions", "0"), "--dimensions"),
        (("--max-length", "100000"), "--max-length"),
        (("--output-dtype", "float8"), "--output-dtype"),
        (("--limit", "0"), "--limit"),
        (("--nonsense",), "--nonsense"),
        (("--prompt-name", "query"), "'query'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_written(
    submit: Bei, corpus: Path, output: Path, words: tuple[str, ...], named: str
) -> None:
    refused(submit(corpus, *words), named, code=2)
    assert not output.exists()


def test_a_device_that_this_machine_lacks(bei: Bei, corpus: Path) -> None:
    outcome = bei("submit", corpus, "--model", TINY, "--device", "cuda:99", "--quiet")
    refused(outcome, "cuda:99", code=2)


def test_an_unknown_command_is_refused(bei: Bei) -> None:
    refused(bei("sumbit", "x"), "sumbit", code=2)


# The model


def test_a_model_without_a_name(submit: Bei, corpus: Path, output: Path) -> None:
    """An unset variable in a script must not mean the working directory."""
    refused(submit(corpus, "--model", ""), "model is empty", code=2)
    assert not output.exists()


def test_an_unknown_model(submit: Bei, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(submit(corpus, "--model", "nobody/no-such-model"), "nobody/no-such-model")
    refused(submit(corpus, "--model", "./no/such/directory"), "./no/such/directory")


def test_a_checkpoint_without_safetensors(submit: Bei, corpus: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(TINY, tmp_path / "model"))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(submit(corpus, "--model", model), model, "safetensors")


def test_a_checkpoint_with_damaged_weights(
    submit: Bei, corpus: Path, tmp_path: Path, output: Path
) -> None:
    model = Path(shutil.copytree(TINY, tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"\x00 broken")
    outcome = submit(corpus, "--model", model)
    assert outcome.code == 1
    assert len(outcome.screen) <= MAX_LINES
    assert str(model / "model.safetensors") in outcome.err
    assert not output.exists()


# The output


def test_an_output_that_is_a_file(submit: Bei, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    refused(submit(corpus, "--output", tmp_path / "out"), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.usefixtures("device_in_this_process")
def test_an_output_on_a_full_disk(
    submit: Bei, bei: Bei, corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = LocalStore.create
    written = 0

    def full(self: LocalStore, name: str, data: bytes | memoryview) -> None:
        nonlocal written
        written += name.startswith("part-")
        if name.startswith("part-") and written > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        create(self, name, data)

    monkeypatch.setattr(LocalStore, "create", full)
    refused(submit(corpus, "--rows-per-shard", 10), output, "No space left", "free some space")
    assert len(parts(output)) == 1
    monkeypatch.undo()
    monkeypatch.setenv("BEI_JOBS_STATE_DIR", str(output / "state"))
    done = bei("submit", corpus, "--model", TINY, "--device", "cpu", "-q", "--json")
    assert (done.code, done.json["rows"]["reused"]) == (0, 10)
    assert bei("verify", output).code == 0


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of a few hundred kilobytes."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", mount], capture_output=True
    )
    if made.returncode:
        pytest.skip("only root may mount a tmpfs; the full store is tested without one too")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_a_really_full_disk(submit: Bei, bei: Bei, tmp_path: Path, tiny_disk: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 2000)
    words = (corpus, "--output", tiny_disk / "out", "--rows-per-shard", 200, "--max-length", 3)
    refused(submit(*words), tiny_disk, "No space left")
    committed = len(parts(tiny_disk / "out"))
    assert 0 < committed < 10
    subprocess.run(["mount", "-o", "remount,size=4m", tiny_disk], check=True)
    done = submit(*words, "--json")
    assert (done.code, done.json["rows"]["reused"]) == (0, committed * 200)
    assert bei("verify", tiny_disk / "out").code == 0


def without_rights(*words: object) -> Outcome:
    """Type a command as a user whom file modes stop: root is stopped once it dropped
    CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2) from its bounding set (PR_CAPBSET_DROP, 24).
    """
    drop = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None); libc.prctl(24, 1); libc.prctl(24, 2);"
        "os.execv(sys.executable, sys.argv[1:])"
    )
    process = subprocess.run(
        [sys.executable, "-c", drop, *command(*words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return Outcome(process.returncode, process.stdout, process.stderr)


def test_an_input_that_may_not_be_read(corpus: Path) -> None:
    corpus.chmod(0)
    refused(without_rights("submit", corpus, "--model", TINY), corpus, "denied", "owner and mode")


def test_one_of_several_inputs_that_may_not_be_read_is_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in "abc":
        write_parquet(folder / f"{name}.parquet", 5)
    (folder / "b.parquet").chmod(0)
    done = without_rights("submit", folder, "--model", TINY, "--json")
    assert done.code == 3, done.err
    assert "b.parquet: access denied" in done.err
    assert done.json["rows"]["done"] == 10


def test_an_output_that_may_not_be_written(corpus: Path, output: Path) -> None:
    output.mkdir()
    output.chmod(0o555)
    refused(without_rights("submit", corpus, "--model", TINY), output, "denied", "owner and mode")
    assert list(output.iterdir()) == []


# The store


def test_a_bucket_that_does_not_exist(submit: Bei, corpus: Path, s3: object) -> None:
    refused(submit(corpus, "--output", "s3://no-such-bucket/out"), "s3://no-such-bucket", "bucket")
    refused(submit("s3://no-such-bucket/c.parquet", "--output", corpus.parent / "o"), "bucket")


def test_bad_credentials_without_a_secret_in_the_message(
    submit: Bei, corpus: Path, s3, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fixtures_s3 import SECRET_KEY

    body = (
        f"<Error><Code>InvalidAccessKeyId</Code><Message>no such key {SECRET_KEY}</Message></Error>"
    )
    bucket = s3.make_bucket()
    s3.fault = lambda request, answer: ("403 Forbidden", body.encode())
    outcome = submit(corpus, "--output", f"s3://{bucket}/out")
    refused(outcome, f"s3://{bucket}/out", "denied", "AWS_ACCESS_KEY_ID")
    assert SECRET_KEY not in outcome.err


def test_no_credentials(submit: Bei, corpus: Path, s3, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.make_bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(corpus.parent))
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    outcome = submit(corpus, "--output", f"s3://{bucket}/out")
    fsspec.filesystem("s3").clear_instance_cache()
    refused(outcome, f"s3://{bucket}/out", "denied", "credentials")


def test_an_unknown_kind_of_store(submit: Bei, corpus: Path) -> None:
    refused(submit(corpus, "--output", "gopher://x/y"), "gopher://", code=2)


# The broker


def test_a_broker_that_cannot_be_reached_is_named_without_its_password(
    submit: Bei, corpus: Path
) -> None:
    outcome = submit(corpus, "--broker", "redis://:topsecret@127.0.0.1:1/0")
    refused(outcome, "127.0.0.1:1")
    assert "topsecret" not in outcome.err


@pytest.mark.parametrize("words", [("status", "x"), ("list",), ("retry", "x")])
def test_every_command_says_that_the_broker_cannot_be_reached(
    bei: Bei, finished: Path, words: tuple[str, ...]
) -> None:
    typed = [finished if word == "x" else word for word in words]
    refused(bei(*typed, "--broker", "redis://127.0.0.1:1/0"), "127.0.0.1:1")


# Jobs


def test_an_unknown_job_id(bei: Bei) -> None:
    for word in ("status", "cancel", "retry"):
        refused(bei(word, "0123456789ab"), "0123456789ab", "bei-jobs list")


def test_an_output_that_no_job_wrote(bei: Bei, tmp_path: Path) -> None:
    for word in ("status", "cancel", "retry", "files", "verify"):
        refused(bei(word, tmp_path / "nothing"), tmp_path / "nothing")


def test_an_output_written_by_a_newer_version(
    submit: Bei, bei: Bei, corpus: Path, output: Path
) -> None:
    assert submit(corpus).code == 0
    path = output / "_bei/runs/1/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    for words in (("status", output), ("verify", output), ("files", output)):
        refused(bei(*words), output, "newer version", "upgrade")
    refused(submit(corpus), output, "newer version")


def test_an_error_is_one_json_object_where_json_was_asked_for(
    submit: Bei, bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    for outcome in (
        submit(tmp_path / "no.parquet", "--json"),
        submit(corpus, "--nonsense", "--json"),
        submit(corpus, "--dimensions", "x", "--json"),
        bei("status", tmp_path / "nothing", "--json"),
        bei("nonsense", "--json"),
    ):
        error = outcome.json
        assert set(error) == {"error", "hint", "exit_code", "type"}
        assert error["exit_code"] == outcome.code > 0
        assert error["error"] in outcome.err

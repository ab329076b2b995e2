"""Odd names, odd stores and odd neighbours of an input, through the command line."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import ClientTimeout
from commandline import Bei, read_output
from corpora import TINY, write_parquet
from fsspec.implementations.http import HTTPFileSystem
from input_plans import plan_of

from pipeline.input.discovery import discover
from pipeline.input.reading import read
from pipeline.output.open_shards import write_piece
from pipeline.store import web
from pipeline.store.directory import Directory, OpenedFile, file_info, told_version
from pipeline.store.signs import Signs, new_count

ROWS = [{"id": str(row), "text": f"text of {row}"} for row in range(40)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=10)
    return bytes(sink.getvalue())


def rows_of(uri: str) -> list[dict[str, Any]]:
    """The rows as shards read them, each through an open file of its own."""
    planned = plan_of([uri], columns=["id"], rows_per_shard=10)
    batches = [
        batch
        for file, cuts in planned.files
        for cut in cuts
        for _, batch in read(file, [cut], planned.schema, 50)
    ]
    return pa.Table.from_batches(batches, planned.schema).to_pylist()


class TestNeighbours:
    def test_they_are_counted_and_named(self, bei: Bei, tmp_path: Path) -> None:
        data = tmp_path / "data"
        write_parquet(data / "a.parquet", 3)
        for name in ("_SUCCESS", ".a.crc", "notes.txt", "model.bin"):
            (data / name).write_text("x")
        os.mkfifo(data / "pipe.csv")
        options = (data, "--model", TINY, "--device", "cpu")
        said = "5 beside the input files: "
        planned = bei("plan", *options, "--json")
        done = bei("submit", *options, "--json")
        assert (planned.code, done.code) == (0, 0), done.err
        for outcome in (planned, done):
            ignored = outcome.json["files"]["ignored"]
            assert ignored["total"] == 5
            assert ignored["reasons"] == {
                "hidden name": 2, "unknown suffix": 2, "not a regular file": 1,
            }  # fmt: skip
            assert [Path(one["uri"]).name for one in ignored["first"]] == [
                "model.bin", "notes.txt", "pipe.csv", ".a.crc", "_SUCCESS",
            ]  # fmt: skip
            assert said in outcome.err
        again = bei("submit", *options)
        assert f"ignored {said}" in again.out
        (data / "b.csv.gz").touch()  # a text file without rows
        assert bei("submit", *options, "--json").json["files"]["ignored"]["reasons"]["empty"] == 1

    def test_nothing_is_said_where_there_is_none(self, bei: Bei, tmp_path: Path) -> None:
        corpus = write_parquet(tmp_path / "a.parquet", 3)
        planned = bei("plan", corpus, "--model", TINY, "--device", "cpu", "--json")
        assert "ignored" not in planned.json["files"]
        assert "ignored" not in planned.err


class TestFormat:
    def test_it_is_said_on_the_command_line_and_in_job_files(
        self, submit: Bei, bei: Bei, tmp_path: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("id\ttext\n1\ta, b\n")
        output = tmp_path / "out"
        done = submit(tmp_path / "a.txt", "--format", "tsv", "--output", output)
        assert done.code == 0, done.err
        assert read_output(bei, output)["id"].to_pylist() == ["1"]
        job = tmp_path / "job.toml"
        job.write_text('inputs = ["a.txt"]\noutput = "out"\nformat = "tsv"\n')
        again = submit("--job-file", job, "--json")
        assert (again.code, again.json["run"]) == (0, 1)
        other = submit(tmp_path / "a.txt", "--format", "csv", "--output", output)
        assert other.code == 1
        assert "was read as tsv by an earlier run" in other.err

    @pytest.mark.parametrize(
        ("name", "separator", "said"),
        [
            ("a.csv", "\t", "separated by tabs: give --format tsv"),
            ("a.tsv", ",", "separated by commas: give --format csv"),
            ("a.csv", ";", "separated by semicolons: write it again with commas"),
        ],
    )
    def test_a_file_with_other_separators_says_what_to_do(
        self, submit: Bei, tmp_path: Path, name: str, separator: str, said: str
    ) -> None:
        (tmp_path / name).write_text(f"id{separator}text\n1{separator}a\n")
        refused = submit(tmp_path / name)
        assert (refused.code, len(refused.screen)) == (1, 2)
        assert said in refused.err


class TestNames:
    @pytest.mark.parametrize(
        "name", ["data:x.parquet", "file:x.parquet", "a::b.parquet", "50%20 off.parquet", "n\nl.pq"]
    )
    def test_a_path_is_no_uri(
        self, bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_parquet(tmp_path / name, 3)
        planned = bei("plan", name, "--output", "out", "--model", TINY, "--json")
        assert planned.code == 0, planned.err
        assert planned.json["rows"]["total"] == 3

    @pytest.mark.parametrize(
        ("uri", "code", "said"),
        [
            ("data:x.parquet", 1, "data:x.parquet does not exist"),
            ("data://x.parquet", 1, "data:// cannot do this"),
            ("s3://", 2, "s3:// names no bucket"),
            ("gs:///a.csv", 2, "gs:///a.csv names no bucket"),
            ("http://", 2, "http:// names no bucket or host"),
            ("sftp://h/a.csv", 2, "install that package beside bei-jobs"),
            ("a\0b.csv", 2, "zero byte"),
            ("/dev/null", 1, "not a regular file"),
        ],
    )
    def test_what_is_no_input_is_refused_with_a_next_step(
        self, submit: Bei, tmp_path: Path, uri: str, code: int, said: str
    ) -> None:
        refused = submit(uri, "--output", tmp_path / "out")
        assert (refused.code, refused.out) == (code, "")
        assert said in refused.err
        assert "password" not in refused.err
        assert len(refused.screen) <= 4

    def test_a_link_to_itself_is_a_bad_file_by_its_name(self, submit: Bei, tmp_path: Path) -> None:
        write_parquet(tmp_path / "data/a.parquet", 3)
        (tmp_path / "data/loop.parquet").symlink_to("loop.parquet")
        done = submit(tmp_path / "data", "--json")
        assert done.code == 3
        assert [Path(one["uri"]).name for one in done.json["files"]["skipped"]] == ["loop.parquet"]

    def test_an_output_below_a_file(self, submit: Bei, tmp_path: Path) -> None:
        corpus = write_parquet(tmp_path / "a.parquet", 3)
        refused = submit(corpus, "--output", corpus / "out")
        assert refused.code == 1
        assert "a part of the path is a file" in refused.err
        assert "disk" not in "\n".join(refused.screen)

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('{"id": 9223372036854775808, "text": "a"}', "row 1: column 'id': an integer beyond"),
            ('{"id": {"a": [18446744073709551616]}, "text": "a"}', "an integer beyond 64 bits"),
            (
                '{"id": ' + "9" * 5000 + ', "text": "a"}',
                "row 1 is not JSON: a number has thousands",
            ),
        ],
    )
    def test_integers_that_no_column_holds(
        self, submit: Bei, tmp_path: Path, line: str, said: str
    ) -> None:
        (tmp_path / "a.jsonl").write_text(f'{{"id": null, "text": "a"}}\n{line}\n')
        refused = submit(tmp_path / "a.jsonl")
        assert refused.code == 1
        assert said in refused.err
        assert "C long" not in refused.err

    def test_a_header_beyond_the_limits_of_csv(self, submit: Bei, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("id,text," + "c" * 200_000 + "\n1,a,b\n")
        refused = submit(tmp_path / "a.csv")
        assert refused.code == 1
        assert len(refused.screen) == 2
        assert "the header line" in refused.err


class TestKeep:
    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        columns = {"a,b": [1, 2], "lang": ["en", "de"], "a": [3, 4]}
        return write_parquet(tmp_path / "a.parquet", 2, **columns)

    def test_a_column_with_a_comma_in_its_name(
        self, submit: Bei, bei: Bei, corpus: Path, tmp_path: Path
    ) -> None:
        names = ("--keep", "a,b", "--keep", "lang,a")
        done = submit(corpus, *names, "--json")
        assert done.code == 0, done.err
        assert done.json["choices"]["keep"]["value"] == ["a,b", "lang", "a"]
        rows = read_output(bei, tmp_path / "a.embed")
        assert rows.select(["a,b", "lang", "a"]).to_pylist()[1] == {"a,b": 2, "lang": "de", "a": 4}
        again = submit(corpus, *names, "--json")
        assert (again.code, again.json["run"]) == (0, 1)
        assert bei("verify", tmp_path / "a.embed").code == 0

    def test_a_column_that_is_not_there(self, submit: Bei, corpus: Path) -> None:
        assert "has no column 'b'" in submit(corpus, "--keep", "a,b", "--keep", "lang,b").err


def put_key(s3: Any, bucket: str, key: str, data: bytes) -> None:
    """Create an object as S3 itself does: fsspec knows better about some keys."""
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    client.put_object(Bucket=bucket, Key=key, Body=data)


class TestKeys:
    """Object stores allow names that no disk has."""

    def test_a_double_slash_within_a_key(self, s3: Any) -> None:
        bucket = s3.make_bucket()
        put_key(s3, bucket, "data/e//a.jsonl", JSONL)
        put_key(s3, bucket, "data/e/", b"")
        for argument in ("data", "data/", "data/e//a.jsonl", "data/**", "data/e/**"):
            assert rows_of(f"s3://{bucket}/{argument}") == ROWS
        put_key(s3, bucket, "data/b.jsonl", JSONL)
        assert len(rows_of(f"s3://{bucket}/data")) == 80

    @pytest.mark.parametrize("marker", ["data", "data/", "data_$folder$"])
    def test_an_empty_object_named_like_the_prefix(self, s3: Any, marker: str) -> None:
        bucket = s3.make_bucket()
        put_key(s3, bucket, marker, b"")
        Directory(f"s3://{bucket}").put("data/a.jsonl", JSONL)
        for argument in ("data", "data/", "*", ""):
            found = discover([f"s3://{bucket}/{argument}"])
            assert [Path(file.uri).name for file in found] == ["a.jsonl"], argument
        assert rows_of(f"s3://{bucket}/data") == ROWS


class Files(BaseHTTPRequestHandler):
    """A web server whose first path segment says what it is unable to do."""

    protocol_version = "HTTP/1.1"
    bodies: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        able, _, name = self.path.strip("/").partition("/")
        if able == "down" or name not in self.bodies:
            return self.send_error(403 if able == "down" else 404)
        body, ranges = self.bodies[name], self.headers["Range"]
        if able == "ranges" and ranges:
            first, last = (int(place) for place in ranges.removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        else:
            self.send_response(200)
        if able == "says-none":
            self.send_header("Accept-Ranges", "none")
        if able.startswith("no-length"):
            if validator := able.removeprefix("no-length"):
                self.send_header(validator, "Wed, 21 Oct 2015 07:28:00 GMT")
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("ETag", f'"{len(body)}"' if able != "ranges" else '"x"')
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body and able == "slow":
            self.wfile.write(body[:1])
            time.sleep(0.3)
            body = body[1:]
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web_files() -> Iterator[str]:
    """The URI of a server of a.jsonl and a.parquet."""
    bodies = {"a.jsonl": JSONL, "a.parquet": parquet()}
    bodies[""] = "".join(
        f'<a href="{name}">{name}</a>' for name in [*bodies, "gone.jsonl"]
    ).encode()
    handler = type("Handler", (Files,), {"bodies": bodies})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class TestWeb:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
    @pytest.mark.parametrize("able", ["ranges", "no-ranges", "says-none", "no-length"])
    def test_a_file_is_read_whatever_its_server_can(
        self, web_files: str, able: str, name: str
    ) -> None:
        assert rows_of(f"{web_files}/{able}/{name}") == ROWS

    @pytest.mark.parametrize("able", ["ranges", "no-length"])
    def test_a_page_that_lists_files_without_their_sizes(self, web_files: str, able: str) -> None:
        folder = f"{web_files}/{able}"
        assert rows_of(f"{folder}/*.parquet") == ROWS
        listed = discover([f"{folder}/*.jsonl"])
        assert [file.path for file in listed] == ["a.jsonl", "gone.jsonl"]
        assert listed[:1] == discover([f"{folder}/a.jsonl"])  # of one version, however it is named

    def test_a_file_without_a_size_is_not_read_again_whenever_rows_are_saved(
        self,
        submit: Bei,
        web_files: str,
        tmp_path: Path,
        device_in_this_process: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        copy, save = Mock(side_effect=web._copy), Mock(side_effect=write_piece)
        monkeypatch.setattr(web, "_copy", copy)
        monkeypatch.setattr("pipeline.commit.write_piece", save)
        copies = []
        for seconds in (60.0, 0.0):
            monkeypatch.setattr("pipeline.commit.SAVE_SECONDS", seconds)
            words = ("--output", tmp_path / f"out-{seconds}", "--token-budget", 100)
            assert submit(f"{web_files}/no-length/a.jsonl", *words).code == 0
            copies.append(copy.call_count)
            copy.reset_mock()
        assert save.called
        assert copies[0] == copies[1]

    def test_a_file_may_take_longer_than_a_request_may_by_default(
        self, web_files: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aiohttp.client.DEFAULT_TIMEOUT", ClientTimeout(total=0.1))
        HTTPFileSystem.clear_instance_cache()
        with OpenedFile(f"{web_files}/slow/a.jsonl") as file:
            assert file.read() == JSONL

    def test_a_copy_gives_signs_of_life(
        self, web_files: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signs = Signs()
        signs.share(count := new_count())
        monkeypatch.setattr(web, "signs", signs)
        with OpenedFile(f"{web_files}/no-length/a.jsonl"):
            assert count.value > 0

    @pytest.mark.parametrize("validator", ["ETag", "Last-Modified", ""])
    def test_what_a_server_tells_of_a_file_without_a_size(
        self, web_files: str, validator: str
    ) -> None:
        uri = f"{web_files}/no-length{validator}/a.jsonl"
        info = file_info(uri)
        told = told_version(uri, info.size)
        assert told == (info.version if validator else None)

    def test_a_job_needs_an_output_elsewhere(
        self, submit: Bei, web_files: str, tmp_path: Path
    ) -> None:
        uri = f"{web_files}/no-length/a.jsonl"
        for words in ((), ("--output", f"{web_files}/out")):
            refused = submit(uri, *words)
            assert refused.code == 2
            assert "a web server takes no files" in refused.err
            assert len(refused.screen) == 2
        done = submit(uri, "--output", tmp_path / "out", "--rows-per-shard", 10, "--json")
        assert (done.code, done.json["shards"]["done"]) == (0, 4)
        assert submit(uri, "--output", tmp_path / "out", "--json").json["run"] == 1

    def test_what_a_server_refuses_is_not_taken_for_missing(
        self, submit: Bei, web_files: str, tmp_path: Path
    ) -> None:
        output = ("--output", tmp_path / "out")
        assert "access denied" in submit(f"{web_files}/down/a.jsonl", *output).err
        assert "does not exist" in submit(f"{web_files}/ranges/b.jsonl", *output).err

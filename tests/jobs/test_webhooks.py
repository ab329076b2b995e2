"""`--notify` posts when a job starts, is done or has failed; it fails no job, tells no secret."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import Bei
from corpora import TINY, damaged_in_the_middle, write_parquet
from web_server import WebServer

SECRET = "0f7e5a52-token"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", 8)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another at once."""
    monkeypatch.setattr("jobs.webhooks._FIRST_PAUSE_SECONDS", 0.0)


def test_start_and_done_are_the_json_object_of_the_command(
    submit: Bei, corpus: Path, web: WebServer
) -> None:
    done = submit(corpus, "--notify", f"http://{web.host}/hook?x=1", "--json")

    assert done.code == 0, done.err
    start, end = web.posts
    assert [start.path, end.path] == ["/hook?x=1"] * 2
    assert end.body == {**done.json, "event": "done"}
    assert start.event == "start"
    assert start.body["job"] == done.json["job"]
    assert start.body["rows"]["total"] == 8
    assert start.body["rows"]["done"] == 0


def test_every_url_is_told_and_a_run_with_nothing_to_do_is_done(
    submit: Bei, corpus: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(corpus)
    monkeypatch.setenv("BEI_JOBS_NOTIFY", f"http://{web.host}/a http://{web.host}/b")

    assert submit(corpus).code == 0

    assert sorted(post.path for post in web.posts) == ["/a", "/a", "/b", "/b"]
    assert sorted(web.events) == ["done", "done", "start", "start"]


def test_the_run_that_follows_a_damaged_file_starts_too(
    submit: Bei, tmp_path: Path, web: WebServer
) -> None:
    for name in "ab":
        write_parquet(tmp_path / f"data/{name}.parquet", 8)
    damaged_in_the_middle(tmp_path / "data/b.parquet", 0)

    done = submit(tmp_path / "data", "--notify", f"http://{web.host}/hook", "--json")

    assert done.code == 3, done.err
    assert [(post.event, post.body["run"]) for post in web.posts] == [
        ("start", 1), ("start", 2), ("done", 2),
    ]  # fmt: skip
    assert web.posts[1].body["job"] == done.json["job"]


@pytest.mark.parametrize("url", ["healthchecks+http://{host}", "http://hc-ping.com"])
def test_a_healthchecks_server_is_pinged_as_it_expects(
    bei: Bei,
    corpus: Path,
    tmp_path: Path,
    web: WebServer,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    # What is sent to hc-ping.com arrives here, with its whole URL as the path.
    monkeypatch.setenv("http_proxy", f"http://{web.host}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"{url.format(host=web.host)}/{SECRET}/nightly?rid=7"
    file = tmp_path / "job.toml"
    file.write_text(
        f'inputs = ["{corpus}"]\nmodel = "{TINY}"\ndevice = "cpu"\nnotify = ["{url}"]\n'
    )

    assert bei("submit", "--job-file", file, "--quiet").code == 0
    assert bei("submit", "--job-file", file, "--quiet", "--text-column", "body").code == 1

    paths = [post.path.removeprefix("http://hc-ping.com") for post in web.posts]
    check = f"/{SECRET}/nightly"
    assert paths == [f"{check}/start?rid=7", f"{check}?rid=7", f"{check}/fail?rid=7"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("no-such.parquet",), 1, "no-such.parquet"),
        (("--limit", "many"), 2, "many"),
        (("--no-such-option",), 2, "--no-such-option"),
        (("--job-file", "no-such.toml"), 2, "no-such.toml"),
        ((), 2, ""),
    ],
)
def test_a_night_that_does_not_start_is_told(
    bei: Bei, web: WebServer, words: tuple[str, ...], code: int, said: str
) -> None:
    failed = bei("submit", *words, "--notify", f"http://{web.host}/hook", "--json")

    assert failed.code == code
    (post,) = web.posts
    assert post.body == {**failed.json, "event": "failed"}
    assert said in post.body["error"]


def test_a_job_file_with_a_wrong_key_is_told_to_its_own_url(
    bei: Bei, tmp_path: Path, web: WebServer
) -> None:
    file = tmp_path / "job.toml"
    file.write_text(f'inputs = ["x.parquet"]\nnotify = "http://{web.host}/hook"\nlimt = 3\n')

    failed = bei("submit", "--job-file", file, "--json")

    assert failed.code == 2
    (post,) = web.posts
    assert post.body == {**failed.json, "event": "failed"}
    assert "limt" in post.body["error"]


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["text", "json"])
def test_a_job_that_fails_is_told_once(
    submit: Bei, tmp_path: Path, web: WebServer, as_json: tuple[str, ...]
) -> None:
    corpus = write_parquet(tmp_path / "bad.parquet", 4, text=[None, None, None, None])

    failed = submit(corpus, "--notify", f"http://{web.host}/hook", *as_json)

    assert failed.code == 1
    assert web.events == ["start", "failed"]
    assert web.posts[-1].body["state"] == "failed"
    assert "--max-failed-rows" in web.posts[-1].body["reason"]


def test_a_server_in_trouble_is_tried_again(submit: Bei, corpus: Path, web: WebServer) -> None:
    web.answers = [503, 429, 200]

    done = submit(corpus, "--notify", f"http://{web.host}/hook")

    assert (done.code, done.err) == (0, "")
    assert web.events == ["start", "start", "start", "done"]


@pytest.fixture
def deaf() -> Iterator[str]:
    """The host and port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody() -> str:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("nobody", "Connection refused"),
        ("deaf", "no answer within"),
        ("refuses", "HTTP 404"),
        ("redirects", "HTTP 302, a redirect"),
    ],
)
def test_what_does_not_arrive_fails_no_job_and_tells_no_secret(
    submit: Bei,
    corpus: Path,
    tmp_path: Path,
    web: WebServer,
    deaf: str,
    nobody: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    problem: str,
) -> None:
    if kind == "deaf":  # an answer that comes may take its time
        monkeypatch.setattr("jobs.webhooks._LIMIT_SECONDS", 0.2)
    web.answers = [404, 404] if kind == "refuses" else [302, 302]
    host = {"nobody": nobody, "deaf": deaf}.get(kind, web.host)

    done = submit(corpus, "--notify", f"http://{host}/{SECRET}?key={SECRET}", "--json")

    assert done.code == 0
    lines = [record.getMessage() for record in caplog.records]
    assert [f"--notify: {host} did not take the event {e}: {problem}" in line
            for e, line in zip(("start", "done"), lines, strict=True)] == [True, True]  # fmt: skip
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert SECRET not in done.out + done.err + "".join(lines)
    assert not any(SECRET.encode() in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    "url", [f"ftp://host/{SECRET}", SECRET, f"https:///{SECRET}", f"https://host:port/{SECRET}",
            f"https://user:{SECRET}@host/hook", f"https://host/a\n{SECRET}"],
)  # fmt: skip
def test_what_is_no_url_is_refused_and_not_repeated(submit: Bei, corpus: Path, url: str) -> None:
    refused = submit(corpus, "--notify", url, "--json")

    assert refused.code == 2
    assert "--notify" in refused.json["error"]
    assert SECRET not in refused.out + refused.err


def test_a_job_that_is_left_to_a_fleet_says_that_its_end_is_not_posted(
    bei: Bei, corpus: Path, web: WebServer, redis_url: str
) -> None:
    words = ("--model", TINY, "--broker", redis_url, "--notify", f"http://{web.host}/hook")

    done = bei("submit", corpus, *words, "--json")

    assert done.code == 0
    assert web.events == ["start"]
    (warning,) = done.json["warnings"]
    assert "without --wait" in warning
    assert warning in done.err

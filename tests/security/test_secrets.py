"""No secret is printed, logged or stored, whatever goes wrong on the way."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import psutil
import pyarrow.parquet as pq
import pytest
import redis
from commandline import Bei, Outcome, spawn
from corpora import TINY, texts, write_parquet
from fixtures_accounts import MakeAccount
from fixtures_redis import RedisServer
from fleet import Fleet, until
from web_server import WebServer

from workers.messages import QUEUE

pytestmark = pytest.mark.integration

BROKER_PASSWORD = "broker/password+of@the-fleet"
SECRETS = {
    "the broker's password": BROKER_PASSWORD,
    "a wrong password of the broker": "broker/password-mistyped",
    "AWS_SECRET_ACCESS_KEY": "secret/access+key/that/must+never/be/seen",
    "AWS_SESSION_TOKEN": "session/token+that-must-never-be-seen==",
    "HF_TOKEN": "hf_tokenThatMustNeverBeSeenAnywhere",
    "a password in a URI": "password-in-a-uri",
    "a signature in a URI": "signature-in-a-uri",
}


@pytest.fixture
def store(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An S3 API and a hub's address, with secrets in the environment as users have them."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRETS[name])
    monkeypatch.setenv("HF_ENDPOINT", s3.endpoint)  # a hub that answers, and has no models
    return s3


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    server = redis_server()
    protect(server)
    return server


def protect(server: RedisServer) -> None:
    server.client().config_set("requirepass", BROKER_PASSWORD)


def url_of(server: RedisServer, password: str) -> str:
    return f"redis://:{quote(password, safe='')}@127.0.0.1:{server.port}/0"


class Recorder:
    """Types commands, and keeps all that they print."""

    def __init__(self, bei: Bei) -> None:
        self._bei = bei
        self.printed: list[str] = []

    def __call__(self, *words: object, code: int | None) -> Outcome:
        done = self._bei(*words)
        self.printed += [done.out, done.err]
        assert code in (done.code, None), (words, done)
        return done


def test_no_secret_is_printed_or_stored(
    store: Any,
    server: RedisServer,
    bei: Bei,
    start_fleet: Callable[[str], Fleet],
    tmp_path: Path,
) -> None:
    record, url = Recorder(bei), url_of(server, BROKER_PASSWORD)
    bucket = f"s3://{store.make_bucket()}"
    fleet = start_fleet(url)
    submit_what_fails(record, server, store, bucket, tmp_path)
    corpus = write_parquet(tmp_path / "corpus.parquet", 40, text=[None, *texts(39)])
    lost = write_parquet(tmp_path / "lost.parquet", 40)
    job = ("submit", "--model", TINY, "--broker", url, "--json", "--max-failed-rows", "5")
    out, failing = f"{bucket}/out", f"{bucket}/failing"
    upload(store, corpus, f"{bucket}/corpus.parquet")
    record(*job, f"{bucket}/corpus.parquet", "--output", out, code=0)
    record(*job, lost, "--output", failing, code=0)
    lost.unlink()
    found = {"Redis while jobs wait": everything_in(server)}
    assert f"{QUEUE}'" in found["Redis while jobs wait"]

    worker = fleet.start(BEI_JOBS_PATIENCE_SECONDS="2")
    until(lambda: bei("status", out, "--json").json["state"] == "done", "the job")
    until(lambda: bei("status", failing, "--json").json["state"] == "failed", "the failure")
    server.kill()
    until(lambda: "onnect to redis" in worker.log, "the worker to notice")
    server.start()
    protect(server)
    until(lambda: worker.log.count("Connected to redis") == 2, "the worker to connect again")
    use_every_command(record, url, out, failing)
    assert worker.terminate() == 0

    found |= {
        "what commands print": "\n".join(record.printed),
        "the worker's log": worker.log,
        "Redis afterwards": everything_in(server),
        "the bucket": everything_in_bucket(
            boto3.client("s3", endpoint_url=store.endpoint), bucket.removeprefix("s3://")
        ),
        "this machine's files": "".join(everything_below(tmp_path)),
    }
    assert [(name, place) for place in found for name in seen(found[place])] == []


def test_no_secret_of_a_stores_file_is_printed_or_stored(
    make_account: MakeAccount,
    stores_file: Callable[..., Path],
    server: RedisServer,
    bei: Bei,
    start_fleet: Callable[[str], Fleet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fleet reads from one account and writes to another; its worker has a file of its own."""
    source, target = make_account("source"), make_account("target")
    record, url = Recorder(bei), url_of(server, BROKER_PASSWORD)
    monkeypatch.setenv("TARGET_SECRET", target.secret)
    ours = stores_file(source.section(), target.section(secret=None, secret_env="TARGET_SECRET"))
    wrong, theirs = tmp_path / "wrong.toml", tmp_path / "theirs.toml"
    wrong.write_text(source.section() + target.section(secret=source.secret, key=source.key))
    theirs.write_text(ours.read_text())
    for file in (wrong, theirs):
        file.chmod(0o600)
    uri = source.upload(write_parquet(tmp_path / "corpus.parquet", 40), "corpus.parquet")
    out = f"s3://{target.bucket}/out"
    job = ("submit", "--model", TINY, "--broker", url, "--json", uri, "--output")
    record(*job, out, "--stores", wrong, code=1)
    record(*job, out, "--stores", ours, code=0)
    found = {"Redis while jobs wait": everything_in(server)}

    fleet = start_fleet(url)
    worker = fleet.start(BEI_JOBS_STORES=str(theirs))
    stores = ("--stores", ours)
    until(lambda: bei("status", out, *stores, "--json").json["state"] == "done", "the job")
    family = [
        worker.process.pid,
        *(p.pid for p in psutil.Process(worker.process.pid).children(True)),
    ]
    found["ps"] = str([psutil.Process(pid).cmdline() for pid in family])
    assert len(family) > 3
    for command in ("verify", "files", "status", "watch", "retry"):
        broker = ("--broker", url) if command not in ("verify", "files") else ()
        record(command, out, *stores, *broker, code=0)
    record("list", *stores, "--broker", url, "--json", code=0)
    assert worker.terminate() == 0

    files = "".join(each for each in everything_below(tmp_path) if "endpoint_url" not in each)
    found |= {
        "what commands print": "\n".join(record.printed),
        "the worker's log": worker.log,
        "Redis afterwards": everything_in(server),
        "the bucket": everything_in_bucket(target.client, target.bucket),
        "this machine's files": files,
    }
    hidden = [e for a in (source, target) for e in (a.key, a.secret, a.endpoint)]
    assert [(each, place) for place in found for each in hidden if each in found[place]] == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@host:6379/0",
        "redis://:hunter2#x@host:6379/0",
        "redis://:hunter2?x@host:6379/0",
        "redis://:x/hunter2@host:6379/0",
        "redis://:x#hunter2@host:6379/0",
        "redis://:x?hunter2@host:6379/0",
        "redis://:7/hunter2@host:6379/0",
        "redis://:x[hunter2@host:6379/0",
        "redis:/:hunter2@host:6379/0",
        "http://:x?hunter2@host:6379/0",
    ],
)
def test_a_password_that_is_not_quoted_is_refused_and_not_shown(
    bei: Bei, web: WebServer, tmp_path: Path, url: str
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 4)
    refused = bei("list", "--broker", url)
    assert refused.code == 2
    assert "is not the URL of a Redis" in refused.screen[0]
    assert ("shown without its password" in refused.screen[0]) == (
        "redis://" in url or "rediss://" in url
    )
    notify = ("--json", "--notify", f"http://{web.host}/hook")
    submitted = bei("submit", corpus, "--model", TINY, "--broker", url, *notify)
    assert submitted.code == 2, submitted
    assert web.events[-1] == "failed"
    told = [refused, submitted, *(post.body for post in web.posts)]
    assert "hunter2" not in str(told)
    if url.startswith("redis://"):
        assert "%2F" in refused.screen[1]


def submit_what_fails(
    record: Recorder, server: RedisServer, store: Any, bucket: str, tmp_path: Path
) -> None:
    """Mistakes that name a secret or are close to one."""
    corpus = write_parquet(tmp_path / "corpus.parquet")
    wrong = url_of(server, SECRETS["a wrong password of the broker"])
    submit = ("submit", corpus, "--output", tmp_path / "never", "--json")
    record(*submit, "--model", TINY, "--broker", wrong, code=1)
    record("worker", "--broker", wrong, "--device", "cpu", "--verbose", code=1)
    record("submit", "s3://no-such-bucket/x.parquet", "--output", f"{bucket}/never", code=1)
    record(*submit, "--model", f"{bucket}/no-such-model", code=1)
    password, signature = SECRETS["a password in a URI"], SECRETS["a signature in a URI"]
    for uri in (
        f"ftp://user:{password}@127.0.0.1:1/out",
        f"https://127.0.0.1:1/x.parquet?X-Amz-Signature={signature}",
    ):
        record("submit", uri, "--output", tmp_path / "never", "--model", TINY, code=2)
        record(*submit, "--model", uri, code=2)
        record("models", uri, code=1)
        for name in ("status", "files", "verify", "cancel", "retry"):
            record(name, uri, "--json", code=2)
    hub = spawn(*submit, "--model", "somebody/private")
    printed = hub.communicate(timeout=60)
    assert hub.returncode == 1, printed
    assert any("somebody/private" in path for _, path in store.requests)  # asked with HF_TOKEN
    record.printed += printed


def use_every_command(record: Recorder, url: str, out: str, failing: str) -> None:
    for json_or_not in ((), ("--json",)):
        record("list", "--broker", url, *json_or_not, code=0)
        record("verify", out, *json_or_not, code=0)
        record("files", out, *json_or_not, code=0)
        record("cancel", failing, "--broker", url, *json_or_not, code=None)  # its state changes
        record("status", out, "--broker", url, *json_or_not, code=3)
        record("watch", out, "--broker", url, "--quiet", *json_or_not, code=3)
        record("retry", failing, "--broker", url, *json_or_not, code=None)


def upload(store: Any, file: Path, uri: str) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=store.endpoint)
    client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())


def seen(text: str) -> list[str]:
    """The secrets in a text, as they are or as a URL spells them."""
    spellings = {name: {secret, quote(secret, safe="")} for name, secret in SECRETS.items()}
    return [name for name, forms in spellings.items() if any(form in text for form in forms)]


def everything_in(server: RedisServer) -> str:
    """Every key and value."""
    client = redis.Redis(port=server.port, password=BROKER_PASSWORD)
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda key: [decoded(text) for text in client.lrange(key, 0, -1)],
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    return str([(key, readers[client.type(key)](key)) for key in client.scan_iter()])


def decoded(message: bytes) -> list[object]:
    return [message, b64decode(json.loads(message)["body"])]


def everything_in_bucket(client: Any, bucket: str) -> str:
    """Every name and all bytes."""
    names = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert "out/_bei/runs/1/manifest.json" in names
    bodies = [client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names]
    return "".join([*names, *map(readable, bodies)])


def everything_below(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder))
        yield readable(path.read_bytes()) if path.is_file() else ""


def readable(data: bytes) -> str:
    """The bytes, and what Parquet has compressed in them, a plan's table of files included."""
    text = data.decode("latin1")
    if data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        nested = (table.schema.metadata or {}).values()
        text += str(table.to_pylist()) + "".join(map(readable, nested))
    return text

"""The Redis user that docs/operations.md shows, over TLS: enough for a fleet, and no more."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from commandline import Bei
from corpora import ROOT, TINY, write_parquet
from fleet import Fleet, until
from kombu.exceptions import OperationalError
from tls_redis import TlsRedis, make_certificates

from workers.broker import Broker
from workers.celery_app import make_app
from workers.messages import QUEUE
from workers.step_back import Refusal

pytestmark = pytest.mark.integration

USER, PASSWORD = "bei-jobs", "correct-horse"
# What the test itself types beside the fleet.
ADMIN = {"acl|setuser", "acl|log", "config|resetstat", "info"}
# Every connection may send these, whatever its user.
ANYONE = {"hello", "auth"}
# How clients introduce themselves to Redis 7.2 and later; they ignore a refusal.
INTRODUCTION = "client|"
# Sent only where restoring a message fails after WATCH.
RARE = {"unwatch"}


def documented_line() -> list[str]:
    """`ACL SETUSER …` as the page shows it, as the words of a command."""
    page = (ROOT / "docs" / "operations.md").read_text()
    (line,) = re.findall(rf"^redis-cli (ACL SETUSER {USER} (?:.*\\\n)*.*)$", page, re.MULTILINE)
    assert line.count(">PASSWORD") == 1
    return shlex.split(line.replace("\\\n", "").replace("PASSWORD", PASSWORD))


def listed_commands() -> set[str]:
    return {word[1:] for word in documented_line() if word.startswith("+")}


@pytest.fixture
def admin(tls_redis: TlsRedis) -> redis.Redis:
    """The default user on the plain port, after it made the fleet's user."""
    client = tls_redis.server.client()
    client.execute_command(*documented_line())
    return client


@pytest.fixture
def url(tls_redis: TlsRedis, admin: redis.Redis) -> str:
    return tls_redis.url(USER, PASSWORD)


def used_commands(admin: redis.Redis) -> set[str]:
    names = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
    introductions = {name for name in names if name.startswith(INTRODUCTION)}
    return names - introductions - ADMIN - ANYONE | RARE


def denied(admin: redis.Redis) -> list[str]:
    """The commands, keys and users that the server refused."""
    refused = [entry["object"] for entry in admin.acl_log()]
    return [name for name in refused if not name.startswith(INTRODUCTION)]


def test_the_user_can_do_all_that_a_fleet_does_with_every_command_and_no_other(
    admin: redis.Redis, url: str, start_fleet: Callable[[str], Fleet], tmp_path: Path
) -> None:
    admin.config_resetstat()
    fleet, output = start_fleet(url), tmp_path / "out"
    corpus = write_parquet(tmp_path / "corpus.parquet", 6000, row_group=2000)
    broker = ("--broker", url)
    worker = fleet.start()
    job = fleet.submit(corpus, "--output", output, "--rows-per-shard", 2000)
    until(lambda: fleet.leases(job), "a span under way")
    assert worker.terminate() == 0  # returns the span to the queue
    fleet.redis.lpush(QUEUE, "not a message")
    Broker(url).refuse(job, refusal := Refusal("gone", 1, "cpu", "no disk", "", 1.0, final=True))
    Broker(url).take_back_refusal(job, refusal)
    restore_a_message_that_was_never_acknowledged(fleet.redis, url)
    for words in (("status", job), ("list",), ("cancel", job), ("retry", job)):
        done = fleet.bei(*words, *broker)
        assert done.code == 0, (words, done.err)
    fleet.start()
    fleet.finish(output)
    watched = fleet.bei("watch", job, *broker, "--quiet")
    assert watched.code == 0, watched.err + fleet.logs()
    fleet.check(output, 6000)
    assert denied(admin) == []
    assert used_commands(admin) == listed_commands()


def restore_a_message_that_was_never_acknowledged(client: redis.Redis, url: str) -> None:
    """What a worker does with the message of another that died long ago."""
    (text,) = client.lrange(QUEUE, -1, -1)
    tag = "tag-of-a-dead-worker"
    client.hset("unacked", tag, json.dumps([json.loads(text), "", QUEUE]))
    client.zadd("unacked_index", {tag: 0})
    waiting = client.llen(QUEUE)
    with make_app(url).connection_for_read() as connection:
        connection.default_channel.qos.restore_visible()
    assert client.llen(QUEUE) == waiting + 1


@pytest.mark.parametrize(
    "words",
    [
        "FLUSHALL", "FLUSHDB", "CONFIG GET requirepass", "KEYS *", "EVAL return(1) 0", "SHUTDOWN",
        "ACL LIST", "PUBLISH bei-jobs x", "MONITOR", "GET other", "DEL other",
        "SET other:bei:jobs x",
    ],
)  # fmt: skip
def test_the_user_can_do_nothing_else(url: str, words: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        redis.Redis.from_url(url).execute_command(*words.split())


def test_a_user_that_lacks_a_command_is_told_and_not_shown_a_trace(
    admin: redis.Redis, url: str, bei: Bei, tmp_path: Path
) -> None:
    admin.execute_command("ACL", "SETUSER", USER, "-hset")
    corpus = write_parquet(tmp_path / "corpus.parquet")
    done = bei("submit", corpus, "--model", TINY, "--broker", url)
    assert done.code == 1
    assert "refused a command" in done.err
    assert "hset" in done.err
    assert "check the user's permissions" in done.screen[-1]
    assert denied(admin) == ["hset"]
    assert PASSWORD not in done.out + done.err


def test_a_server_is_refused_unless_a_trusted_authority_vouches_for_its_name(
    tls_redis: TlsRedis, admin: redis.Redis, bei: Bei, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger, *_ = make_certificates(tmp_path / "other")
    url = tls_redis.url(USER, PASSWORD)
    for refused in (
        tls_redis.url(USER, PASSWORD, stranger),
        url.partition("?")[0],
        url.replace("127.0.0.1", "localhost"),
    ):
        done = bei("list", "--broker", refused)
        assert done.code == 1
        assert "CERTIFICATE_VERIFY_FAILED" in done.screen[0]
        assert PASSWORD not in done.err
        with (  # Celery's own client
            make_app(refused).connection_for_write() as connection,
            pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            connection.ensure_connection(max_retries=1, interval_start=0)

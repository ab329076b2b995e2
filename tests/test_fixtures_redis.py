"""The queue's tests lean on this server doing what it says when it is killed or frozen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from fixtures_redis import RedisServer, require_redis

pytestmark = pytest.mark.integration

Start = Callable[..., RedisServer]


def test_a_test_finds_the_shared_server_empty(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    assert client.dbsize() == 0
    client.set("left", "behind")


def test_the_next_test_finds_it_empty_too(redis_url: str) -> None:
    assert redis.Redis.from_url(redis_url).dbsize() == 0


def test_a_restart_without_aof_loses_everything_and_keeps_the_url(redis_server: Start) -> None:
    server = redis_server()
    before = server.url
    server.client().set("a", "1")
    server.restart()
    assert (server.url, server.client().get("a")) == (before, None)


def test_a_clean_restart_with_aof_keeps_everything(redis_server: Start) -> None:
    server = redis_server(aof=True)
    server.client().set("a", "1")
    server.stop()
    server.start()
    assert server.client().get("a") == b"1"


def test_a_frozen_server_holds_the_connection_and_does_not_answer(redis_server: Start) -> None:
    server = redis_server()
    client = redis.Redis(port=server.port, socket_timeout=0.2, retry=None)
    client.ping()
    server.freeze()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    server.thaw()
    assert client.ping()


def test_a_missing_server_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="redis-server"):
        require_redis()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="redis-server"):
        require_redis()

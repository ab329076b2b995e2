"""Redis dies, freezes, forgets, fills up, locks its users out, fails over."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from commandline import typed
from faults.case import Case, Job
from faults.failover import FailingOver
from fixtures_redis import RedisServer
from fleet import until
from redis import ResponseError

pytestmark = [pytest.mark.integration, pytest.mark.kind("redis")]

Fault = Callable[[RedisServer], None]

SHORT_S, LONG_S, FROZEN_S = 2.0, 12.0, 15.0


def killed(server: RedisServer, seconds: float) -> None:
    server.kill()
    time.sleep(seconds)  # the outage itself
    server.start()


def frozen(server: RedisServer, seconds: float) -> None:
    server.freeze()
    time.sleep(seconds)
    server.thaw()


def killed_for_a_moment(server: RedisServer) -> None:
    killed(server, SHORT_S)


def killed_for_long(server: RedisServer) -> None:
    killed(server, LONG_S)


def killed_three_times(server: RedisServer) -> None:
    for _ in range(3):
        killed(server, 0.5)
        time.sleep(0.5)


def frozen_for_a_moment(server: RedisServer) -> None:
    frozen(server, SHORT_S)


def frozen_beyond_every_timeout(server: RedisServer) -> None:
    frozen(server, FROZEN_S)


def flushed(server: RedisServer) -> None:
    server.client().flushall()


def flushed_again_and_again(server: RedisServer) -> None:
    for _ in range(20):
        flushed(server)
        time.sleep(0.1)


def clients_killed(server: RedisServer) -> None:
    """A storm of CLIENT KILL: every connection, thirty times."""
    client = server.client()
    for _ in range(30):
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        time.sleep(0.05)


def full(server: RedisServer) -> None:
    """No write is accepted for a while."""
    client = server.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    with pytest.raises(ResponseError, match="maxmemory"):
        client.set("one", "more")
    time.sleep(SHORT_S)
    client.config_set("maxmemory", "0")


def locked(server: RedisServer) -> None:
    """A password appears, and goes away again."""
    client = server.client()
    client.config_set("requirepass", "secret")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    time.sleep(SHORT_S)
    client.config_set("requirepass", "")


def read_only(server: RedisServer) -> None:
    """It became a replica of nobody, as after a failover that went wrong."""
    client = server.client()
    client.replicaof("127.0.0.1", "1")
    time.sleep(SHORT_S)
    client.replicaof("NO", "ONE")


def quick(fault: Fault) -> object:
    return pytest.param(fault, marks=pytest.mark.quick)


FAULTS = [
    quick(killed_for_a_moment),
    killed_for_long,
    killed_three_times,
    frozen_for_a_moment,
    frozen_beyond_every_timeout,
    quick(flushed),
    flushed_again_and_again,
    quick(clients_killed),
    quick(full),
    quick(locked),
    read_only,
]


def struck_in_the_middle(case: Case, strike: Callable[[], None]) -> Job:
    """A job whose worker goes on with its shard while `strike` runs."""
    paused = case.pause_at("mid-shard")
    machine = case.start(**paused.environment)
    job = case.submit()
    paused.reached()
    until(machine.remembers, "the worker to know the job")
    paused.release_during()
    strike()
    case.struck()
    return job


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.replace("_", " "))
def test_redis(case: Case, fault: Fault) -> None:
    job = struck_in_the_middle(case, lambda: fault(case.server))
    case.finish(job)
    case.check()


@pytest.mark.parametrize("seconds", [pytest.param(0.0, marks=pytest.mark.quick), 10.0])
def test_redis_keeps_its_log_and_is_killed(
    case: Case, redis_server: Callable[..., RedisServer], seconds: float
) -> None:
    case.server = redis_server("--appendfsync", "everysec", aof=True)
    job = struck_in_the_middle(case, lambda: killed(case.server, seconds))
    case.finish(job)
    case.check()


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "at work"])
def test_redis_over_a_half_open_link(case: Case, idle: bool) -> None:
    """The connections never answer again and never end; new ones work."""
    proxy = case.proxy()
    paused = case.pause_at("mid-shard")
    machine = case.start(proxy.redis_url, **({} if idle else paused.environment))
    machine.ready()
    if idle:
        proxy.half_open()
        job = case.submit()
    else:
        job = case.submit()
        paused.reached()
        proxy.half_open()
        paused.release()
    case.struck()
    case.finish(job)
    case.check()


def test_redis_promotes_a_replica_that_lost_the_tail(
    case: Case, redis_server: Callable[..., RedisServer]
) -> None:
    """Jobs that were submitted after the replica fell behind are not in it."""
    pair = FailingOver(case.server, redis_server(), case.proxy())
    paused = case.pause_at("mid-shard")
    machine = case.start(pair.url, **paused.environment)
    first = case.submit(url=pair.url)
    paused.reached()
    pair.fall_behind()
    second = case.submit(case.corpus("late", seed=1), url=pair.url)
    until(lambda: machine.remembers() == 2, "the worker to know both jobs")
    pair.fail_over()
    paused.release()
    case.server = pair.replica
    case.struck()
    case.finish(first)
    case.finish(second)
    case.check()


@pytest.mark.quick
def test_redis_is_away_when_a_job_is_submitted(case: Case) -> None:
    """It fails loudly, and the same command submits it later."""
    corpus, output = case.corpus(), case.root / "outputs" / "corpus"
    case.server.kill()
    done = typed(*case.words(corpus, output), "--broker", case.server.url, "--no-wait", "--json")
    assert done.code == 1
    assert "cannot be reached" in done.err
    assert "Traceback" not in done.err
    case.server.start()
    case.start()
    case.struck()
    case.finish(case.submit(corpus, output))
    case.check()

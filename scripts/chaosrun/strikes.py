"""The faults of the soak. Each lasts a while, repairs what it broke, and returns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psutil
import redis
from chaosrun.world import Site, World

from pipeline.errors import BrokerError
from workers.messages import QUEUE, RUN_SPAN

Strike = Callable[[World, random.Random], None]

_GARBAGE = [b"\xff\xfe", b"{}", b"[1]", b"null", b'{"headers": 1, "body": "!"}', b"[" * 5000]
_LIES: list[dict[str, object]] = [
    {},
    {"v": 1},
    {"v": "1", "job": "x"},
    {"v": 1, "job": "0" * 12, "output": "/nonexistent", "n": 1, "start": 0, "count": 1},
    {"v": 1, "job": "0" * 12, "output": "/", "n": 10**9, "start": -1, "count": 10**12},
    {"v": 1, "job": "../..", "output": "\0", "n": 0, "start": 0, "count": 0},
]


def _site(world: World, rng: random.Random) -> Site:
    return rng.choice(world.sites)


def _process(world: World, rng: random.Random) -> psutil.Process | None:
    """Any process of any worker."""
    left = _site(world, rng).worker.left()
    return rng.choice(sorted(left, key=lambda process: process.pid)) if left else None


def _some(choices: Sequence[Any], rng: random.Random) -> list[Any]:
    return rng.sample(choices, rng.randint(1, len(choices)))


def kill_a_process(world: World, rng: random.Random) -> None:
    if process := _process(world, rng):
        with suppress(psutil.Error):
            process.kill()


def kill_a_machine(world: World, rng: random.Random) -> None:
    for process in _site(world, rng).worker.left():
        with suppress(psutil.Error):
            process.kill()


def stop_a_worker(world: World, rng: random.Random) -> None:
    """SIGTERM, sometimes twice; it is started again when it has ended."""
    process = _site(world, rng).worker.process
    for _ in range(rng.choice((1, 1, 2))):
        process.terminate()
        time.sleep(rng.uniform(0, 1))


def freeze_a_process(world: World, rng: random.Random) -> None:
    if process := _process(world, rng):
        with suppress(psutil.Error):
            process.suspend()
        time.sleep(rng.uniform(0.3, 5))
        with suppress(psutil.Error):
            process.resume()


def kill_redis(world: World, rng: random.Random) -> None:
    world.server.kill()
    time.sleep(rng.uniform(0.2, 6))
    world.server.start()


def freeze_redis(world: World, rng: random.Random) -> None:
    world.server.freeze()
    time.sleep(rng.choice((0.5, 1, 3, 11)))
    world.server.thaw()


def flush_redis(world: World, rng: random.Random) -> None:
    world.server.client().flushall()


def kill_clients(world: World, rng: random.Random) -> None:
    client = world.server.client()
    for _ in range(rng.randint(1, 20)):
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        time.sleep(0.05)


def fill_redis(world: World, rng: random.Random) -> None:
    client = world.server.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    time.sleep(rng.uniform(0.5, 3))
    client.config_set("maxmemory", "0")


def lock_redis(world: World, rng: random.Random) -> None:
    client = world.server.client()
    client.config_set("requirepass", "secret")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    time.sleep(rng.uniform(0.5, 3))
    client.config_set("requirepass", "")


def cut_a_network(world: World, rng: random.Random) -> None:
    proxy = _site(world, rng).proxy
    rng.choice((proxy.cut, proxy.black_hole, proxy.half_open))()
    time.sleep(rng.uniform(0.3, 5))
    proxy.heal()


def slow_a_network(world: World, rng: random.Random) -> None:
    proxy = _site(world, rng).proxy
    proxy.latency = rng.uniform(0.02, 0.3)
    time.sleep(rng.uniform(1, 4))
    proxy.heal()


def push_garbage(world: World, rng: random.Random) -> None:
    world.server.client().lpush(QUEUE, *_some(_GARBAGE, rng))


def forge_messages(world: World, rng: random.Random) -> None:
    from workers.celery_app import make_app, send

    send(make_app(world.server.url), RUN_SPAN, _some(_LIES, rng), QUEUE)


#: Fault → how often, beside the others.
STRIKES: dict[Strike, int] = {
    kill_a_process: 6,
    kill_a_machine: 2,
    stop_a_worker: 3,
    freeze_a_process: 4,
    kill_redis: 2,
    freeze_redis: 2,
    flush_redis: 3,
    kill_clients: 3,
    fill_redis: 2,
    lock_redis: 2,
    cut_a_network: 4,
    slow_a_network: 2,
    push_garbage: 1,
    forge_messages: 2,
}


def strike(world: World, rng: random.Random) -> str:
    """One random fault; its name."""
    (chosen,) = rng.choices(list(STRIKES), weights=list(STRIKES.values()))
    with suppress(redis.RedisError, BrokerError):  # an earlier fault still keeps Redis away
        chosen(world, rng)
    return chosen.__name__.replace("_", " ")

"""Others can write to Redis too: jobs finish all the same, and no worker is restarted for it."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from corpora import write_parquet
from fleet import Fleet, until

from pipeline.output.output import find_run
from workers.messages import MESSAGE_VERSION, QUEUE, RUN_SPAN

pytestmark = pytest.mark.integration

SHARD = 400
SHARDS = 6
OURS = ("bei:open", "bei:jobs", QUEUE)


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def envelope(kwargs: Any, headers: Any = (), properties: Any = (), **changes: Any) -> str:
    """A message as Celery sends it, but for the changes."""
    sound = {
        "body": encoded([[], kwargs, {}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": RUN_SPAN, "id": "x", **dict(headers)},
        "properties": {
            "delivery_tag": "x",
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            **dict(properties),
        },
    }
    return json.dumps({**sound, **changes})


def forged(sound: dict[str, Any]) -> list[bytes | str]:
    """Messages that bei-jobs does not send, around the sound arguments of one."""
    far = "2999-01-01T00:00:00+00:00"
    marked = {"v": MESSAGE_VERSION + 1, "x": {"__type__": "datetime", "__value__": 5}}
    return [
        b"\xff\xfe not JSON", "{}", "[1, 2]", '"text"', "null", "[" * 60_000, "x" * 10_000_000,
        '{"__type__": "decimal", "__value__": "x"}',
        *(
            envelope({**sound, **change})
            for change in (
                {"count": 10**9}, {"start": -1}, {"start": 10**400}, {"n": True}, {"n": "../x"},
                {"output": "/tmp/a\0b"}, {"output": 5}, {"job": "../../etc"}, {"v": 10**300},
                {"output": "/dev/null"},
            )
        ),
        envelope(marked), envelope(None), envelope([]),
        envelope(sound, properties={"delivery_tag": None}), envelope(sound, properties=()),
        json.dumps({"body": encoded([[], sound, {}]), "headers": {"task": RUN_SPAN}}),
        envelope(sound, properties={"delivery_info": {"exchange": "x", "routing_key": "bei:open"}}),
        envelope(sound, properties={"body_encoding": "rot13"}),
        envelope(sound, properties={"reply_to": "x", "priority": "high"}),
        envelope(sound, body="not base64"), envelope(sound, body=None), envelope(sound, body=7),
        envelope(sound, body=base64.b64encode(zlib.compress(b"[[], {}, {}]")).decode()),
        envelope(sound, headers={"compression": "application/x-gzip"}),
        envelope(sound, headers={"eta": far}), envelope(sound, headers={"eta": "soon"}),
        envelope(sound, headers={"expires": "2000-01-01T00:00:00"}),
        envelope(sound, headers={"timelimit": [0.1, "x"]}), envelope(sound, headers={"id": None}),
        envelope(sound, headers={"task": "celery.backend_cleanup"}),
        envelope(sound, **{"content-type": "application/x-python-serialize"}),
        envelope(sound, **{"content-encoding": "rot13"}),
        envelope(sound, body=encoded([[], sound, {"chord": {"x": 1}, "callbacks": [5]}])),
        envelope(sound, body=encoded([["extra"], sound, None])),
        envelope(sound, body=encoded({"args": 1})),
    ]  # fmt: skip


def test_jobs_finish_among_forged_messages_and_overwritten_keys(
    fleet: Fleet, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    corpus = write_parquet(tmp_path / "corpus.parquet", SHARDS * SHARD, row_group=SHARD)
    worker = fleet.start()
    worker.child()
    job = fleet.submit(corpus, "--output", output, "--rows-per-shard", SHARD)
    sound = {
        "v": MESSAGE_VERSION, "job": job, "output": str(output), "n": find_run(str(output))[1].n,
        "start": 0, "count": 1,
    }  # fmt: skip
    over = threading.Event()
    forger = threading.Thread(target=forge, args=(fleet, forged(sound), over))
    forger.start()
    try:
        fleet.finish(output)
    finally:
        over.set()
        forger.join()
    fleet.check(output, SHARDS * SHARD)

    client, other = fleet.redis, tmp_path / "other"
    for key in OURS:
        client.set(key, "x")
    until(lambda: not client.exists(*OURS), "the worker to delete them")
    fleet.submit(corpus, "--output", other, "--rows-per-shard", SHARD)
    for key in (*OURS, "unacked", "unacked_index"):
        client.set(key, "x")
    fleet.finish(other)
    fleet.check(other, SHARDS * SHARD)
    assert worker.log.count("it was not sent by bei-jobs") >= 20
    assert "the consumer ended" not in worker.log
    assert "Traceback" not in worker.log


def forge(fleet: Fleet, messages: list[bytes | str], over: threading.Event) -> None:
    """Send every message once, then one after the other until told to stop."""
    client = fleet.redis
    client.lpush(QUEUE, *messages)
    for message in itertools.cycle(messages):
        if over.wait(0.1):
            return
        client.rpush(QUEUE, message)  # ahead of all others

"""What the consumer does with values that others wrote under kombu's own keys."""

from __future__ import annotations

import json
import logging

import pytest
import redis
from kombu.transport.redis import Transport

from workers.celery_app import make_app, send
from workers.messages import QUEUE, RUN_SPAN
from workers.queue_channel import QueueChannel

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "noted",
    ["garbage", "null", "5", "[]", "[1]", '["x", "", "q"]', '[{}, "no such exchange", "x"]'],
)
def test_a_delivery_that_cannot_be_returned_keeps_no_other_back(
    redis_url: str,
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    noted: str,
) -> None:
    monkeypatch.setattr(Transport, "Channel", QueueChannel)
    app = make_app(redis_url)
    send(app, RUN_SPAN, [{"v": 1}], QUEUE)
    message = json.loads(raw.rpop(QUEUE))
    raw.hset("unacked", mapping={"forged": noted, "sound": json.dumps([message, "", QUEUE])})
    raw.zadd("unacked_index", {"forged": 2, "sound": 1})  # both taken long ago

    with app.connection_for_read() as connection, caplog.at_level(logging.ERROR):
        connection.default_channel.qos.restore_visible(interval=1, num=None)
    assert raw.llen(QUEUE) == 1
    assert raw.zcard("unacked_index") == raw.hlen("unacked") == 0


def test_a_value_of_a_wrong_type_is_deleted_when_a_consumer_connects(
    redis_url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transport, "Channel", QueueChannel)
    for key in (QUEUE, "unacked", "unacked_index", "of another program"):
        raw.set(key, "x")
    with make_app(redis_url).connection_for_read() as connection:
        connection.default_channel.client.ping()
    assert raw.keys() == ["of another program"]

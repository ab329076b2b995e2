"""Messages in the queue."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.output.plan import Span
from workers.messages import MESSAGE_VERSION, QUEUE, Message, NewerMessage, queue_of, read_message

MESSAGE = Message("0123456789ab", "s3://bucket/out", 3, 128, 64)


def test_a_message_survives_json() -> None:
    again = read_message(json.loads(json.dumps(MESSAGE.to_kwargs())))
    assert again == MESSAGE
    assert again.span == Span(128, 64)


def test_a_newer_message_is_distinguished_from_a_broken_one() -> None:
    with pytest.raises(NewerMessage) as caught:
        read_message({"v": MESSAGE_VERSION + 1, "all": "different"})
    assert queue_of(caught.value.version) != QUEUE
    assert queue_of(MESSAGE_VERSION) == QUEUE


@pytest.mark.parametrize(
    "change", [{"v": None}, {"v": "1"}, {"n": "3"}, {"output": None}, {"start": 1.5}]
)
def test_a_broken_message_names_what_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)).replace("v", "version")):
        read_message({**MESSAGE.to_kwargs(), **change})


def test_a_field_that_we_do_not_know_is_no_reason_to_refuse() -> None:
    assert read_message({**MESSAGE.to_kwargs(), "note": "from a later patch"}) == MESSAGE

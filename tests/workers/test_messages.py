"""Messages in the queue."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.plan import Span
from pipeline.output.run import job_id
from workers.messages import (
    MESSAGE_VERSION,
    QUEUE,
    RUN_SPAN,
    Message,
    NewerMessage,
    queue_of,
    read_message,
    read_task,
)

MESSAGE = Message(job_id("s3://bucket/out", 3), "s3://bucket/out", 3, 128, 64)


def test_a_message_survives_json() -> None:
    again = read_message(json.loads(json.dumps(MESSAGE.to_kwargs())))
    assert again == MESSAGE
    assert again.span == Span(128, 64)


def test_a_newer_message_is_distinguished_from_a_broken_one() -> None:
    with pytest.raises(NewerMessage) as caught:
        read_message({"v": MESSAGE_VERSION + 1, "all": "different"})
    assert queue_of(1, caught.value.version) != QUEUE
    assert queue_of(1) == QUEUE


@pytest.mark.parametrize(
    "change",
    [
        {"v": None}, {"v": "1"}, {"v": True}, {"v": 0}, {"v": 10**400}, {"n": "3"}, {"n": "../x"},
        {"n": True}, {"n": 0}, {"n": 10**10}, {"output": None}, {"output": 5}, {"output": ""},
        {"output": "/tmp/a\0b"}, {"output": "\ud800"}, {"output": "x" * 9000},
        {"start": 1.5}, {"start": -1}, {"start": 10**400},
        {"start": False}, {"count": -1}, {"count": 10**9}, {"count": None}, {"job": "0123456789ab"},
        {"job": "../../x"}, {"job": None},
    ],
)  # fmt: skip
def test_a_broken_message_names_what_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)).replace("v", "version")):
        read_message({**MESSAGE.to_kwargs(), **change})


@pytest.mark.parametrize("change", [{"output": "s3://bucket/another"}, {"n": 4}])
def test_a_job_id_must_be_that_of_its_run(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="job"):
        read_message({**MESSAGE.to_kwargs(), **change})


def test_a_field_that_we_do_not_know_is_no_reason_to_refuse() -> None:
    assert read_message({**MESSAGE.to_kwargs(), "note": "from a later patch"}) == MESSAGE


def envelope(kwargs: Any, **changes: Any) -> bytes:
    body = base64.b64encode(json.dumps([[], kwargs, {}]).encode()).decode()
    return json.dumps({"headers": {"task": RUN_SPAN}, "body": body, **changes}).encode()


def test_a_message_is_read_as_it_lies_in_the_queue() -> None:
    assert read_task(envelope(MESSAGE.to_kwargs())) == (RUN_SPAN, MESSAGE.to_kwargs())
    newer = {"v": MESSAGE_VERSION + 1, "shape": "to come"}
    assert read_task(envelope(newer)) == (RUN_SPAN, newer)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff\xfe", b"{}", b"null", b"[]", b"5", b"[" * 60_000, b"x" * 10_000_000,
        envelope({}), envelope(None), envelope([]), envelope({"v": 1}),
        envelope({**MESSAGE.to_kwargs(), "output": "x" * 100_000}),
        envelope({**MESSAGE.to_kwargs(), "count": 10**9}),
        *(
            envelope(MESSAGE.to_kwargs(), body=body)
            for body in (None, 5, "", "not base64", encoded("null"), encoded("[1]"), encoded("{}"),
                         encoded("[[], {}]"), encoded('"abc"'), encoded("x\x9cK\xcb"), [], {})
        ),
        *(
            envelope(MESSAGE.to_kwargs(), headers=headers)
            for headers in (None, [], {}, {"task": 5}, {"task": []}, {"task": "os.system"})
        ),
    ],
)  # fmt: skip
def test_what_no_bei_jobs_sent_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a message "):
        read_task(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(["v", "job", "output", "n", "start", "count"]),
)
def test_any_value_in_any_field_is_read_or_refused(value: Any, name: str) -> None:
    kwargs = {**MESSAGE.to_kwargs(), name: value}
    for text in (envelope(kwargs), envelope(MESSAGE.to_kwargs(), body=value, headers=value)):
        with suppress(ValueError):
            task, read = read_task(text)
            assert task == RUN_SPAN
            assert read == MESSAGE.to_kwargs() or read["v"] > MESSAGE_VERSION


def test_each_numerics_has_a_queue_of_its_own() -> None:
    names = [queue_of(n, v) for n in (1, 2, 12) for v in (1, 2)]
    assert names == [
        "bei-jobs", "bei-jobs.v2", "bei-jobs.n2", "bei-jobs.n2.v2", "bei-jobs.n12",
        "bei-jobs.n12.v2",
    ]  # fmt: skip

"""The queue as the consumer takes messages from it: kombu's Redis channel, and three guards.

- Every message is checked as Redis returns it, before kombu or Celery see it. One that was not sent
  by bei-jobs ends Celery's worker wherever a part of it is missing; here it is logged and dropped.
- An acknowledgement that fails is an error, see `_Message`.
- Each answer of Redis to a pop is a sign of life for the parent (`workers.pulse`).
"""

from __future__ import annotations

import json
import logging
import uuid
from base64 import b64encode
from typing import Any

from kombu.exceptions import InconsistencyError
from kombu.transport.redis import Channel, QoS
from kombu.transport.virtual import Message

from pipeline.spec import NUMERICS_VERSION
from workers.messages import queue_of, read_task
from workers.pulse import Pulse
from workers.redis_repair import drop_wrong_types

logger = logging.getLogger(__name__)

_Popped = tuple[bytes, bytes]  # a queue's key, and a message as it lay there


class _Message(Message):
    """A message whose acknowledgement fails loudly.

    kombu logs and swallows a connection that breaks while a message is acknowledged. Celery then
    waits for an acknowledgement that never comes and, with one message at a time, takes no other
    one for ever. Raised, the error makes Celery connect again. The message may be delivered twice,
    which is harmless.
    """

    def ack_log_error(self, logger: logging.Logger, errors: Any, multiple: bool = False) -> None:
        self.ack(multiple=multiple)  # type: ignore[no-untyped-call]

    def reject_log_error(self, logger: logging.Logger, errors: Any, requeue: bool = False) -> None:
        self.reject(requeue=requeue)  # type: ignore[no-untyped-call]


class _Deliveries(QoS):
    """Messages that were taken and not acknowledged, noted in Redis, where others can write too."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, RecursionError, InconsistencyError) as error:
            logger.error("dropped a message that cannot be returned to its queue: %s", error)
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]


class QueueChannel(Channel):
    """A channel to the queue; set it as the channel of kombu's transport."""

    Message = _Message
    QoS = _Deliveries
    pulse: Pulse

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        drop_wrong_types(self.client, (queue_of(NUMERICS_VERSION), "unacked", "unacked_index"))

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        client.set_response_callback("BRPOP", self._on_answer)
        return client

    def _on_answer(self, popped: _Popped | None, **_: Any) -> _Popped | None:
        """What Redis answered to a pop: a checked message, or None."""
        self.pulse.signs += 1
        if not popped:
            return None
        key, text = popped
        try:
            task, kwargs = read_task(text)
        except ValueError as error:
            logger.error("dropped %s from the queue: it was not sent by bei-jobs", error)
            return None
        return key, _envelope(key.decode(), task, kwargs)


def _envelope(queue: str, task: str, kwargs: dict[str, Any]) -> bytes:
    """A message with nothing in it that was not checked.

    Celery would obey a forged start time, time limit, callback or reply queue, and confuse two
    messages with one id.
    """
    name = str(uuid.uuid4())
    body = json.dumps([[], kwargs, {}]).encode()
    envelope = {
        "body": b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": task, "id": name, "root_id": name},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": name,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
        },
    }
    return json.dumps(envelope).encode()

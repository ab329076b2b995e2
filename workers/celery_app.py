"""The Celery app: how it sends, and every setting that keeps a queue of long tasks honest.

Redis is a queue of hints here (see `workers.reconcile`), so each setting is chosen to lose time
rather than to run in circles: a message that is lost is sent again from the plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from pipeline.errors import BrokerError
from pipeline.store.uris import redact
from workers.messages import QUEUE
from workers.settings import DEFAULT_TASK_SECONDS, REDIS_LINK

#: Between the limit that raises in the task and the one that kills its process.
_SOFT_LIMIT_MARGIN_SECONDS = 5.0


def make_app(url: str, task_seconds: float = DEFAULT_TASK_SECONDS) -> Celery:
    """A Celery app on the broker at `url`, without tasks.

    Args:
        url: redis:// or rediss://.
        task_seconds: hard limit of a task; the same on all machines of a fleet.
    """
    app = Celery("bei-jobs", broker=url, set_as_current=False)
    app.conf.update(
        **_messages(), **_delivery(task_seconds), **_connection(), **_transport(task_seconds)
    )
    return app


def send(app: Celery, task: str, messages: Iterable[dict[str, Any]], queue: str = QUEUE) -> None:
    """Put messages (keyword arguments of a task) into a queue, in order, over one connection.

    Raises:
        BrokerError: Redis is out of reach.
    """
    with app.connection_for_write() as connection:
        try:
            with app.amqp.Producer(connection) as producer:
                for message in messages:
                    app.send_task(task, kwargs=message, queue=queue, producer=producer)
        except (OperationalError, *connection.connection_errors) as error:
            raise BrokerError(
                f"{redact(app.conf.broker_url)} is out of reach: {error}",
                hint="check the host, the port, and that Redis runs: redis-cli -u URL ping",
            ) from error


def _messages() -> dict[str, Any]:
    return {
        # JSON only: a queue that others can write to must not be able to run code here.
        "task_serializer": "json",
        "accept_content": ["json"],
        # The nameless exchange routes by queue name without a table in Redis, so that publishing
        # still works right after a FLUSHALL.
        "task_default_queue": QUEUE,
        "task_default_exchange": "",
        "task_default_exchange_type": "direct",
        "task_default_routing_key": QUEUE,
        # No result backend: what became of a shard is in the store, and results nobody fetches
        # fill Redis.
        "task_ignore_result": True,
        # A publisher gives up within seconds; the reconciler publishes again.
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.2},
    }


def _delivery(task_seconds: float) -> dict[str, Any]:
    return {
        # A message is acknowledged when its span is done, so that a clean stop gives it back.
        "task_acks_late": True,
        # One span a device at a time: a prefetched one would wait behind hours of work.
        "worker_prefetch_multiplier": 1,
        # A task whose process died is not put back by Celery: a poison span would go round for
        # ever (celery#9082). The reconciler sends it again, alone, and counts.
        "task_reject_on_worker_lost": False,
        # A task goes on while Redis is away: its commits go to the store. Cancelling would lose
        # the work and strand the message.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # A hung device or mount: first an exception in the task, then SIGKILL.
        "task_time_limit": task_seconds,
        "task_soft_time_limit": task_seconds - _SOFT_LIMIT_MARGIN_SECONDS,
        # Children import torch and may take a while to report for duty.
        "worker_proc_alive_timeout": 60,
        # Nobody listens to events, and remote control would let any client of Redis stop a fleet.
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
    }


def _connection() -> dict[str, Any]:
    return {
        # After the start a worker outlives any outage of its broker (default: 100 attempts).
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": REDIS_LINK["socket_connect_timeout"],
        # Publishers connect anew each time: a pooled connection may be long dead.
        "broker_pool_limit": 0,
    }


def _transport(task_seconds: float) -> dict[str, Any]:
    options = {
        **REDIS_LINK,
        # Celery never renews its lease on a message (celery#5935): it must outlast any task, with
        # room for clocks that differ, and be equal everywhere. Lost messages do not wait for it.
        "visibility_timeout": int(3 * task_seconds),
        # Look for messages past that time every 5 s, not every 100 s (kombu#2558).
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    }
    return {"broker_transport_options": options}

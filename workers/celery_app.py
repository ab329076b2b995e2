"""The Celery app: sending, and the settings that a queue of long tasks needs.

Messages are only hints (see `workers.reconcile`), so each setting prefers losing a message to
running one forever: a lost message is sent again from the plan.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from pipeline.errors import BrokerError
from pipeline.spec import NUMERICS_VERSION
from pipeline.store.uris import redact
from workers.messages import queue_of
from workers.settings import DEFAULT_TASK_SECONDS, REDIS_LINK

# Between the limit that raises in the task and the one that kills its process.
_SOFT_LIMIT_MARGIN_SECONDS = 5.0


def make_app(url: str, task_seconds: float = DEFAULT_TASK_SECONDS) -> Celery:
    """A Celery app on the broker at `url`, without tasks.

    Args:
        url: redis:// or rediss://.
        task_seconds: hard limit of a task; the same on all machines of a fleet.
    """
    app = Celery("bei-jobs", broker=url, set_as_current=False)
    app.conf.update(
        **_messages(), **_delivery(task_seconds), **_connection(url), **_transport(task_seconds)
    )
    return app


def send(app: Celery, task: str, messages: Iterable[dict[str, Any]], queue: str) -> None:
    """Put messages (keyword arguments of a task) into a queue, in order, over one connection.

    Raises:
        BrokerError: Redis cannot be reached, or refuses.
    """
    with app.connection_for_write() as connection:
        try:
            with app.amqp.Producer(connection) as producer:
                for message in messages:
                    app.send_task(task, kwargs=message, queue=queue, producer=producer)
        except (OperationalError, *connection.connection_errors) as error:
            raise BrokerError(
                f"{redact(app.conf.broker_url)} cannot be reached: {error}",
                hint="check the host, the port, and that Redis runs: redis-cli -u URL ping",
            ) from error
        except connection.channel_errors as error:
            raise BrokerError(
                f"{redact(app.conf.broker_url)} refused a message: {error}",
                hint="check the user's permissions, and that Redis has free memory "
                "(maxmemory-policy noeviction)",
            ) from error


def _messages() -> dict[str, Any]:
    queue = queue_of(NUMERICS_VERSION)  # a worker takes from no other
    return {
        # JSON only: those who can write to the queue must not be able to run code in a worker.
        "task_serializer": "json",
        "accept_content": ["json"],
        # The nameless exchange routes by queue name without a table in Redis, so that publishing
        # still works right after a FLUSHALL.
        "task_default_queue": queue,
        "task_default_exchange": "",
        "task_default_exchange_type": "direct",
        "task_default_routing_key": queue,
        # No result backend: the outcome of a shard is in the store, and results that nobody
        # fetches fill Redis.
        "task_ignore_result": True,
        # A publisher gives up within seconds; the next reconciliation publishes again.
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.2},
    }


def _delivery(task_seconds: float) -> dict[str, Any]:
    return {
        # A message is acknowledged when its span is done, so that a clean stop returns it.
        "task_acks_late": True,
        # One span per device at a time: a prefetched one would wait behind hours of work.
        "worker_prefetch_multiplier": 1,
        # Celery does not requeue a task whose process died: a span that kills its process would
        # do so forever (celery#9082). Reconciling sends it again, alone, and counts the crashes.
        "task_reject_on_worker_lost": False,
        # A task continues while Redis is away: its commits go to the store. Cancelling it would
        # lose the work and strand the message.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # A hung device or mount: first an exception in the task, then SIGKILL.
        "task_time_limit": task_seconds,
        "task_soft_time_limit": task_seconds - _SOFT_LIMIT_MARGIN_SECONDS,
        # Children import torch, so they may take a while to start.
        "worker_proc_alive_timeout": 60,
        # Nothing reads events, and remote control would let any client of Redis stop a fleet.
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
    }


def _connection(url: str) -> dict[str, Any]:
    return {
        # Without options in the URL, kombu gives the password to whoever answers, whatever their
        # certificate. Options in the URL (`ssl_ca_certs`, `ssl_cert_reqs`) replace this one.
        "broker_use_ssl": url.startswith("rediss://") and {"ssl_cert_reqs": ssl.CERT_REQUIRED},
        # Once started, a worker survives any outage of its broker (default: 100 attempts).
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A command that Redis refuses, out of memory or over a value that another program wrote,
        # is no reason to end either: the new connection repairs what it can (`workers.consumer`).
        "broker_channel_error_retry": True,
        # After a reconnection take as many messages as there are devices. Otherwise one that
        # becomes free stays idle until another one's span ends.
        "worker_enable_prefetch_count_reduction": False,
        "broker_connection_timeout": REDIS_LINK["socket_connect_timeout"],
        # Publishers open a new connection each time: a pooled one may be dead.
        "broker_pool_limit": 0,
    }


def _transport(task_seconds: float) -> dict[str, Any]:
    options = {
        **REDIS_LINK,
        # Celery never renews its lease on a message (celery#5935), so the lease must outlast any
        # task, with a margin for clocks that differ, and be equal on all machines. Lost messages
        # are sent again earlier.
        "visibility_timeout": int(3 * task_seconds),
        # Check for messages past that time every 5 s, not every 100 s (kombu#2558).
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # One list for each queue, not four.
        "priority_steps": [0],
    }
    return {"broker_transport_options": options}

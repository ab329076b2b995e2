"""Delete from Redis what no worker can have written under the fleet's own keys.

Others can write to Redis too, and one wrong value would refuse a command of every worker for ever.
Nothing is lost: whatever these keys hold is rebuilt from the stores (see `workers.reconcile`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from workers.live_counters import Client

logger = logging.getLogger(__name__)

# Which type each key has. `unacked…` are kombu's names for messages that workers hold.
_TYPES = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"bei-jobs(\.[nv]\d+)*", "list"),
        (r"unacked", "hash"),
        (r"unacked_index", "zset"),
        (r"bei:jobs", "hash"),
        (r"bei:open", "set"),
        (r"bei:(turn|worker|devices):.*", "string"),
        (r"bei:job:[^:]*:(sent|times|crashes|progress|stepped_back|pace:\d+)", "hash"),
        (r"bei:job:[^:]*:lease:.*", "string"),
    )
)
_PATTERNS = ("bei:*", "bei-jobs*", "unacked*")
_COUNTERS = re.compile(r"bei:job:[^:]*:(times|crashes|progress|pace:\d+)")
_COUNT = re.compile(r"-?\d{1,15}", re.ASCII)


def drop_what_no_worker_wrote(client: Client) -> list[str]:
    """Delete keys of a wrong type, and counters that are not numbers; log what was deleted.

    Args:
        client: with decoded responses. Its errors are raised.

    Returns:
        The keys that were deleted or changed.
    """
    dropped = []
    for pattern in _PATTERNS:
        keys = list(client.scan_iter(pattern, count=1000))
        dropped += drop_wrong_types(client, keys)
        dropped += [key for key in keys if _COUNTERS.fullmatch(key) and _drop_fields(client, key)]
    return dropped


def drop_wrong_types(client: Client, keys: Iterable[str]) -> list[str]:
    """Delete those of some keys whose type is wrong; keys that are not the fleet's are left."""
    dropped = []
    for key in keys:
        expected = _type_of(key)
        kind = client.type(key)
        name = kind.decode() if isinstance(kind, bytes) else kind  # of a client that decodes none
        if expected and name not in (expected, "none"):
            logger.error("dropped %r from Redis: no worker writes a value of its type", key)
            client.delete(key)
            dropped.append(key)
    return dropped


def drop_if_it_never_expires(client: Client, key: str) -> None:
    """Delete a key that workers only ever write with a time to live, where it has none."""
    if client.pttl(key) == -1:
        logger.error("dropped %r from Redis: no worker writes it without an expiry", key)
        client.delete(key)


def _type_of(key: str) -> str | None:
    return next((kind for pattern, kind in _TYPES if pattern.fullmatch(key)), None)


def _drop_fields(client: Client, key: str) -> int:
    """Delete the fields of a hash that are not numbers; how many those were."""
    fields: Iterable[tuple[str, str]] = client.hgetall(key).items()
    wrong = [name for name, value in fields if not _COUNT.fullmatch(value)]
    if wrong:
        logger.error("dropped %d counters of %r from Redis: they are not numbers", len(wrong), key)
        client.hdel(key, *wrong)
    return len(wrong)

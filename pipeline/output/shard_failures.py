"""The failed attempts of a run's shards, one object for each.

    _bei/runs/<n>/failures/<shard>-<attempt>.json    a ShardResult, at, attempt

`retry` deletes them. One that is damaged counts as none: its shard is tried once more.
"""

from __future__ import annotations

import json
import logging

from pipeline.errors import NotFound
from pipeline.shards import ShardResult
from pipeline.store.directory import Directory
from pipeline.store.uris import redact

logger = logging.getLogger(__name__)


def read_shard_failures(directory: Directory, prefix: str) -> dict[str, list[ShardResult]]:
    """Shard id → its failures, oldest first. One listing, and one read for each.

    Args:
        directory: of the output.
        prefix: of the names of a run's failures.
    """
    timed = []
    for item in directory.list(prefix):
        try:
            timed.append(_parse(directory.read(item.name)))
        except NotFound:  # deleted since it was listed
            continue
        except (ValueError, KeyError, TypeError, RecursionError):
            where = f"{redact(directory.uri)}/{item.name}"
            logger.warning("%s is not the record of a failed shard: ignored", where)
    by_shard: dict[str, list[ShardResult]] = {}
    for _, result in sorted(timed, key=lambda each: each[0]):  # names are random
        by_shard.setdefault(result.shard, []).append(result)
    return by_shard


def _parse(data: bytes) -> tuple[str, ShardResult]:
    """When a shard failed, ISO 8601, and how.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    value = json.loads(data)
    result = ShardResult(**{k: value[k] for k in ShardResult.__slots__ if k in value})
    if not isinstance(result.shard, str) or not isinstance(result.error, str):
        raise TypeError("shard and error are texts")
    return str(value.get("at", "")), result

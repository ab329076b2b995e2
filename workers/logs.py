"""Logs on stderr: lines of text, or one JSON object per event.

    {"ts": "2026-01-01T02:00:00.000+00:00", "level": "error", "logger": "workers.step_back",
     "message": "…", "job": "0123456789ab", "device": "cpu"}

`job`, `shard` and `device` are there where they are known, `exception` where a stack trace is.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

_TEXT_PATTERN = "%(asctime)s %(process)d %(levelname)s %(message)s"

# What an event may carry besides its message: given by `extra` of a call, or by `set_context`.
_FIELDS = ("job", "shard", "device", "hint", "rows", "total", "tokens")
# What all events of this process are about: a process of a device has one job at a time.
_context: dict[str, str] = {}


def start_logging(log_format: LogFormat, levels: Mapping[str, int]) -> None:
    """Log to stderr, of each logger what is at or above its level, of others from warnings on."""
    if log_format == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonLines())
        logging.basicConfig(handlers=[handler], force=True)
        sys.excepthook = lambda *error: logging.getLogger(__name__).critical(
            "bei-jobs ends with an error of its own", exc_info=error
        )
    else:
        logging.basicConfig(format=_TEXT_PATTERN)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def set_context(**fields: str) -> None:
    """Add fields, such as `device`, to every event of this process from now on."""
    _context.update(fields)


def log_format() -> LogFormat:
    """The format of this process's logs."""
    formatters = (handler.formatter for handler in logging.getLogger().handlers)
    return "json" if any(isinstance(one, _JsonLines) for one in formatters) else "text"


class _JsonLines(logging.Formatter):
    """One JSON object per event, in one line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        event = {
            "ts": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context,
            **{name: getattr(record, name) for name in _FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)

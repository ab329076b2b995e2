"""Webhooks: the URLs that `submit --notify` posts to when a job starts, is done or has failed.

    https://host/path                 every event is posted to this URL
    healthchecks+https://host/check   as healthchecks.io has it: start is posted to <URL>/start,
                                      done to <URL>, failed to <URL>/fail
    https://hc-ping.com/check         healthchecks.io itself: so too, without the prefix

A URL is a secret: its path or query is what lets a program post there. So only its host is ever
printed, and nothing of it is stored.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from types import TracebackType
from typing import Any, Literal, Self
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pipeline.errors import UsageError

logger = logging.getLogger(__name__)

Event = Literal["start", "done", "failed"]

# For one event and one URL, all tries together.
_LIMIT_SECONDS = 10.0
_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.5
# Answers after which another try may succeed, besides those of a server in trouble (5xx).
_PASSING = frozenset({408, 429})

_HEALTHCHECKS = "healthchecks+"
_HEALTHCHECKS_HOST = "hc-ping.com"
_SUFFIXES: Mapping[Event, str] = {"start": "/start", "done": "", "failed": "/fail"}


class Webhooks:
    """Posts events in threads beside the job; leaving the context waits for the last ones.

    An event that does not arrive is a warning, and never an error of the job.

    Args:
        urls: checked by `check_url`.
    """

    def __init__(self, urls: Sequence[str] = ()) -> None:
        self._receivers = [_Receiver(url) for url in urls]

    def __bool__(self) -> bool:
        return bool(self._receivers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait until what was sent has arrived, or did not in time."""
        with suppress(KeyboardInterrupt):  # the user does not want to wait
            for receiver in self._receivers:
                receiver.close()

    def send(self, event: Event, report: Mapping[str, Any]) -> None:
        """Post `report` and the name of the event as one JSON object."""
        if self._receivers:
            body = json.dumps({**report, "event": event}).encode()
            for receiver in self._receivers:
                receiver.put(event, body)


class _Receiver:
    """One URL, with a thread that posts its events in order."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._events: queue.SimpleQueue[tuple[Event, bytes] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._sent = 0

    def put(self, event: Event, body: bytes) -> None:
        if self._thread is None:
            # A daemon: a server that sends its answer byte by byte must not keep the process.
            self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
            self._thread.start()
        self._sent += 1
        self._events.put((event, body))

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._events.put(None)
        thread.join(self._sent * _LIMIT_SECONDS + 1)
        if thread.is_alive():
            logger.warning("--notify: %s does not answer", _host(self._url))

    def _work(self) -> None:
        while (item := self._events.get()) is not None:
            event, body = item
            if problem := _post(address(self._url, event), body):
                host = _host(self._url)
                logger.warning("--notify: %s did not take the event %s: %s", host, event, problem)


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, and its secret at another host."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the answer becomes an HTTPError."""


def check_url(url: str) -> None:
    """Check that events can be posted to `url`.

    Raises:
        UsageError: they cannot; the message does not repeat the URL.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is read only now
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    known = parts.scheme.removeprefix(_HEALTHCHECKS) in ("http", "https")
    if not (known and parts.hostname and url.isascii() and url.isprintable() and " " not in url):
        raise UsageError(
            "--notify was given something that is not the URL of a web server",
            hint="give one such as https://host/path, or healthchecks+https://host/check for a "
            "healthchecks server of your own",
        )
    if "@" in parts.netloc:
        raise UsageError(
            f"--notify: {_host(url)} was given with a user or a password, which are not sent",
            hint="give a URL whose path or query holds the token",
        )


def address(url: str, event: Event) -> str:
    """Where an event is posted."""
    parts = urlsplit(url)
    if parts.scheme.startswith(_HEALTHCHECKS) or parts.hostname == _HEALTHCHECKS_HOST:
        parts = parts._replace(path=parts.path.rstrip("/") + _SUFFIXES[event])
    return urlunsplit(parts._replace(scheme=parts.scheme.removeprefix(_HEALTHCHECKS)))


def _host(url: str) -> str:
    """The part of a URL that may be printed."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _post(url: str, body: bytes) -> str:
    """Post a JSON object; returns why that failed, "" if it did not."""
    deadline, pause = time.monotonic() + _LIMIT_SECONDS, _FIRST_PAUSE_SECONDS
    headers = {"Content-Type": "application/json", "User-Agent": "bei-jobs"}
    opener, problem = build_opener(_NoRedirects), ""
    for _ in range(_TRIES):
        if (left := deadline - time.monotonic()) <= 0:
            break
        try:
            request = Request(url, body, headers, method="POST")
            with opener.open(request, timeout=left):
                return ""
        except HTTPError as error:
            error.close()
            problem = f"HTTP {error.code}"
            if error.code < 500 and error.code not in _PASSING:
                redirect = ", a redirect: give the URL it leads to" if error.code < 400 else ""
                return f"{problem}{redirect}"
        except (OSError, HTTPException) as error:
            problem = _in_words(error)
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause *= 2
    return problem


def _in_words(error: Exception) -> str:
    """What failed, without the URL, which the text of some errors repeats."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {_LIMIT_SECONDS:g} s"
    strerror = getattr(cause, "strerror", None)
    return strerror if isinstance(strerror, str) else type(cause).__name__

"""The only retry of store calls: what is tried again, for how long, and how often by one process.

The S3 client's own retries are off (`pipeline.store.uris`), so a try is one request. A library
(tenacity) would replace the loop in `call` and none of the rest.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import BeiJobsError
from pipeline.store.client_errors import store_answer, translated
from pipeline.store.uris import is_local, redact

logger = logging.getLogger(__name__)

T = TypeVar("T")

_THROTTLED = "the store asks for fewer requests"
_CONFLICT = "another write was in progress"
_STORE_ERROR = "an error inside the store"
_CONNECTION = "the connection failed"
_STALE = "a stale file handle"
_DOUBTFUL = "it may not pass"  # a broken disk, a wrong certificate: tried a few times only

_THROTTLING_CODES = frozenset(
    {"SlowDown", "ServerBusy", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
)
_CONFLICT_CODES = frozenset({"ConditionalRequestConflict", "OperationAborted"})
# S3 answers these with status 400; the request itself was fine.
_BROKEN_REQUEST_CODES = frozenset(
    {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"}
)
_NOT_IMPLEMENTED, _STORE_FULL = 501, 507
# Base classes of what the clients raise for a connection that failed, by name: the clients are
# optional.
_CONNECTION_ERRORS = frozenset(
    {
        "HTTPClientError",  # botocore
        "ConnectionError",  # botocore, requests
        "ResponseParserError",  # botocore: an answer that is cut, or a proxy's page
        "IncompleteReadError",  # botocore, Azure
        "ClientConnectionError",  # aiohttp
        "ClientPayloadError",  # aiohttp: a body that is cut
        "ServiceRequestError",  # Azure
        "ServiceResponseError",  # Azure
        "TransportError",  # Google
        "Timeout",  # requests
        "ChunkedEncodingError",  # requests: a body that is cut
    }
)
_LOST_FOR_NOW = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


@dataclass(frozen=True, slots=True)
class Policy:
    """How long one call is tried."""

    base: float = 0.2  # seconds; the first wait is at most this, each next one twice as long
    cap: float = 10.0  # seconds; no wait is longer
    budget: float = 60.0  # seconds from the first try to the last
    min_tries: int = 3  # however long they take: a timeout alone may use half of the budget
    doubtful_tries: int = 3
    log_after: float = 5.0  # seconds
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep  # in the main thread, Ctrl-C interrupts it


policy = Policy()


class Load:
    """What this process may still ask of its remote stores: a number of retries, and a pace.

    Retries: at most 100 that no success has followed. A call that succeeds gives back its own and
    a tenth of one more, and one comes back every second. So a store that fails one call in five
    costs nothing; a dead store gets 100 retries at once from a process, and then one a second; and
    one that fails most of its calls is never given up for good.

    Pace: unlimited until the store throttles. Then 32 requests per second, half of the rate at
    every throttled answer (once a second at most), and 8 per second more each second (AIMD).

    `repeated` counts the calls that were repeated since the process started, local ones too.

    There is no lock: an update lost between threads blurs a count, and a lock could be held by
    another thread during a fork.
    """

    __slots__ = ("_next_start", "_refilled", "_slowed", "rate", "repeated", "retries")

    max_retries = 100.0
    retries_per_second = 1.0
    min_rate, max_rate, rate_step = 1.0, 64.0, 8.0  # requests per second

    def __init__(self) -> None:
        self.retries = self.max_retries
        self.repeated = 0
        self.rate = self.max_rate  # which means unlimited
        self._slowed = self._next_start = self._refilled = float("-inf")

    def take_retry(self, now: float) -> bool:
        """Use up one of the retries; False if none is left."""
        if self._refilled != float("-inf"):
            back = (now - self._refilled) * self.retries_per_second
            self.retries = min(self.max_retries, self.retries + back)
        self._refilled = now
        if self.retries < 1:
            return False
        self.retries -= 1
        return True

    def delay(self, now: float) -> float:
        """Seconds until a request may start; each caller gets a place of its own."""
        start = max(now, self._next_start)
        self._next_start = start + (1 / self.rate if self.rate < self.max_rate else 0)
        return start - now

    def slow_down(self, now: float) -> None:
        if now - self._slowed >= 1:
            self._slowed = now
            self.rate = max(self.min_rate, self.rate / 2)

    def answered(self, retries: int) -> None:
        """A call ended with an answer after `retries` retries."""
        self.retries = min(self.max_retries, self.retries + retries + 0.1)
        self.rate = min(self.max_rate, self.rate + self.rate_step / self.rate)


load = Load()


def call(uri: str, operation: Callable[[], T]) -> T:
    """Call a store until it succeeds, fails for good, or the budget is spent.

    Args:
        uri: what the call is about, for messages.
        operation: safe to repeat; raises the errors of the store's client unchanged.

    Raises:
        NotFound, AccessDenied, StoreFull, StorageError: see `translated`; after retries the
            message says how many tries were made in how many seconds.
    """
    tries = _Tries(uri)
    while True:
        tries.begin()
        try:
            result = operation()
        except BeiJobsError:
            raise
        except Exception as error:
            kind = failure_kind(error)
            if kind is None or not tries.may_go_on(kind):
                with translated(uri, tries.summary()):
                    raise
            forget(error)
        else:
            tries.succeeded()
            return result
        tries.back_off(kind)


def forget(error: BaseException | None) -> None:
    """Drop the tracebacks of an error that was dealt with, and of those that it came from.

    The clients' frames hold their errors, whose tracebacks hold the frames: that circle would keep
    what the callers hold, such as the bytes of a part, alive until a garbage collection.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class _Tries:
    """The tries of one call."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._load = Load() if is_local(uri) else load  # disks set no pace
        self._start = policy.clock()
        self._count = 0
        self._wait = 0.0  # before the next try
        self._logged = False
        self._out_of_retries = False

    def _elapsed(self) -> float:
        return policy.clock() - self._start

    def begin(self) -> None:
        if delay := self._load.delay(policy.clock()):
            self._sleep(delay, _THROTTLED)
        self._count += 1

    def may_go_on(self, kind: str) -> bool:
        """Whether a call that failed is tried again; draws the wait before it (full jitter)."""
        if kind == _THROTTLED:
            self._load.slow_down(policy.clock())
        if kind == _DOUBTFUL and self._count >= policy.doubtful_tries:
            return False
        longest = min(policy.cap, policy.base * 2 ** min(self._count - 1, 30))
        self._wait = random.uniform(0, longest)
        if self._count >= policy.min_tries and self._elapsed() + self._wait > policy.budget:
            return False
        self._out_of_retries = not self._load.take_retry(policy.clock())
        return not self._out_of_retries

    def back_off(self, kind: str) -> None:
        load.repeated += 1
        self._sleep(self._wait, kind)

    def _sleep(self, seconds: float, kind: str) -> None:
        if not self._logged and self._elapsed() + seconds > policy.log_after:
            self._logged = True
            logger.warning(
                "%s: %s; trying again since %.0f s, for %.0f s at most",
                redact(self._uri), kind, self._elapsed(), policy.budget,
            )  # fmt: skip
        policy.sleep(seconds)

    def succeeded(self) -> None:
        self._load.answered(self._count - 1)

    def summary(self) -> str:
        """What an error adds to its message."""
        spent = "this process has used up its retries" if self._out_of_retries else ""
        if self._count == 1:
            return f"; not tried again: {spent}" if spent else ""
        tried = f"; tried {self._count} times in {self._elapsed():.0f} s"
        return f"{tried}, and {spent}" if spent else tried


def failure_kind(error: Exception) -> str | None:
    """Why a call that failed may succeed if it is repeated as it is; None if it will not."""
    if isinstance(error, FileExistsError):  # Azure answers 409
        return None
    code, status = store_answer(error)
    if code or status:
        return _kind_of_answer(code, status)
    if isinstance(error, OSError) and error.errno == errno.ESTALE:
        return _STALE
    names = {kind.__name__ for kind in type(error).__mro__}
    if "SSLError" in names or (isinstance(error, OSError) and error.errno == errno.EIO):
        return _DOUBTFUL
    if isinstance(error, TimeoutError | ConnectionError) or names & _CONNECTION_ERRORS:
        return _CONNECTION
    lost = isinstance(error, OSError) and error.errno in _LOST_FOR_NOW
    return _CONNECTION if lost else None


def _kind_of_answer(code: str, status: int) -> str | None:
    if code in _THROTTLING_CODES or status in {429, 503}:
        return _THROTTLED
    if code in _CONFLICT_CODES or (status == 409 and code != "PublicAccessNotPermitted"):
        return _CONFLICT
    if code in _BROKEN_REQUEST_CODES:
        return _CONNECTION
    server_error = status >= 500 and status not in {_NOT_IMPLEMENTED, _STORE_FULL}
    return _STORE_ERROR if server_error or code == "InternalError" else None

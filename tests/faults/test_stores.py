"""An S3 API in trouble: refused, lost, late and contradictory answers."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from faults.case import Case
from faulty_s3 import FaultyS3
from fixtures_s3 import Fault, Wsgi

pytestmark = [pytest.mark.integration, pytest.mark.kind("store")]

Request = dict[str, Any]

WORKERS_KEY = "AKIAWORKERSWORKERS00"
FAULT_S = 4.0
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>We failed</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
CONFLICT = (
    b"<Error><Code>ConditionalRequestConflict</Code>"
    b"<Message>A conflicting operation is under way</Message></Error>"
)


def storm(share: float, seed: int = 0) -> Fault:
    """503 for a share of all requests."""
    chance = random.Random(seed)

    def fault(request: Request, app: Wsgi) -> tuple[str, bytes] | None:
        return ("503 Slow Down", SLOW_DOWN) if chance.random() < share else None

    return fault


def of_workers(fault: Fault) -> Fault:
    """The fault for workers alone: what the test itself asks is answered."""

    def answer(request: Request, app: Wsgi) -> tuple[str, bytes] | None:
        if WORKERS_KEY not in request.get("HTTP_AUTHORIZATION", ""):
            return None
        return fault(request, app)

    return answer


def denied(request: Request, app: Wsgi) -> tuple[str, bytes] | None:
    return "403 Forbidden", DENIED


def is_part(request: Request) -> bool:
    return request["REQUEST_METHOD"] == "PUT" and request["PATH_INFO"].endswith(".arrow")


def lost_answers(request: Request, app: Wsgi) -> tuple[str, bytes] | None:
    """Each PUT of a part is applied, and its answer lost."""
    if not is_part(request):
        return None
    for _ in app(request, lambda *_: None):
        pass
    return "500 Internal Server Error", INTERNAL


def conflicts() -> Fault:
    """Every second conditional write is answered with 409, as S3 does under contention."""
    seen: list[str] = []

    def fault(request: Request, app: Wsgi) -> tuple[str, bytes] | None:
        if request["REQUEST_METHOD"] != "PUT" or "HTTP_IF_NONE_MATCH" not in request:
            return None
        seen.append(request["PATH_INFO"])
        return ("409 Conflict", CONFLICT) if len(seen) % 2 else None

    return fault


def stalls() -> Fault:
    """Every twentieth request waits for seconds."""
    seen: list[None] = []

    def fault(request: Request, app: Wsgi) -> tuple[str, bytes] | None:
        seen.append(None)
        if len(seen) % 20 == 0:
            time.sleep(FAULT_S)
        return None

    return fault


@pytest.fixture(autouse=True)
def quiet() -> None:
    """A server's line per request says nothing about a failure."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)


STORES: list[tuple[str, Callable[[], Fault], bool]] = [
    ("503 for a fifth", lambda: storm(0.2), True),
    ("503 for half", lambda: storm(0.5), True),
    ("503 for all, for a while", lambda: storm(1.0), False),
    ("403 for all, for a while", lambda: denied, False),
    ("answers of commits are lost", lambda: lost_answers, True),
    ("409 for every second commit", conflicts, True),
    ("stalls", stalls, True),
]
QUICK = {"answers of commits are lost"}


@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("fault", "lasting"),
    [
        pytest.param(fault, lasting, id=name, marks=[pytest.mark.quick] if name in QUICK else [])
        for name, fault, lasting in STORES
    ],
)
def test_the_store_answers(case: Case, s3: Any, fault: Callable[[], Fault], lasting: bool) -> None:
    """A lasting fault is there until the job ends; the others go away."""
    case.patience = 600.0  # where half of all requests are refused, all of them slow down
    paused = case.pause_at("mid-shard")
    case.start(AWS_ACCESS_KEY_ID=WORKERS_KEY, **paused.environment)
    job = case.submit(output=f"s3://{s3.make_bucket()}/vectors")
    paused.reached()
    s3.fault = of_workers(fault())
    paused.release()
    if not lasting:
        time.sleep(FAULT_S)  # the fault itself
        s3.fault = None
    case.struck()
    case.end_of_store_fault(job, s3)
    puts = sum(1 for method, path in s3.requests if method == "PUT" and path.endswith(".arrow"))
    assert puts <= 60, f"{puts} PUTs for six parts"
    case.check(failures=18, computed=18)


@pytest.mark.parametrize(
    ("fault", "methods"),
    [
        pytest.param("truncate", ("GET",), id="bodies"),
        pytest.param("reset", (), id="connections"),
    ],
)
def test_answers_of_the_store_break_off(
    case: Case, s3: Any, fault: str, methods: tuple[str, ...]
) -> None:
    """A fifth of the worker's bodies end early, or of its connections are closed."""
    front = FaultyS3(s3.endpoint)
    try:
        front.inject(fault, methods=methods, share=0.2)
        job = case.submit(output=f"s3://{s3.make_bucket()}/vectors")
        case.start(AWS_ENDPOINT_URL=front.endpoint)
        case.struck()
        case.finish(job)
        assert front.faults
        case.check(failures=18, computed=18)
    finally:
        front.stop()


def test_the_store_ignores_conditions(case: Case, s3: Any) -> None:
    """It is refused at submit, before anything is computed."""

    def ignores(request: Request, app: Wsgi) -> None:
        request.pop("HTTP_IF_NONE_MATCH", None)

    s3.fault = ignores
    output = f"s3://{s3.make_bucket()}/vectors"
    done = case.foreground(case.corpus(), output)
    assert done.code == 1
    assert "overwrites" in done.err
    assert "Traceback" not in done.err
    s3.fault = None
    assert case.foreground(case.corpus(), output).code == 0
    case.check_local(output, case.corpus())

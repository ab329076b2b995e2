"""Messages that come twice, commands that come at once, and what is no message at all."""

from __future__ import annotations

import json

import pytest
from commandline import command, spawn, typed
from faults.case import SHARDS, Case, Job
from faults.points import PausePoint

from pipeline.output.output import find_run
from workers.celery_app import make_app, send
from workers.messages import FINALIZE_JOB, QUEUE, RUN_SPAN, Message

pytestmark = [pytest.mark.integration, pytest.mark.kind("delivery")]


def message(job: Job, start: int, count: int = 1) -> dict[str, object]:
    _, run = find_run(job.output)
    return Message(job.id, run.output, run.n, start, count).to_kwargs()


@pytest.mark.quick
def test_every_span_is_delivered_three_times(case: Case) -> None:
    job = case.submit()
    for _ in range(2):
        send(make_app(case.server.url), RUN_SPAN, [message(job, i) for i in range(SHARDS)], QUEUE)
    for _ in range(2):
        case.start()
    case.struck()
    case.finish(job)
    case.check()


@pytest.mark.parametrize(
    "submits", [pytest.param(3, marks=pytest.mark.quick), 20], ids=lambda n: f"{n}"
)
def test_submits_at_once(case: Case, submits: int) -> None:
    corpus, output = case.corpus(), case.root / "outputs" / "corpus"
    words = (*case.words(corpus, output), "--broker", case.server.url, "--no-wait", "--json")
    commands = [spawn(*words) for _ in range(submits)]
    answers = [process.communicate() for process in commands]
    assert [process.returncode for process in commands] == [0] * submits, answers
    assert len({json.loads(out)["job"] for out, _ in answers}) == 1
    for _ in range(2):
        case.start()
    job = case.submit(corpus, output)
    case.struck()
    case.finish(job)
    assert find_run(str(output))[1].n == 1
    case.check()


@pytest.mark.quick
def test_the_submitter_is_killed_while_it_enqueues(case: Case) -> None:
    paused = case.pause_at("mid-enqueue")
    corpus, output = case.corpus(), case.root / "outputs" / "corpus"
    words = (*case.words(corpus, output), "--broker", case.server.url, "--no-wait", "--json")
    process = spawn(*words, **paused.environment)
    paused.reached()
    assert case.server.client().llen(QUEUE) < SHARDS
    process.kill()
    process.communicate()
    case.start()
    job = case.watched(corpus, output)
    case.struck()
    case.finish(job)
    case.check()


def test_two_processes_finish_one_job(case: Case) -> None:
    """The worker stands before its manifest while `status` writes it."""
    paused = case.pause_at("before-manifest")
    case.start(**paused.environment)
    job = case.submit()
    paused.reached()
    done = typed("status", job.output, "--broker", case.server.url, "--json")
    assert done.code == 0, done.err
    assert done.json["state"] == "done"
    case.struck()
    paused.release()
    case.finish(job)
    case.check()


def test_a_job_is_reconciled_by_everybody_at_once(case: Case) -> None:
    job = case.submit()
    send(make_app(case.server.url), FINALIZE_JOB, [message(job, 0, 0)] * 20, QUEUE)
    case.start()
    for _ in range(3):
        assert typed("status", job.output, "--broker", case.server.url, "--json").code == 0
    case.struck()
    case.finish(job)
    case.check()


NOT_MESSAGES = [b"\xff\xfe not JSON", b"{}", b"[1, 2]", b'"text"', b"null", b"0", b"[" * 10_000]


def test_bytes_that_are_no_messages(case: Case) -> None:
    machine = case.start()
    machine.ready()
    case.server.client().lpush(QUEUE, *NOT_MESSAGES)
    job = case.submit()
    case.struck()
    case.finish(job)
    assert machine.process.poll() is None
    case.check()


def forged(job: Job, case: Case) -> list[dict[str, object]]:
    """Messages of the right form whose content lies."""
    true = message(job, 0)
    lies: list[dict[str, object]] = [
        {"start": -1},
        {"start": 10**9},
        {"count": 10**9},
        {"count": -5},
        {"n": 0},
        {"n": 10**6},
        {"n": -1},
        {"job": "../../../etc/passwd"},
        {"job": "f" * 12},
        {"output": "/nonexistent/output"},
        {"output": str(case.outside / "input")},
        {"output": "s3://"},
        {"output": "\0"},
        {"output": "http://127.0.0.1:1/x"},
        {"start": True, "count": False},
        {"v": 0},
        {"v": -1},
    ]
    return [{**true, **lie} for lie in lies]


def test_forged_messages(case: Case) -> None:
    job = case.submit()
    send(make_app(case.server.url), RUN_SPAN, forged(job, case), QUEUE)
    send(make_app(case.server.url), FINALIZE_JOB, forged(job, case), QUEUE)
    machine = case.start()
    case.struck()
    case.finish(job)
    assert machine.process.poll() is None
    case.check()


def test_a_paused_submit_and_the_same_command(case: Case) -> None:
    """A submit that stands still in the middle does not keep another one from going on."""
    paused: PausePoint = case.pause_at("mid-enqueue")
    corpus, output = case.corpus(), case.root / "outputs" / "corpus"
    words = (*case.words(corpus, output), "--broker", case.server.url, "--no-wait", "--json")
    first = spawn(*words, **paused.environment)
    paused.reached()
    case.start()
    job = case.submit(corpus, output)
    case.finish(job)
    case.struck()
    paused.release()
    first.communicate()
    assert first.returncode == 0
    case.check()


def test_a_fleet_without_its_submitter(case: Case) -> None:
    """`submit --wait` is killed while it waits; the job goes on."""
    corpus, output = case.corpus(), case.root / "outputs" / "corpus"
    words = command(*case.words(corpus, output), "--broker", case.server.url, "--wait", "--json")
    process = spawn(*words[3:])
    paused = case.pause_at("mid-shard")
    case.start(**paused.environment)
    paused.reached()
    process.kill()
    process.communicate()
    paused.release()
    job = case.watched(corpus, output)
    case.struck()
    case.finish(job)
    case.check()

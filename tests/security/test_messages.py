"""What whoever may write to the queue can make a worker do: not run code, and not write anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import write_parquet
from fleet import Fleet, until

from pipeline.output.run import job_id
from workers.celery_app import make_app, send
from workers.messages import QUEUE, RUN_SPAN

pytestmark = pytest.mark.integration


class TouchesWhenUnpickled:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self._path,)


def test_hostile_messages_run_no_code_and_write_nothing(
    redis_url: str, start_fleet: Callable[[str], Fleet], tmp_path: Path
) -> None:
    ran, nowhere, kept = tmp_path / "ran", tmp_path / "nowhere", tmp_path / "kept"
    kept.mkdir()
    (kept / "notes.txt").write_text("not an output")
    message = {"v": 1, "job": "../../../etc", "n": 1, "start": 0, "count": 1}
    app = make_app(redis_url)
    # Of the sender's own making: our settings would not send it either.
    app.conf.task_serializer = "pickle"
    app.send_task(RUN_SPAN, kwargs={**message, "output": TouchesWhenUnpickled(ran)})
    outputs = (nowhere, kept, f"{kept}/../nowhere", "reference::file:///etc", "no-such://x")
    app = make_app(redis_url)
    send(app, RUN_SPAN, [{**message, "job": "../../../0", "output": str(nowhere)}], QUEUE)
    for output in map(str, outputs):
        send(app, RUN_SPAN, [{**message, "job": job_id(output, 1), "output": output}], QUEUE)
    foreign = {"job": "../../../etc", "output": str(nowhere), "n": 1, "created": ""}

    fleet = start_fleet(redis_url)
    fleet.redis.hset("bei:jobs", "../../../etc", json.dumps(foreign))
    fleet.redis.sadd("bei:open", "../../../etc")
    worker = fleet.start()
    corpus = write_parquet(tmp_path / "corpus.parquet", 20)
    fleet.submit(corpus, "--output", tmp_path / "out")
    fleet.finish(tmp_path / "out")
    fleet.check(tmp_path / "out", 20)

    assert worker.log.count("dropped a message") == 2  # the pickle, and the id that is a path
    assert worker.log.count(" steps back for ") == len(outputs)
    until(lambda: worker.remembers() == 0, "the worker to forget the job")
    assert worker.terminate() == 0
    assert not ran.exists()
    assert not nowhere.exists()
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]
    written = {path.name for path in worker.state_dir.rglob("*") if path.is_file()}
    assert written == set()

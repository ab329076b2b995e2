"""Jobs that are given to a broker: submitted, followed and left alone from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import Worker

import bei_jobs

pytestmark = pytest.mark.integration


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(redis_url, tmp_path / f"worker-{len(workers)}"))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def test_a_job_on_a_broker_is_followed_to_its_end(
    corpus: Path, tiny: dict[str, Any], redis_url: str, start_worker: Callable[[], Worker]
) -> None:
    job = bei_jobs.submit(corpus, model=tiny["model"], broker=redis_url)
    assert job.status().state == "waiting for workers"
    assert redis_url not in repr(job)  # it may hold a password
    with pytest.raises(TimeoutError, match="longer than 2 s"):
        job.wait(2)
    start_worker()
    assert job.wait(100).rows.computed == 20
    assert bei_jobs.job(job.id, broker=redis_url).wait().state == "done"
    again = bei_jobs.submit(corpus, model=tiny["model"], broker=redis_url)
    assert again == job
    assert again.wait().state == "done"


def test_a_broker_named_in_a_job_file_is_followed_as_well(
    corpus: Path, tiny: dict[str, Any], redis_url: str
) -> None:
    file = corpus.with_name("job.toml")
    file.write_text(f'broker = "{redis_url}"\nwait = true\n')
    job = bei_jobs.submit(corpus, model=tiny["model"], job_file=file)
    assert job.broker == redis_url
    assert job.cancel().state == "cancelled"
    with pytest.raises(bei_jobs.JobFailed, match="was cancelled"):
        job.wait()

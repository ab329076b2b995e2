"""A job that runs here belongs to the program that submitted it: when that is stopped, or ends."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType

import psutil
import pytest
from fleet import until

import bei_jobs

Submit = Callable[..., bei_jobs.Job]
Python = Callable[..., subprocess.Popen[str]]
Busy = Callable[[Path], AbstractContextManager[None]]
Processes = Callable[[], list[psutil.Process]]

SUBMIT = """
import bei_jobs, sys
corpus, model = sys.argv[1:]
job = bei_jobs.submit(corpus, model=model, device="cpu", rows_per_shard=10, token_budget=200)
print("submitted", flush=True)
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "corpus.embed"


@pytest.fixture
def long_corpus(make_corpus: Callable[..., Path]) -> Path:
    """A hundred and fifty shards, which take a while."""
    return make_corpus(1500)


def test_an_interrupt_in_wait_stops_the_job_between_two_batches_and_it_goes_on_later(
    python: Python,
    submit: Submit,
    long_corpus: Path,
    output: Path,
    tiny: dict[str, object],
    job_processes: Processes,
) -> None:
    program = python(f"{SUBMIT}\njob.wait()", long_corpus, tiny["model"])
    until(lambda: list(output.glob("*.arrow")), "a first part")
    program.send_signal(signal.SIGINT)
    _, err = program.communicate()
    assert "KeyboardInterrupt" in err
    assert job_processes() == []
    there = 10 * len(list(output.glob("*.arrow")))
    assert 0 < there < 1500, "it was not stopped in the middle"
    assert not list((output / "_bei/tmp").iterdir())
    rows = submit(long_corpus, rows_per_shard=10, token_budget=200).wait().rows
    assert (rows.computed, rows.reused) == (1500 - there, there)


def test_a_job_stopped_by_others_says_how_far_it_came(
    submit: Submit, long_corpus: Path, output: Path, job_processes: Processes
) -> None:
    job = submit(long_corpus, rows_per_shard=10, token_budget=200)
    until(lambda: list(output.glob("*.arrow")), "a first part")
    for process in job_processes():
        process.terminate()
    with pytest.raises(bei_jobs.Interrupted, match=r"stopped: [\d,]+ of 1,500 rows") as stopped:
        job.wait()
    assert "the same submit resumes" in stopped.value.hint
    said = re.search(r"[\d,]+", str(stopped.value))
    assert said is not None
    assert int(said[0].replace(",", "")) == 10 * len(list(output.glob("*.arrow")))


class TaskEnded(BaseException):
    """As frameworks raise in the main thread when a task is to end."""


def test_what_a_framework_raises_in_wait_stops_the_job_too(
    submit: Submit, corpus: Path, output: Path, busy: Busy, job_processes: Processes
) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        raise TaskEnded

    before = signal.signal(signal.SIGALRM, end)
    try:
        with busy(output):
            job = submit(corpus)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(TaskEnded):
                job.wait()
        assert job_processes() == []
        with pytest.raises(bei_jobs.Interrupted, match="killed by SIGTERM"):
            job.wait()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_program_to_which_ctrl_c_means_nothing_can_still_stop_its_job(
    python: Python,
    corpus: Path,
    output: Path,
    tiny: dict[str, object],
    busy: Busy,
    job_processes: Processes,
) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    hears = "signal.signal(signal.SIGTERM, lambda *_: sys.exit('told to end'))\n"
    with busy(output):
        program = python(f"{deaf}{hears}{SUBMIT}job.wait()", corpus, tiny["model"])
        assert program.stdout is not None
        assert program.stdout.readline() == "submitted\n"
        program.terminate()
        _, err = program.communicate()
        assert "told to end" in err
        until(lambda: not job_processes(), "the job to stop")


def test_an_interrupt_while_submit_plans_leaves_no_process_behind(
    python: Python,
    tmp_path: Path,
    tiny: dict[str, object],
    job_processes: Processes,
) -> None:
    # A FIFO that nobody writes to: planning waits for the job file.
    fifo = tmp_path / "job.toml"
    subprocess.run(["mkfifo", str(fifo)], check=True)
    program = python(
        "import bei_jobs\n"
        "try: bei_jobs.submit(job_file='job.toml')\n"
        "except KeyboardInterrupt: input(print('interrupted', flush=True))\n"
    )
    until(job_processes, "the process that plans")
    program.send_signal(signal.SIGINT)
    assert program.stdout is not None
    assert program.stdout.readline() == "interrupted\n"
    assert job_processes() == []
    program.communicate("\n")


def test_an_interrupt_while_a_process_is_started_does_not_leave_it_behind(
    python: Python, job_processes: Processes
) -> None:
    # Ctrl-C when the process exists, but subprocess.Popen has not returned.
    interrupted = """
import signal, subprocess
import bei_jobs

class Slow(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        signal.raise_signal(signal.SIGINT)

subprocess.Popen = Slow
try: bei_jobs.submit('corpus.parquet')
except KeyboardInterrupt: input(print('interrupted', flush=True))
"""
    program = python(interrupted)
    assert program.stdout is not None
    assert program.stdout.readline() == "interrupted\n"
    assert job_processes() == []
    program.communicate("\n")


def test_an_interrupt_of_a_whole_terminal_stops_no_job_that_is_not_waited_for(
    python: Python, corpus: Path, output: Path, tiny: dict[str, object], busy: Busy
) -> None:
    # A terminal and a notebook's server send SIGINT to a group of processes, not to one.
    # Not by print: the program may still be in the print of its line before.
    hears = "import os, signal\nsignal.signal(signal.SIGINT, lambda *_: os.write(1, b'heard\\n'))\n"
    waits = "input()\nprint(job.wait().state)"
    with busy(output):
        program = python(f"{hears}{SUBMIT}{waits}", corpus, tiny["model"], alone=True)
        assert program.stdout is not None
        assert program.stdout.readline() == "submitted\n"
        os.killpg(program.pid, signal.SIGINT)
        assert program.stdout.readline() == "heard\n"
    out, err = program.communicate("\n")
    assert (out, err) == ("done\n", "")


def test_a_job_goes_on_when_nobody_holds_it(
    submit: Submit, corpus: Path, output: Path, busy: Busy
) -> None:
    with busy(output):
        job = submit(corpus)
        where = job.id
        del job
        gc.collect()
    assert bei_jobs.job(where).wait(60).state == "done"


def test_a_job_stops_when_the_program_that_submitted_it_ends(
    python: Python,
    corpus: Path,
    output: Path,
    tiny: dict[str, object],
    busy: Busy,
    job_processes: Processes,
) -> None:
    waits = "import time\nwhile 'waiting for process' not in job.log(): time.sleep(0.02)\n"
    with busy(output):
        program = python(SUBMIT + waits, corpus, tiny["model"])
        _, err = program.communicate()
        assert program.returncode == 0
        assert "stopping a job" in err
        until(lambda: not job_processes(), "the job to stop")
    assert bei_jobs.job(output).status().state == "interrupted"
    with pytest.raises(bei_jobs.Interrupted, match="stopped: 0 of 20 rows"):
        bei_jobs.job(output).wait()


def test_a_job_runs_to_its_end_when_the_program_that_submitted_it_is_killed(
    python: Python, corpus: Path, output: Path, tiny: dict[str, object], busy: Busy
) -> None:
    with busy(output):
        program = python(f"{SUBMIT}\njob.wait()", corpus, tiny["model"])
        assert program.stdout is not None
        assert program.stdout.readline() == "submitted\n"
        program.kill()
        program.communicate()
    assert bei_jobs.job(output).wait(60).rows.computed == 20

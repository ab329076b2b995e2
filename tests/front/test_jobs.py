"""A job as a program holds it: submitted, waited for, looked at, cancelled, attached to."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
from corpora import damaged_in_the_middle
from fleet import until

import bei_jobs

Submit = Callable[..., bei_jobs.Job]
Busy = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def damaged(tmp_path: Path, make_corpus: Callable[..., Path]) -> Path:
    """A directory of two files, one of which is seen to be damaged when its rows are read."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name in ("a", "b"):
        make_corpus(name=name).rename(folder / f"{name}.parquet")
    damaged_in_the_middle(folder / "b.parquet", 0)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "corpus.embed"


def test_a_job_is_submitted_waited_for_and_described(shared_job: bei_jobs.Job) -> None:
    job = shared_job
    assert (Path(job.output).name, job.run) == ("corpus.embed", 1)
    assert Path(job.output).with_name("corpus.parquet").exists()
    status = job.wait()
    assert (status.job, status.output, status.run) == (job.id, job.output, job.run)
    assert (status.state, status.rows.computed, status.shards.done) == ("done", 20, 1)
    assert status.tokens > 0
    assert status.model.name.endswith("bert_mean")
    assert status.choices["precision"].value == "float32"
    assert status.choices["precision"].reason
    assert job.wait() == status
    assert job.status().state == "done"


def test_the_same_submit_again_finds_everything_there(
    submit: Submit, shared_job: bei_jobs.Job
) -> None:
    shared_job.wait()
    again = submit([Path(shared_job.output).with_name("corpus.parquet")])
    assert again == shared_job
    assert (again.wait().rows.computed, again.wait().rows.reused) == (0, 20)


def test_a_job_file_may_name_inputs_and_options(submit: Submit, corpus: Path) -> None:
    file = corpus.with_name("job.toml")
    file.write_text(f'inputs = ["{corpus}"]\nlimit = 7\noutput = "{corpus.parent}/seven"\n')
    status = submit(job_file=file).wait()
    assert (status.rows.total, Path(status.output).name) == (7, "seven")


def test_rows_that_cannot_be_computed_are_no_failure(
    submit: Submit, make_corpus: Callable[..., Path]
) -> None:
    status = submit(make_corpus(null=(3,)), max_failed_rows=1).wait()
    assert (status.state, status.rows.failed, status.rows.done) == ("done", 1, 20)


def test_a_job_that_fails_says_why_and_what_to_do(
    submit: Submit, make_corpus: Callable[..., Path]
) -> None:
    job = submit(make_corpus(null=(3,)), max_failed_rows=0)
    with pytest.raises(bei_jobs.JobFailed, match="more than --max-failed-rows") as failed:
        job.wait()
    assert failed.value.hint
    status = job.status()
    assert (status.state, status.reason) == ("failed", str(failed.value))
    with pytest.raises(bei_jobs.JobFailed, match="more than --max-failed-rows"):
        bei_jobs.job(job.output).wait()


def test_submit_returns_when_the_run_is_planned_and_wait_gives_up_but_not_the_job(
    submit: Submit, corpus: Path, output: Path, busy: Busy
) -> None:
    with busy(output):
        job = submit(corpus)
        assert job.status().state == "queued"
        with pytest.raises(TimeoutError, match=rf"{job.id} is not done after 0.1 s"):
            job.wait(0.1)
        with pytest.raises(TimeoutError, match="not done"):
            bei_jobs.job(job.id).wait(0.1)
    assert job.wait().state == "done"


def test_what_the_process_says_is_kept_and_shown_to_who_asks(
    submit: Submit, corpus: Path, output: Path, busy: Busy, capfd: pytest.CaptureFixture[str]
) -> None:
    with busy(output):
        job = submit(corpus)
        until(lambda: "waiting for process" in job.log(), "what it says while it waits")
    job.wait()
    assert "waiting for process" in job.log()
    assert capfd.readouterr() == ("", "")


def test_a_cancelled_job_ends_and_says_so(
    submit: Submit, corpus: Path, output: Path, busy: Busy
) -> None:
    with busy(output):
        job = submit(corpus)
        assert job.cancel().state == "cancelled"
    with pytest.raises(bei_jobs.JobFailed, match="was cancelled") as ended:
        job.wait()
    assert "resumes" in ended.value.hint
    assert submit(corpus).wait().state == "done"


def test_a_job_that_went_on_without_a_damaged_file_is_described_by_its_last_run(
    submit: Submit, damaged: Path
) -> None:
    job = submit(damaged)
    ended = job.wait()
    assert (job.run, ended.run, ended.state) == (1, 2, "done")
    now = job.status()
    assert (now.job, now.state) == (ended.job, "done")
    assert job.cancel().job == ended.job


def test_a_job_that_goes_on_without_a_damaged_file_can_be_looked_at_and_cancelled(
    submit: Submit, damaged: Path, tmp_path: Path, busy: Busy
) -> None:
    first = submit(damaged, max_bad_files=0)
    with pytest.raises(bei_jobs.JobFailed, match=r"b\.parquet"):
        first.wait()
    with busy(tmp_path / "damaged.embed"):
        second = submit(damaged)
        job = replace(first, _child=second._child)  # as if its own process had gone on
        now = job.status()
        assert (now.job, now.run, now.state) == (second.id, 2, "queued")
        cancelled = job.cancel()
        assert (cancelled.job, cancelled.state) == (second.id, "cancelled")
    with pytest.raises(bei_jobs.JobFailed, match="was cancelled"):
        job.wait()


def test_a_run_that_failed_is_not_the_end_while_its_process_may_go_on(
    submit: Submit, damaged: Path, corpus: Path, busy: Busy
) -> None:
    first = submit(damaged, max_bad_files=0)
    with pytest.raises(bei_jobs.JobFailed):
        first.wait()
    with busy(corpus.with_name("corpus.embed")):
        another = submit(corpus)
        job = replace(first, _child=another._child)  # as if it planned the next run
        assert (job.status().state, job.status().run) == ("running", 1)
    another.wait()
    assert first.status().state == "failed"


def test_a_job_that_is_done_cannot_be_cancelled(shared_job: bei_jobs.Job) -> None:
    shared_job.wait()
    assert shared_job.cancel().state == "done"


def test_a_job_whose_process_is_killed_failed_and_goes_on_when_submitted_again(
    submit: Submit,
    corpus: Path,
    output: Path,
    busy: Busy,
    job_processes: Callable[[], list[psutil.Process]],
) -> None:
    with busy(output):
        job = submit(corpus)
        for process in job_processes():
            process.kill()
        with pytest.raises(bei_jobs.JobFailed, match="killed by SIGKILL") as ended:
            job.wait()
    assert "token_budget" in ended.value.hint
    assert submit(corpus).wait().state == "done"


def test_a_job_is_found_again_by_id_by_output_and_after_pickling(shared_job: bei_jobs.Job) -> None:
    job = shared_job
    status = job.wait()
    for same in (bei_jobs.job(job.id), bei_jobs.job(job.output), pickle.loads(pickle.dumps(job))):
        assert same == job
        assert same.log() == ""
        assert same.wait().rows.done == status.rows.done


def test_a_job_that_this_machine_does_not_know_is_found_by_its_output(
    submit: Submit,
    make_corpus: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = submit(make_corpus(), output=tmp_path / "out")
    job.wait()
    monkeypatch.setenv("BEI_JOBS_STATE_DIR", str(tmp_path / "another machine"))
    assert job.status().state == "done"
    submit(make_corpus(name="other"), output=tmp_path / "out", replace=True, prune=True).wait()
    monkeypatch.setenv("BEI_JOBS_STATE_DIR", str(tmp_path / "a third"))
    with pytest.raises(bei_jobs.NotFound, match=job.id):  # the output's newest run is another
        job.status()


def test_a_broker_of_the_environment_or_a_job_file_can_be_declined(
    submit: Submit, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_JOBS_BROKER", "redis://127.0.0.1:1/0")
    with pytest.raises(bei_jobs.BrokerError):
        submit(corpus)
    file = corpus.with_name("job.toml")
    file.write_text('broker = "redis://127.0.0.1:1/0"')
    job = submit(corpus, broker="", job_file=file)
    assert job.wait() == job.wait()
    assert job.status().state == "done"


def test_a_status_of_a_newer_version_is_understood() -> None:
    known = {
        **{"job": "j", "output": "o", "run": 1, "state": "done", "tokens": 1, "truncated": 0},
        "seconds": 0.5,
        "shards": {"total": 1, "done": 1, "failed": 0, "skipped": 2},
        "rows": {"total": 1, "done": 1, "computed": 1, "reused": 0, "failed": 0, "new": 3},
        "model": {"name": "m", "revision": "", "sha256": "", "license": "?"},
        "added": True,
    }
    status = bei_jobs.JobStatus.of(known)
    assert status.final
    assert not hasattr(status, "added")
    assert {field.name for field in fields(status)} >= {"rows", "shards", "model"}


def test_the_program_that_submits_loads_none_of_what_the_job_needs(
    python: Callable[..., subprocess.Popen[str]], corpus: Path, tiny: dict[str, object]
) -> None:
    program = python(
        "import bei_jobs, sys\n"
        "job = bei_jobs.submit(sys.argv[1], model=sys.argv[2], device='cpu')\n"
        "job.wait(), job.status(), bei_jobs.verify(job.output)\n"
        "names = {'jobs', 'workers', 'pipeline', 'torch', 'celery', 'transformers', 'click'}\n"
        "print(sorted(names & sys.modules.keys()), 'pyarrow' in sys.modules)\n"
        "bei_jobs.read(job.output)\n"
        "print(sorted(names & sys.modules.keys()), 'pyarrow' in sys.modules)\n",
        corpus,
        tiny["model"],
    )
    out, err = program.communicate()
    assert (out.splitlines(), err) == (["[] False", "[] True"], "")

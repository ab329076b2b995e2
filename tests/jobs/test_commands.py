"""The other commands, on local outputs: files, list, status, cancel, retry; JSON and settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from commandline import Bei, Outcome, spawn
from corpora import ROOT, TINY, parts, write_parquet

from pipeline.output.output import Output
from pipeline.output.run import job_id
from workers.known_jobs import JobRef, KnownJobs

SUMMARY = {
    "job", "output", "run", "state", "shards", "rows", "tokens", "truncated", "seconds", "model",
    "started", "finished", "checked", "by", "versions", "files", "changes", "last_failure",
    "certificate", "canaries",
}  # fmt: skip


def summarized(outcome: Outcome, state: str) -> dict:
    """The one JSON object of a job, with all of the keys that scripts rely on."""
    reported = outcome.json
    assert reported.keys() - {"reason", "hint", "choices", "kept"} == SUMMARY
    assert reported["shards"].keys() == {"total", "done", "failed"}
    rows = reported["rows"]
    assert rows.keys() == {"total", "done", "computed", "reused", "deduplicated", "failed"}
    assert sum(rows.values()) == rows["total"] + 2 * rows["done"]
    assert reported["model"].keys() == {"name", "revision", "sha256"}
    assert reported["state"] == state
    return reported


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", 20)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "corpus.embed"


def test_files_lists_the_parts_in_input_order(bei: Bei, finished: Path) -> None:
    listed = bei("files", finished)
    assert listed.out.splitlines() == [str(finished / name) for name in parts(finished)]
    reported = bei("files", finished, "--json").json
    assert reported["files"] == listed.out.splitlines()
    assert (reported["rows"], reported["output"]) == (30, str(finished))


def test_status_knows_a_job_by_its_output_and_by_its_id(
    submit: Bei, bei: Bei, corpus: Path, output: Path
) -> None:
    job = summarized(submit(corpus, "--json"), "done")["job"]
    assert summarized(bei("status", output, "--json"), "done")["job"] == job
    assert bei("status", job, "--json").json == bei("status", output, "--json").json
    shown = bei("status", job)
    assert shown.code == 0
    assert job in shown.out
    assert "20 of 20" in shown.out


def test_list_shows_the_jobs_of_this_machine_in_columns(
    submit: Bei, bei: Bei, corpus: Path, output: Path, tmp_path: Path
) -> None:
    assert bei("list").err == "no known jobs\n"
    assert bei("list", "--json").json == {"jobs": []}
    one = submit(corpus, "--json").json["job"]
    two = submit(corpus, "--output", tmp_path / "two", "--json").json["job"]
    reported = bei("list", "--json").json
    assert {job["job"] for job in reported["jobs"]} == {one, two}
    assert {job["state"] for job in reported["jobs"]} == {"done"}
    header, *lines = bei("list").out.splitlines()
    assert header.split() == [
        *("JOB", "STATE", "ROWS", "STARTED", "(UTC)", "FINISHED", "(UTC)", "MODEL", "OUTPUT")
    ]  # fmt: skip
    at = header.index("MODEL")
    assert [line[at:].split()[0] for line in lines] == [Path(TINY).name] * 2
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert all(re.search(rf"done +20 of 20 +{moment}  {moment}  ", line) for line in lines)
    assert {line.split()[-1] for line in lines} == {str(tmp_path / "two"), str(output)}
    assert len(bei("list", "-n", 1).out.splitlines()) == 2
    assert bei("list", "--state", "failed,running").err == "no such job\n"
    assert len(bei("list", "--state", "failed,done", "--json").json["jobs"]) == 2
    assert "did you mean done?" in bei("list", "--state", "don").err


def test_list_begins_with_the_newest(
    bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [
        JobRef(job_id(f"/gone/{n}", n), f"/gone/{n}", n, f"2026-01-0{n}T00:00:00Z")
        for n in (2, 3, 1)
    ]
    for ref in refs:
        KnownJobs(tmp_path / "state").add(ref)
    ids = [ref.job for ref in sorted(refs, key=lambda ref: ref.created, reverse=True)]
    assert [line.split()[0] for line in bei("list").out.splitlines()[1:]] == ids
    assert [job["job"] for job in bei("list", "-n", 2, "--json").json["jobs"]] == ids[:2]
    assert bei("list", "--state", "gone").out.count("gone ") == 3


def test_list_says_which_outputs_are_gone(
    submit: Bei, bei: Bei, corpus: Path, output: Path
) -> None:
    job = submit(corpus, "--json").json["job"]
    output.rename(output.with_name("elsewhere"))
    (listed,) = bei("list", "--json").json["jobs"]
    assert (listed["job"], listed["state"]) == (job, "gone")
    assert job in bei("list").out


def stopped(corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch, submit: Bei) -> Outcome:
    """Submit, and stop after the first of two shards as Ctrl-C does."""
    commit = Output.commit

    def commit_then_interrupt(self, part, data):
        created = commit(self, part, data)
        stop.set()
        return created

    stop = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(Output, "commit", commit_then_interrupt)
        patch.setattr("workers.stop_signals.Stop.is_set", lambda self: stop.is_set())
        patch.setattr("pipeline.slices.READ_ROWS", 1)  # so that the device cannot run far ahead
        patch.setattr("pipeline.blocks._FIRST_BLOCK_ROWS", 1)
        patch.setattr("pipeline.blocks._BLOCK_ROWS", 1)
        words = ("--token-budget", 1, "--rows-per-shard", 10, "--output", output, "--json")
        return submit(corpus, *words)


@pytest.mark.usefixtures("device_in_this_process")
def test_an_interrupted_submit_reports_how_far_it_came(
    submit: Bei, corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = stopped(corpus, output, monkeypatch, submit)
    assert outcome.code == 130
    reported = summarized(outcome, "interrupted")
    assert reported["rows"] == {
        "total": 20, "done": 10, "computed": 10, "reused": 0, "deduplicated": 0, "failed": 0,
    }  # fmt: skip
    assert "the same command" in outcome.err


def test_a_failed_submit_reports_its_state_and_reason_in_json(
    submit: Bei, bei: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 20, text=[None] * 20)
    outcome = submit(corpus, "--json")
    assert outcome.code == 1
    reported = summarized(outcome, "failed")
    assert reported["rows"] == {
        "total": 20, "done": 20, "computed": 0, "reused": 0, "deduplicated": 0, "failed": 20,
    }  # fmt: skip
    assert "20 of 20 rows failed" in reported["reason"]
    assert "20 of 20 rows failed" in outcome.err
    cancelled = bei("cancel", tmp_path / "c.embed")
    assert cancelled.code == 1
    assert "nothing to cancel: the job failed at 20" in cancelled.err


@pytest.mark.usefixtures("device_in_this_process")
def test_a_cancelled_job_stays_cancelled_until_it_is_submitted_or_retried(
    submit: Bei, bei: Bei, corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(corpus, output, monkeypatch, submit)
    cancelled = bei("cancel", output, "--json")
    assert cancelled.code == 0
    summarized(cancelled, "cancelled")
    assert cancelled.err == ""
    again = bei("cancel", output)
    assert (again.code, again.err) == (0, "nothing to cancel: it was cancelled before\n")
    status = bei("status", output, "--json")
    assert status.code == 1
    summarized(status, "cancelled")
    assert len(parts(output)) == 1
    again = submit(corpus, "--json")
    assert (again.code, again.json["run"]) == (0, 2)
    assert again.json["rows"]["reused"] == 10
    assert bei("verify", output).code == 0


@pytest.mark.usefixtures("device_in_this_process")
def test_retry_finishes_a_cancelled_job_under_its_own_id(
    submit: Bei, bei: Bei, corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stopped(corpus, output, monkeypatch, submit).json["job"]
    assert bei("cancel", job).code == 0
    retried = bei("retry", job, "--json")
    assert retried.code == 0
    assert summarized(retried, "done")["job"] == job
    assert retried.json["rows"]["reused"] == 10
    again = submit(corpus, "--token-budget", 1, "--json")
    assert (again.code, again.json["job"]) == (0, job)


def test_a_finished_job_cannot_be_cancelled(
    submit: Bei, bei: Bei, corpus: Path, output: Path
) -> None:
    assert submit(corpus).code == 0
    cancelled = bei("cancel", output, "--json")
    assert cancelled.code == 1
    finished = summarized(cancelled, "done")["finished"]
    assert f"nothing to cancel: the job finished at {finished}" in cancelled.err
    assert bei("status", output).code == 0


@pytest.mark.usefixtures("device_in_this_process")
def test_a_job_in_the_foreground_stops_when_it_is_cancelled_from_elsewhere(
    submit: Bei, bei: Bei, corpus: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Output.commit

    def commit_then_cancel(self, part, data):
        run = self.latest()
        assert run is not None
        self.cancel(run)
        return commit(self, part, data)

    monkeypatch.setattr(Output, "commit", commit_then_cancel)
    outcome = submit(corpus, "--rows-per-shard", 10, "--json")
    assert outcome.code == 1
    assert "was cancelled" in outcome.err
    summarized(outcome, "cancelled")
    assert bei("files", output).code == 1


@pytest.mark.usefixtures("device_in_this_process")
def test_a_run_that_a_later_one_replaced_says_so_and_leaves_the_output_to_it(
    submit: Bei, bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = tmp_path / "data", tmp_path / "data.embed"
    for seed, name in enumerate("ab"):
        write_parquet(folder / f"{name}.parquet", 10, seed=seed)
    commit = Output.commit
    inner: list[int] = []

    def another_submit_meanwhile(self, part, data):
        if not inner:
            inner.append(0)
            write_parquet(folder / "c.parquet", 10, seed=2)
            words = ("submit", folder, "--model", TINY, "--device", "cpu", "--quiet")
            # As on another machine: it does not wait for this machine's lock.
            process = spawn(*words, BEI_JOBS_STATE_DIR=str(tmp_path / "other"))
            assert process.wait(timeout=60) == 0, process.communicate()
            process.communicate()
        return commit(self, part, data)

    monkeypatch.setattr(Output, "commit", another_submit_meanwhile)
    outcome = submit(folder, "--json")
    assert outcome.code == 1
    assert "run 2" in outcome.err
    assert "superseded it" in summarized(outcome, "cancelled")["reason"]
    assert bei("verify", output).code == 0
    assert bei("status", output, "--json").json["rows"]["done"] == 30


def test_nothing_but_json_on_stdout_and_progress_on_stderr(corpus: Path) -> None:
    process = spawn("submit", corpus, "--model", TINY, "--device", "cpu", "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["state"] == "done"
    assert "20/20 rows" in err
    # The seconds in which a model loads are not silent: a line says so before the bar.
    assert re.search(rf"^loading +{TINY} on cpu …$", err, re.MULTILINE)
    assert err.index("loading") < err.index("0/20 rows")


def test_options_come_from_the_environment(
    submit: Bei, bei: Bei, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_JOBS_DIMENSIONS", "8")
    monkeypatch.setenv("BEI_JOBS_OUTPUT", str(tmp_path / "from-environment"))
    monkeypatch.setenv("BEI_JOBS_NORMALIZE", "1")
    monkeypatch.setenv("BEI_JOBS_KEEP", "id")
    assert submit(corpus, "--dimensions", 16).code == 0
    run = Output(str(tmp_path / "from-environment")).latest()
    assert run is not None
    assert (run.spec.dimensions, run.spec.normalize, run.spec.keep) == (16, True, ("id",))


def test_a_wrong_value_in_the_environment_names_the_variable(
    submit: Bei, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEI_JOBS_LIMIT", "some")
    refused = submit(corpus)
    assert refused.code == 2
    assert "BEI_JOBS_LIMIT" in refused.err or "--limit" in refused.err


def job_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(text)
    return path


def test_a_job_file_sets_inputs_and_options_and_the_line_wins_over_it(
    bei: Bei, corpus: Path, tmp_path: Path
) -> None:
    path = job_file(
        tmp_path,
        f'inputs = ["{corpus}"]\nmodel = "{TINY}"\ndimensions = 8\nkeep = ["id", "text"]\n'
        f'output = "{tmp_path / "out"}"\nnormalize = true\ndevice = "cpu"\n',
    )
    assert bei("submit", "--job-file", path, "--quiet", "--dimensions", 16).code == 0
    run = Output(str(tmp_path / "out")).latest()
    assert run is not None
    assert (run.spec.dimensions, run.spec.keep) == (16, ("id", "text"))
    assert (run.spec.normalize, run.inputs) == (True, (str(corpus),))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("modell = 'x'\n", "modell"),
        ("this is no TOML", "cannot be read"),
        ("limit = 'many'\n", "limit"),
    ],
)
def test_a_job_file_that_makes_no_sense_is_refused_by_name(
    submit: Bei, corpus: Path, tmp_path: Path, text: str, named: str
) -> None:
    refused = submit(corpus, "--job-file", job_file(tmp_path, text))
    assert refused.code == 2
    assert named in refused.err
    assert len(refused.screen) <= 6


def test_a_job_file_that_does_not_exist_is_refused(submit: Bei, corpus: Path) -> None:
    refused = submit(corpus, "--job-file", "no-such.toml")
    assert refused.code == 2
    assert "no-such.toml" in refused.err


@pytest.mark.parametrize(
    "words",
    [("--help",), ("submit", "--help"), ("status", "OUTPUT"), ("list",), ("files", "OUTPUT"),
     ("verify", "OUTPUT")],
)  # fmt: skip
def test_commands_that_compute_nothing_load_no_torch(
    finished: Path, words: tuple[str, ...]
) -> None:
    typed = [str(finished) if word == "OUTPUT" else word for word in words]
    script = (
        "import sys\nfrom jobs.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *typed], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout + ended.stderr


def test_the_version_and_every_command_have_help(bei: Bei) -> None:
    from jobs.cli import COMMANDS

    assert bei("--version").out.startswith("bei-jobs, version ")
    shown = bei("--help")
    for name, line in COMMANDS.items():
        assert line.split()[0] in shown.out
        assert bei(name, "--help").code == 0

"""`bei-jobs watch`: what a person sees on a terminal, and what a file gets without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei, command, spawn
from corpora import TINY, write_parquet
from fixtures_redis import RedisServer
from fleet import until
from terminal import Terminal

from jobs.display import Display
from jobs.follow import BarView
from jobs.live import Live, Watched
from jobs.watch_lines import WatchLines
from pipeline.output.leases import RunLease
from pipeline.output.output import Output, find_run
from pipeline.output.plan import Span
from pipeline.output.status import job_status
from pipeline.shards import ShardResult
from workers.broker import Broker, WorkerInfo
from workers.device_reports import DeviceReport
from workers.step_back import Refusal

WORKER = WorkerInfo("gpu-7", 41, "0.1.0", ("cuda:0", "cuda:1"), "2026-01-01T00:00:00Z")
OLD = WorkerInfo("attic", 9, "0.1.0", ("cpu",), "2026-01-01T00:00:00Z")
MINUTE = 60.0

Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    """Type `bei-jobs WORDS…` on a terminal."""
    opened: list[Terminal] = []

    def open_(*words: object, **settings: Any) -> Terminal:
        opened.append(Terminal(command(*words), **settings))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "corpus.embed"


@pytest.fixture
def queue(bei: Bei, tmp_path: Path) -> Callable[..., str]:
    """Enqueue a job of ten shards; its id."""

    def submit(url: str, name: str = "corpus") -> str:
        corpus = write_parquet(tmp_path / f"{name}.parquet", 100)
        done = bei(
            "submit", corpus, "--model", TINY, "--broker", url, "--rows-per-shard", 10, "--json"
        )
        assert done.code == 0, done.err
        job: str = done.json["job"]
        return job

    return submit


def computing(job: str, device: str = "cuda:0", **more: Any) -> DeviceReport:
    """A device that computes 2.5 rows a second."""
    values: dict[str, Any] = {
        "rows": 40, "tokens": 4000, "rows_per_second": 2.5, "tokens_per_second": 250.0,
        "batch_fill": 0.874, "mean": 2.5, "spread": 0.5, **more,
    }  # fmt: skip
    return DeviceReport(device, "computing", job, "org/tiny-model", **values)


def work(broker: Broker, job: str) -> None:
    """Two workers with three devices: one computes, one loads, one says nothing of itself."""
    broker.heartbeat(WORKER, MINUTE)
    broker.heartbeat(OLD, MINUTE)
    loading = DeviceReport("cuda:1", "loading", job, "org/tiny-model")
    broker.report(WORKER, [computing(job), loading], MINUTE)
    broker.add_progress(job, 40, 4000)
    broker.refuse(job, Refusal("attic", 9, "cpu", "no model here", "copy it", 9.5, final=False))
    with broker.ledger(job) as ledger:
        assert ledger.claim(Span(2, 2))
        ledger.lease(Span(2, 2), "gpu-7:42:a", MINUTE).take()


def test_the_screen_of_a_fleet_on_wide_and_narrow_terminals(
    terminal: Open, queue: Callable[..., str], bei: Bei, redis_url: str, tmp_path: Path
) -> None:
    job, broker = queue(redis_url), Broker(redis_url)
    work(broker, job)
    out = tmp_path / "out"
    watch = terminal("watch", job, "--broker", redis_url, "--json", columns=110, out=out)

    shown = watch.until(lambda text: "Ctrl-C" in text, "the first frame")

    # All of it is there in the first frame, right for one who joins late.
    assert f"job {job}  running  embed with" in shown
    assert "40 %  40 of 100 rows" in shown
    assert "░░▒▒░░░░░░" in shown
    assert "0 of 10 shards, 2 begun" in shown
    assert "2.5 rows/s, 250 tokens/s, about 24 s left (20 s to 29 s)" in shown
    rows = [line.split("  ") for line in shown.splitlines() if line.startswith(("gpu", "attic"))]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells == [
        ["attic:9", "cpu", "-", "connected", "-", "-", "-"],
        ["gpu-7:41", "cuda:0", "tiny-model", "computing", "2.5", "250", "87 %"],
        ["gpu-7:41", "cuda:1", "tiny-model", "loading", "-", "-", "-"],
    ]
    assert "stepped back: attic (cpu): no model here" in shown
    assert b"\x1b[32m" in watch.raw

    watch.resize(40, 24)
    narrow = watch.until(lambda text: "cuda:0  computing" in text, "a narrow frame")
    (busy,) = [line for line in narrow.splitlines() if "cuda:0" in line]
    assert busy.split() == ["gpu-7:41", "cuda:0", "computing", "2.5"]
    assert "2.5 rows/s, 250 tokens/s, about 24 s left (20 s to 29 s)" in " ".join(narrow.split())

    watch.interrupt()
    assert watch.wait() == 130
    assert f"the job continues: bei-jobs watch {job}" in watch.text().replace("\n", "")
    assert json.loads(out.read_text())["job"] == job
    assert b"\x1b[?1049l" in watch.raw  # what was on the terminal before is there again
    assert b"\x1b[?25h" in watch.raw  # and the cursor
    assert bei("status", job, "--broker", redis_url).code == 0


def test_a_screen_without_colours_and_without_unicode_and_a_job_that_is_cancelled(
    terminal: Open, queue: Callable[..., str], bei: Bei, redis_url: str
) -> None:
    job, broker = queue(redis_url), Broker(redis_url)
    work(broker, job)
    hostile = computing(job, error="a row\x1b]0;owned\x07 died — of Ł")
    broker.report(WORKER, [hostile], MINUTE)
    watch = terminal("watch", job, "--broker", redis_url, NO_COLOR="1", PYTHONIOENCODING="latin-1")

    shown = watch.until(lambda text: "Ctrl-C" in text, "the first frame")

    assert "..~~......" in shown
    assert "gpu-7 (cuda:0): a row ]0;owned  died ? of ?" in shown
    assert b"\x1b]0;" not in watch.raw
    assert b"\x1b[3" not in watch.raw.replace(b"\x1b[3J", b"")  # no colour of the foreground
    watch.raw.decode("ascii")
    bei("cancel", job, "--broker", redis_url)
    assert watch.wait() == 1
    assert "cancelled" in watch.text()


def test_a_terminal_that_is_told_to_end_is_left_in_order(
    terminal: Open, queue: Callable[..., str], redis_url: str
) -> None:
    job = queue(redis_url)
    watch = terminal("watch", job, "--broker", redis_url)
    watch.until(lambda text: "start one with `bei-jobs worker" in text, "the first frame")
    watch.process.send_signal(signal.SIGTERM)
    assert watch.wait() == -signal.SIGTERM
    assert b"\x1b[?1049l" in watch.raw


def test_a_broker_that_is_lost_and_back(
    terminal: Open, queue: Callable[..., str], redis_server: Callable[..., RedisServer]
) -> None:
    server = redis_server()
    job = queue(server.url)
    work(Broker(server.url), job)
    watch = terminal("watch", job, "--broker", server.url)
    watch.until(lambda text: "40 of 100 rows" in text, "the first frame")

    server.kill()
    lost = watch.until(lambda text: "trying again" in text, "the loss to be shown")
    assert "cannot be reached" in lost
    assert "40 of 100 rows" in lost
    server.start()
    back = watch.until(lambda text: "no worker is connected" in text, "the broker to be back")
    assert "trying again" not in back


def test_several_jobs_as_plain_lines_until_all_have_ended(
    queue: Callable[..., str], submit: Bei, bei: Bei, redis_url: str, output: Path
) -> None:
    one, two = queue(redis_url), queue(redis_url, "other")
    work(Broker(redis_url), one)
    watch = spawn("watch", one, two, "--broker", redis_url, "--json")
    assert watch.stderr is not None
    seen: list[str] = []

    def read_to(text: str) -> None:
        for line in watch.stderr or ():
            seen.append(line)
            if text in line:
                return
        raise AssertionError(f"no line with {text!r} among {seen}")

    read_to(f"{one}  40 of 100 rows (40 %), 2.5 rows/s, 250 tokens/s, about 24 s left")
    assert f"{one}  gpu-7:41 cuda:0: computing\n" in seen
    assert f"{one}  stepped back: attic (cpu): no model here\n" in seen
    assert not any(char in line for line in seen for char in "\r\x1b█░")
    bei("cancel", one, "--broker", redis_url)
    corpus = output.with_name("other.parquet")
    output = output.with_name("other.embed")
    assert submit(corpus, "--rows-per-shard", 10).code == 0
    read_to(f"{one}  cancelled: 0 of 10 shards")
    read_to(f"{two}  done: 10 of 10 shards")
    out, _ = watch.communicate(timeout=60)
    assert watch.returncode == 1  # the worse one
    states = {job["job"]: job["state"] for job in json.loads(out)["jobs"]}
    assert states == {one: "cancelled", two: "done"}


def test_the_end_of_a_job_is_said_once_however_long_others_go_on(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = Watched(*find_run(str(finished)), broker=None).look()
    lines = WatchLines(clock=lambda: 0.0)
    for _ in range(3):
        lines.show([live])

    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "done" in line] == ["done: 3 of 3 shards"]
    assert [line for line in said if "rows" in line] == ["30 of 30 rows (100 %)"]


def run_in_foreground(output: Path, job: Output, **progress: Any) -> RunLease:
    """As a process that computes a job here says it: this one, which lives."""
    run = job.latest()
    assert run is not None
    job.directory.delete(run.path("queued.json"))
    lease = RunLease(job, run)
    lease.write(computing=True, progress=progress)
    return lease


def test_a_job_of_this_machine_is_watched_without_a_broker(
    terminal: Open, queue: Callable[..., str], redis_url: str, output: Path
) -> None:
    job = queue(redis_url)
    run = find_run(str(output))[1]
    devices = [computing(job, "cpu")]
    lease = run_in_foreground(
        output, Output(str(output)), rows=55, devices=[_as_dict(report) for report in devices]
    )
    Output(str(output)).record_failure(
        run, ShardResult("f" * 32, "p", 10, computed=False, error="part 3: no such row"), "a"
    )
    watch = terminal("watch", output)

    shown = watch.until(lambda text: "Ctrl-C" in text, "the first frame")

    assert f"job {job}  running" in shown
    assert "55 of 100 rows" in shown
    assert "2.5 rows/s, 250 tokens/s, about 18 s left (15 s to 22 s)" in shown
    assert "cpu     tiny-model  computing     2.5" in shown
    assert "part 3: no such row" in shown
    # Its process ends without having finished the job.
    lease.write(computing=True, ended=True)
    assert watch.wait() == 1
    assert "it was interrupted with 0 of 100 rows committed" in watch.text().replace("\n", " ")


def _as_dict(report: DeviceReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__slots__}


@pytest.mark.usefixtures("device_in_this_process")
def test_a_submit_says_how_far_it_is_and_how_fast(
    submit: Bei, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watched by the program that computes: so it is in the middle for certain."""
    monkeypatch.setattr("workers.run_lease.LOCAL_RENEW_SECONDS", 0.01)
    commit, seen = Output.commit, []

    def watch_first(self: Output, part: str, data: memoryview) -> bool:
        watched = Watched(*find_run(str(output)), broker=None)

        def computing() -> Live | None:
            live = watched.look()
            (worker,) = live.workers
            begun = worker.report is not None and worker.report.rows_per_second > 0
            return live if begun else None

        seen.append(until(computing, "the lease to say so"))
        return commit(self, part, data)

    monkeypatch.setattr(Output, "commit", watch_first)
    corpus = write_parquet(tmp_path / "corpus.parquet", 40)

    assert submit(corpus, "--rows-per-shard", 20).code == 0

    (worker,) = seen[0].workers
    assert (worker.pid, worker.device, worker.report.model) == (os.getpid(), "cpu", str(TINY))
    assert worker.report.state == "computing"
    assert 0 < seen[0].rows <= seen[1].rows <= 40
    assert seen[0].tokens_per_second > seen[0].rows_per_second > 0
    assert (seen[0].strip, seen[1].strip) == (b"..", b"#.")
    assert worker.report.batch_fill is not None


def test_a_finished_job_is_shown_and_quiet_shows_nothing(finished: Path, bei: Bei) -> None:
    shown = bei("watch", finished)
    assert shown.code == 3  # a row of it is quarantined
    assert "done: 3 of 3 shards" in shown.err
    assert "30 of 30" in shown.out
    words = command("watch", finished, "--quiet", "--json")
    quiet = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)["state"] == "done"


def test_the_bar_of_a_submit_that_joins_late_has_the_right_rate(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `submit --wait` of a job that is under way: what was done before is no progress."""
    run, now = find_run(str(finished))[1], [1000.0]
    monkeypatch.setattr("jobs.progress_bar.time.monotonic", lambda: now[0])
    status = replace(job_status(*find_run(str(finished))), state="running", rows=1000)
    with BarView(Display()) as bar:
        bar.show([Live(run, status, rows=400, tokens=40_000)])
        now[0] += 2
        bar.show([Live(run, status, rows=404, tokens=40_400)])
    assert "404/1000 rows, 2 rows/s, 200 tokens/s, 04:58 left" in capsys.readouterr().err

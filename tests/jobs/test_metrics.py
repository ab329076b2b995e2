"""A run in the foreground serves metrics on the port it is told, and says what is wrong."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from commandline import Bei, spawn
from corpora import TINY, write_parquet
from scraping import Scrape, free_port
from web_server import Post, WebServer


def test_a_run_in_the_foreground_counts_what_it_does(
    submit: Bei, tmp_path: Path, web: WebServer
) -> None:
    text = ["a", None, "a", *(f"text {row}" for row in range(17))]
    corpus = write_parquet(tmp_path / "corpus.parquet", 20, text=text)
    port, scrapes = free_port(), []

    def scrape(post: Post) -> None:
        if post.event == "done":  # the run has ended, and its process waits for our answer
            scrapes.append(Scrape(port))

    web.on_post = scrape
    words = ("--metrics-port", port, "--notify", f"http://{web.host}/hook", "--json")
    done = submit(corpus, "--rows-per-shard", 10, "--max-failed-rows", 1, *words)

    assert done.code == 3, done.err
    (told,) = scrapes
    assert told("bei_jobs_rows_total", device="cpu") == 19
    assert told("bei_jobs_copied_rows_total", how="deduplicated") == 1
    assert 0 < told("bei_jobs_tokens_total", device="cpu") < done.json["tokens"]  # of copies too
    assert told("bei_jobs_quarantined_rows_total", device="cpu") == 1
    assert told("bei_jobs_shards_total", device="cpu", result="done") == 2
    assert told("bei_jobs_shards_total", device="cpu", result="failed") == 0
    assert told("bei_jobs_device_state", state="idle") == 1
    assert told("bei_jobs_device_state") == 1
    assert told("bei_jobs_device_memory_bytes", device="cpu") > 1e6
    for stage in ("read", "tokenize", "wait", "compute", "commit"):
        assert 0 < told("bei_jobs_stage_seconds_total", stage=stage) < 60
    with pytest.raises(OSError, match="refused"):
        Scrape(port)


def test_a_port_that_is_taken_is_refused_before_anything_is_written(
    submit: Bei, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]

        refused = submit(corpus, "--metrics-port", port, "--json")

    assert refused.code == 2
    assert f"--metrics-port {port} cannot be listened on: Address already in use" in refused.err
    assert not (tmp_path / "corpus.embed").exists()


def test_a_worker_whose_port_is_taken_does_not_start(redis_url: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        words = ("--broker", redis_url, "--device", "cpu", "--metrics-port", port)
        worker = spawn("worker", *words)
        _, err = worker.communicate(timeout=60)

    assert worker.returncode == 2
    assert "Address already in use" in err
    assert "Traceback" not in err


def test_without_the_library_the_command_that_installs_it_is_named(
    submit: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)

    refused = submit(corpus, "--metrics-port", free_port(), "--json")

    assert refused.code == 2
    assert "pip install 'bei-jobs[metrics]'" in refused.json["hint"]


def test_a_fleet_serves_its_metrics_itself(bei: Bei, tmp_path: Path, redis_url: str) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 2)
    words = ("--model", TINY, "--broker", redis_url, "--metrics-port", free_port(), "--json")
    done = bei("submit", corpus, *words)

    assert done.code == 0
    assert "`bei-jobs worker` serves the metrics" in done.json["warnings"][0]

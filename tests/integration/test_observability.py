"""What a worker says of itself: metrics, which dashboard and alerts ask for by name, and logs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from corpora import ROOT, TINY, write_parquet
from fleet import Fleet, until
from scraping import Scrape, free_port
from web_server import Post, WebServer

pytestmark = pytest.mark.integration

ALERTS = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/bei-jobs.json"
ROWS, SHARD = 40, 10


def expressions() -> list[str]:
    """Every query of the dashboard and of the alerts."""
    rules = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = [v["definition"] for v in board["templating"]["list"] if v["type"] == "query"]
    return [*(rule["expr"] for rule in rules), *queries, *variables]


def asked_for() -> set[str]:
    """The names of our metrics in them."""
    return {name for one in expressions() for name in re.findall(r"\bbei_jobs_\w+", one)}


def test_a_worker_exports_what_dashboard_and_alerts_ask_for_and_logs_json(
    fleet: Fleet, tmp_path: Path, web: WebServer
) -> None:
    text = [None, *(f"text {row}" for row in range(ROWS - 1))]
    corpus = write_parquet(tmp_path / "corpus.parquet", ROWS, text=text)
    port, scrapes = free_port(), []

    def scrape(post: Post) -> None:
        scrapes.append((post.event, Scrape(port)))

    web.on_post = scrape
    worker = fleet.start(BEI_JOBS_METRICS_PORT=str(port), BEI_JOBS_LOG_FORMAT="json")
    until(lambda: "serving" in worker.log, "the worker")
    words = ("--model", TINY, "--rows-per-shard", SHARD, "--max-failed-rows", 1, "--json")
    done = fleet.bei(
        "submit", corpus, *words, "--broker", fleet.url, "--wait", "--notify", f"http://{web.host}"
    )
    code = worker.terminate()

    assert (done.code, code) == (3, 0), done.err + fleet.logs()
    (first, before), (last, after) = scrapes
    assert (first, last) == ("start", "done")
    assert before("bei_jobs_rows_total") == 0
    assert after("bei_jobs_rows_total", device="cpu") == ROWS - 1
    assert after("bei_jobs_tokens_total", device="cpu") == done.json["tokens"]
    assert after("bei_jobs_shards_total", result="done") == ROWS / SHARD
    assert after("bei_jobs_quarantined_rows_total") == 1
    assert after("bei_jobs_queue_wait_seconds_count") >= 1
    assert after("bei_jobs_queue_wait_seconds_sum") < 60
    assert after("bei_jobs_broker_up") == 1
    assert all(after("bei_jobs_stage_seconds_total", stage=s) > 0 for s in ("compute", "commit"))
    assert asked_for() <= after.names
    assert _promtool("check", "metrics", given=after.text) == ""
    _check_log(worker.log, done.json["job"])


def _check_log(log: str, job: str) -> None:
    events: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines()]
    assert all({"ts", "level", "logger", "message"} <= event.keys() for event in events)
    shards = [event for event in events if "shard" in event]
    assert {(e["job"], e["device"], e["logger"]) for e in shards} == {
        (job, "cpu", "workers.span_attempt")
    }
    assert len(shards) == ROWS / SHARD
    # The process of the device, the child of Celery, Celery itself, and the parent.
    loggers = {event["logger"].partition(".")[0] for event in events}
    assert {"workers", "celery"} <= loggers
    assert any(e["logger"] == "workers.engine_cache" and e.get("device") == "cpu" for e in events)


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "promtool is not on PATH (Debian: apt-get install prometheus)"
        )
    queries = [one for one in expressions() if not one.startswith("label_values")]
    rules = [
        {"record": f"query_{n}", "expr": one.replace("$__rate_interval", "5m")}
        for n, one in enumerate(queries)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    assert _promtool("check", "rules", str(ALERTS), str(file)) == ""


def _promtool(*words: str, given: str = "") -> str:
    """What promtool finds wrong; nothing where it is not installed."""
    if not shutil.which("promtool"):
        return ""
    done = subprocess.run(["promtool", *words], input=given, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr

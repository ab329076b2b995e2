"""bei-jobs speaks to nobody but whom its user named: no telemetry, of ours or of a library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from commandline import spawn
from corpora import ROOT, TINY, write_parquet

# Python imports it in each process, spawned ones too, and the hook sees every name that is looked
# up and every address that is connected to.
WITNESS = """
import os, sys

def witness(event, args):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto"):
        where = args[0] if event == "socket.getaddrinfo" else args[1]
        with open(os.environ["WITNESS"], "a") as file:
            file.write(f"{where!r}\\n")

sys.addaudithook(witness)
"""


@pytest.fixture
def witnessed(tmp_path: Path) -> dict[str, str]:
    """The environment in which each connection is written down."""
    folder = tmp_path / "witness"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITNESS)
    return {
        "PYTHONPATH": f"{folder}:{ROOT}",
        "WITNESS": str(tmp_path / "connections"),
        "BEI_JOBS_STATE_DIR": str(tmp_path / "state"),
        "BEI_JOBS_CACHE_DIR": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hub"),
        # As on a machine where nobody has switched anything off.
        "HF_HUB_DISABLE_TELEMETRY": "0",
        "HF_HUB_OFFLINE": "0",
        "AI_AGENT": "some-program",  # which huggingface_hub tells the hub of
    }


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """The endpoint of a hub that has no repository, and how its visitors called themselves."""
    agents: list[str] = []

    class NoRepository(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            agents.append(self.headers["User-Agent"])
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), NoRepository)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", agents
    server.shutdown()
    server.server_close()


def test_a_job_connects_to_nothing(tmp_path: Path, witnessed: dict[str, str]) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 20)
    job = spawn("submit", corpus, "--model", TINY, "--device", "cpu", **witnessed)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 0, err
    assert not Path(witnessed["WITNESS"]).exists(), Path(witnessed["WITNESS"]).read_text()


def test_the_hub_is_asked_for_the_model_and_told_nothing_else(
    tmp_path: Path, witnessed: dict[str, str], hub: tuple[str, list[str]]
) -> None:
    endpoint, agents = hub
    corpus = write_parquet(tmp_path / "corpus.parquet", 20)
    job = spawn("submit", corpus, "--model", "org/none", **witnessed, HF_ENDPOINT=endpoint)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 1, err
    assert agents
    assert not [agent for agent in agents if "torch/" in agent or "agent/" in agent]
    connections = Path(witnessed["WITNESS"]).read_text().splitlines()
    assert connections
    assert {line for line in connections if "127.0.0.1" not in line} == set()

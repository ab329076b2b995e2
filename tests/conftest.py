"""Fixtures that every test may use; each kind of service has a file of its own beside this one."""

from __future__ import annotations

import os
import pickle
import signal
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import fsspec
import pytest
from hypothesis import settings

from pipeline.store.sections import configured
from workers.device_process import DeviceProcess, DeviceThread
from workers.engine_cache import EngineCache
from workers.settings import Tokenizing

if TYPE_CHECKING:
    from workers.device_main import Event, Order

pytest_plugins = [
    "faulty_s3",
    "fixtures_emulators",
    "fixtures_encoder",
    "fixtures_gpu",
    "fixtures_hub",
    "fixtures_machine",
    "fixtures_redis",
    "fixtures_s3",
    "fixtures_tokenizers",
    "fixtures_accounts",  # which imports the one above
    "web_server",
]

# A loaded machine is no reason to fail: how long an example takes says nothing here.
settings.register_profile("bei-jobs", deadline=None)
settings.load_profile("bei-jobs")

# Under nohup, or in the background of a shell, signals are ignored, and so by all that is started.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        ctrl_c = number is signal.SIGINT
        signal.signal(number, signal.default_int_handler if ctrl_c else signal.SIG_DFL)


#: So many kinds of devices keep their processes, of 400 MB each: a test's for each of the stores.
KINDS = 4


class Resident(DeviceProcess):
    """A device whose process stays for the next job that needs one like it."""

    #: Of each kind, the one that was taken last at the end.
    idle: ClassVar[dict[object, list[Resident]]] = {}

    @classmethod
    def take(
        cls,
        name: str,
        cache_dir: Path | None,
        batch_seconds: float,
        tokenizing: Tokenizing | None = None,
    ) -> Resident:
        # What a process takes from its environment, it keeps.
        kinds = ("AWS_", "AZURE_", "OMP_", "STORAGE_")
        own = [i for i in sorted(os.environ.items()) if i[0].startswith(kinds)]
        stores = pickle.dumps(configured())
        key = (name, cache_dir, batch_seconds, tokenizing, tuple(own), stores)
        waiting = cls.idle[key] = cls.idle.pop(key, [])
        cls.end(list(cls.idle.values())[:-KINDS])
        device = waiting.pop() if waiting else cls(name, cache_dir, batch_seconds, tokenizing)
        device.back = waiting
        return device

    @staticmethod
    def end(kinds: Iterable[list[Resident]]) -> None:
        for waiting in kinds:
            while waiting:
                DeviceProcess.kill(waiting.pop())

    back: list[Resident]
    busy = False

    def run(self, order: Order, should_stop: Callable[[], bool]) -> Iterator[Event]:
        self.busy = True
        try:
            with closing(super().run(order, should_stop)) as events:  # type: ignore[type-var]
                for event in events:
                    self.busy = event[0] != "over"
                    yield event
        finally:
            self.busy = False

    def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill the process only where an order is under way: another job may have one at rest."""
        if self.busy:
            super().kill()
        if self not in self.back:
            self.back.append(self)


@pytest.fixture(scope="session", autouse=True)
def devices_end_with_the_session() -> Iterator[None]:
    yield
    Resident.end(Resident.idle.values())


@pytest.fixture(autouse=True)
def no_new_process_for_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes seconds to import torch: jobs in the foreground share those of others."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("workers.open_devices.DeviceProcess", Resident.take)


@pytest.fixture
def device_in_this_process(
    no_new_process_for_each_job: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs in the foreground compute in a thread of this process, where a test can reach."""

    def device(
        name: str, cache_dir: Path | None, batch_seconds: float, tokenizing: object
    ) -> DeviceThread:
        return DeviceThread(name, EngineCache(cache_dir))

    monkeypatch.setattr("workers.open_devices.DeviceProcess", device)


@pytest.fixture(params=["local", "memory", "s3", "azure", "gcs"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The root of an empty store; a test that takes it runs once over every backend."""
    name = f"out-{uuid.uuid4().hex[:12]}"
    if request.param == "local":
        yield str(tmp_path / name)
    elif request.param == "memory":
        yield f"memory://{name}"
        memory = fsspec.filesystem("memory")
        if memory.exists(f"/{name}"):
            memory.rm(f"/{name}", recursive=True)
    elif request.param == "s3":
        yield f"s3://{request.getfixturevalue('s3').make_bucket()}/{name}"
    else:
        yield f"{request.getfixturevalue(request.param)}/{name}"

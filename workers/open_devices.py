"""The devices of this machine that run a job without a broker. Cheap to import.

A device's process takes longer to import torch than all else that is done before its first row, so
`started_early` starts it before the rest of the program is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from workers.device_counters import Counters
from workers.device_process import DeviceProcess, DeviceThread
from workers.settings import Settings

LocalDevice = DeviceProcess | DeviceThread


class EarlyDevices:
    """Devices whose processes run before their job is planned, until a job takes them."""

    def __init__(self, devices: Iterable[LocalDevice] = ()) -> None:
        self._devices = list(devices)

    def take(self, name: str) -> LocalDevice | None:
        """One with this name, which is the caller's to end; None where there is none."""
        for device in self._devices:
            if device.device == name:
                self._devices.remove(device)
                return device
        return None

    def kill(self) -> None:
        """Kill those that nobody took."""
        while self._devices:
            self._devices.pop().kill()


@contextmanager
def started_early(names: Sequence[str], settings: Settings) -> Iterator[EarlyDevices]:
    """Processes of devices, started at once; those that nobody took are killed with the context."""
    devices = tuple(_process(name, settings) for name in names)
    early = EarlyDevices(devices)
    try:
        for device in devices:
            device.start()
        yield early
    finally:
        early.kill()


@contextmanager
def open_devices(
    names: Sequence[str],
    uris: Iterable[str],
    settings: Settings,
    counters: Counters | None = None,
    *,
    start: bool = True,
    early: EarlyDevices | None = None,
) -> Iterator[tuple[LocalDevice, ...]]:
    """Devices of this machine for a job, whose processes end with the context.

    After an error or a second signal they are killed.

    Args:
        names: such as "cpu" or "cuda:1".
        uris: of the job's inputs and output: those in this process's memory need a thread of it.
        settings: of this machine.
        counters: of each device, for one who reads them; none if nobody does.
        start: whether the processes start at once, or with the first order.
        early: devices that are taken where they have these names, and killed where not.
    """
    early = early or EarlyDevices()
    devices: tuple[LocalDevice, ...] = ()
    try:
        devices = _devices(names, uris, settings, early)
        early.kill()
        for device, counted in zip(devices, counters or (), strict=False):
            device.counters = counted
        for device in devices if start else ():
            device.start()
        yield devices
    except BaseException:
        for device in devices:
            device.kill()
        raise
    for device in devices:
        device.close()


def _devices(
    names: Sequence[str], uris: Iterable[str], settings: Settings, early: EarlyDevices
) -> tuple[LocalDevice, ...]:
    if not any(uri.startswith("memory://") for uri in uris):
        return tuple(early.take(name) or _process(name, settings) for name in names)
    from workers.engine_cache import EngineCache

    return tuple(DeviceThread(name, EngineCache(settings.cache_dir)) for name in names)


def _process(name: str, settings: Settings) -> LocalDevice:
    return DeviceProcess(name, settings.cache_dir, settings.batch_seconds, settings.tokenizing)

"""The counters of a device, which outlive its process."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.device_counters import STATES, DeviceCounters
from workers.device_main import Order
from workers.device_process import DeviceDied, DeviceProcess


def test_a_device_is_in_one_state_at_a_time() -> None:
    counters, seen = DeviceCounters(), []
    seen.append(counters.state)
    counters.step_back(60)
    seen.append(counters.state)
    counters.begin_order()  # of another job, or of the same one after its pause
    seen.append(counters.state)
    counters.count("loaded", {})
    seen.append(counters.state)
    counters.end_order()

    assert seen == ["idle", "stepped_back", "loading", "computing"]
    assert set(seen) == set(STATES)


def test_a_process_that_dies_is_counted_and_holds_no_memory(tmp_path: Path) -> None:
    device = DeviceProcess("cpu", tmp_path, batch_seconds=60)
    device.counters.memory_bytes = 1e9
    device.start()
    assert device._process is not None
    device._process.kill()
    device._process.join()
    # `start` would replace a process that is seen to be dead: this one dies under the order.
    device.start = lambda: None  # type: ignore[method-assign]

    with pytest.raises(DeviceDied, match="signal 9"):
        list(device.run(Order("memory://x", 1, [0]), lambda: False))

    assert device.counters.deaths == 1
    assert device.counters.memory_bytes == 0
    assert device.counters.state == "idle"

"""When a consumer counts as hung."""

from __future__ import annotations

import pytest

from workers.pulse import Pulse, PulseWatch


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("workers.pulse.time", clock)
    return clock


def look(watch: PulseWatch, clock: Clock, times: int, seconds: float = 1.0) -> bool:
    """Look at a pulse several times; whether it showed life the last time."""
    heard = False
    for _ in range(times):
        clock.seconds += seconds
        heard = watch.heard()
    return heard


def test_silence_adds_up_until_there_is_a_sign_of_life(clock: Clock) -> None:
    pulse = Pulse()
    watch = PulseWatch(pulse, 10)
    pulse.signs += 1
    assert look(watch, clock, 1)
    assert not look(watch, clock, 9)
    assert watch.fault() is None
    pulse.signs += 1
    assert look(watch, clock, 1)
    look(watch, clock, 9)
    assert watch.fault() is None
    look(watch, clock, 1)
    assert watch.fault() == "its event loop has stood still for 10 s"


def test_a_loop_that_goes_round_without_taking_messages_is_told_apart(clock: Clock) -> None:
    pulse = Pulse(0, 1)
    watch = PulseWatch(pulse, 10)
    look(watch, clock, 5)
    pulse.ticks += 1
    look(watch, clock, 6)
    assert watch.fault() == "for 10 s it took no message though a device of it was free"


def test_a_consumer_that_starts_has_more_time(clock: Clock) -> None:
    watch = PulseWatch(Pulse(), 10)
    look(watch, clock, 49)
    assert watch.fault() is None
    look(watch, clock, 1)
    assert watch.fault()


def test_time_without_redis_does_not_count(clock: Clock) -> None:
    watch = PulseWatch(Pulse(0, 1), 10)
    look(watch, clock, 10)
    watch.excuse()
    look(watch, clock, 9)
    assert watch.fault() is None


def test_time_in_which_the_parent_stood_still_does_not_count(clock: Clock) -> None:
    watch = PulseWatch(Pulse(0, 1), 10)
    look(watch, clock, 2, seconds=3600.0)  # the machine slept
    assert watch.fault() is None

"""Overlapping cron runs on one machine: the second waits for the first and says so."""

from __future__ import annotations

import threading
from pathlib import Path

from workers.known_jobs import output_lock

OUTPUT = "/data/out"


def test_the_second_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with output_lock(tmp_path, OUTPUT, lambda holder: waiting.set()):
            order.append("second")

    with output_lock(tmp_path, OUTPUT, lambda holder: None):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        order.append("first")
    thread.join(10)

    assert order == ["first", "second"]


def test_a_process_that_waits_is_told_the_holder(tmp_path: Path) -> None:
    import os

    holders: list[str] = []
    waited = threading.Event()

    def second() -> None:
        with output_lock(
            tmp_path, OUTPUT, lambda holder: (holders.append(holder), waited.set())[0]
        ):
            pass

    with output_lock(tmp_path, OUTPUT, lambda holder: None):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(60)
    thread.join(10)

    assert holders == [str(os.getpid())]


def test_other_outputs_do_not_wait(tmp_path: Path) -> None:
    with (
        output_lock(tmp_path, OUTPUT, lambda holder: None),
        output_lock(tmp_path, "/data/other", fail),
    ):
        pass


def test_a_machine_that_cannot_write_its_state_runs_without_the_lock(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")

    with output_lock(blocked, OUTPUT, fail):
        pass


def fail(holder: str) -> None:
    raise AssertionError(f"waited for {holder}")

"""Trials on other systems and chips than this one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corpora import GOLDENS

from pipeline.encoder import cpu_trials
from pipeline.encoder.card import open_card
from pipeline.encoder.cpu_trials import bfloat16_gain
from pipeline.encoder.device import cpu_time
from pipeline.encoder.device.cpu_time import least_seconds
from pipeline.encoder.model import int8_products

_CONFIG = replace(open_card(str(GOLDENS / "bert_mean")).config, hidden_size=64)


def test_a_call_that_takes_more_is_seen_to_take_more() -> None:
    quick, slow = least_seconds([lambda: sum(range(100)), lambda: sum(range(100_000))], 3)

    assert slow > 10 * quick


def test_a_clock_that_ticks_rarely_is_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_time.time, "thread_time", lambda: 1.25)

    assert 0 < bfloat16_gain(_CONFIG) < 100
    assert int8_products.fastest_product.__wrapped__(32, 32) in int8_products.PRODUCTS


@pytest.mark.parametrize("line", ["CPU part", "Features"])
def test_what_one_arm_chip_has_shown_is_not_taken_for_another(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_text
    gains = iter((4.0, 5.0))
    monkeypatch.setattr(cpu_trials, "_measure", lambda *_: next(gains))

    def gain_on(chip: str) -> float:
        def info(path: Path, *rest: Any, **named: Any) -> str:
            if path == Path("/proc/cpuinfo"):
                return f"processor\t: 0\nBogoMIPS\t: 50.0\n{line}\t: {chip}\n\n"
            return read(path, *rest, **named)

        monkeypatch.setattr(Path, "read_text", info)
        return bfloat16_gain(_CONFIG, tmp_path)

    assert [gain_on(chip) for chip in ("a", "b", "a")] == [4.0, 5.0, 4.0]

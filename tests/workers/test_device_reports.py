"""What devices report of themselves: rates that are right at once, and what others may write."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.choice import Choice
from workers.device_counters import DeviceCounters
from workers.device_reports import DeviceReport, Reporter, from_text, to_text


class Device:
    """Counters that go on by themselves, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.counters = DeviceCounters()
        self.reporter = Reporter(["cpu"], [self.counters], clock=lambda: self.now)

    def take_up(self, job: str, token_budget: int | None = None) -> None:
        model: Any = SimpleNamespace(name="org/model")
        spec = SimpleNamespace(model=model, token_budget=token_budget)
        run: Any = SimpleNamespace(job=job, spec=spec)
        self.counters.take_up(run)
        self.counters.begin_order()
        self.reporter.reports()

    def load(self) -> None:
        self.counters.count("loaded", {"token-budget": Choice(1000, "of the engine")})

    def go_on(self, seconds: int, rows: int, tokens: int = 0) -> DeviceReport:
        """Compute a batch of `rows` each second, and report every two."""
        for second in range(seconds):
            self.now += 1
            if rows:
                self.counters.count("batch", (rows, tokens))
            if second % 2:
                self.reporter.reports()
        return self.reporter.reports()[0]


@pytest.fixture
def device() -> Device:
    return Device()


def test_rates_begin_with_the_first_row_and_not_while_the_model_loads(device: Device) -> None:
    device.take_up("a" * 12)
    assert device.go_on(40, 0).state == "loading"
    device.load()
    report = device.go_on(10, 5, 500)

    assert (report.job, report.model, report.state) == ("a" * 12, "org/model", "computing")
    assert (report.rows, report.tokens) == (50, 5000)
    assert (report.rows_per_second, report.tokens_per_second) == (5.0, 500.0)


def test_rates_are_those_of_the_last_half_minute(device: Device) -> None:
    device.take_up("a" * 12)
    device.load()
    device.go_on(60, 100)
    assert device.go_on(30, 10).rows_per_second == pytest.approx(10, rel=0.1)


def test_another_job_begins_at_zero(device: Device) -> None:
    device.take_up("a" * 12)
    device.load()
    device.go_on(10, 100)
    device.counters.went_wrong("a row of the first job died")
    device.take_up("b" * 12)
    device.load()
    report = device.go_on(10, 1)

    assert (report.job, report.rows, report.rows_per_second) == ("b" * 12, 10, 1.0)
    assert report.error == ""


@pytest.mark.parametrize(("set_by_user", "fill"), [(None, 0.75), (1500, 0.5)])
def test_the_fill_of_batches_is_their_share_of_the_token_budget(
    device: Device, set_by_user: int | None, fill: float
) -> None:
    device.take_up("a" * 12, token_budget=set_by_user)
    device.load()
    device.counters.count("batch", (7, 0))  # copied rows are in no batch
    assert device.go_on(10, 5, 750).batch_fill == fill


def test_the_mean_has_a_spread_once_there_are_three_windows(device: Device) -> None:
    device.take_up("a" * 12)
    device.load()
    assert device.go_on(20, 10).mean is None
    steady = device.go_on(10, 10)
    assert (steady.mean, steady.spread) == (10.0, 0.0)
    for _ in range(3):
        device.go_on(10, 20)
    varied = device.go_on(0, 0)
    # Six windows, three of 10 and three of 20 rows per second: two observations.
    assert varied.mean == pytest.approx(15)
    assert varied.spread == pytest.approx(2 * 5.477 / 2**0.5, rel=1e-3)


def test_reports_survive_their_way_and_fields_of_a_later_version(device: Device) -> None:
    device.take_up("a" * 12)
    reports = device.reporter.reports()
    assert list(from_text(to_text(reports))) == reports
    later = [{**json.loads(to_text(reports))[0], "watts": 300}]
    assert list(from_text(json.dumps(later))) == reports


@pytest.mark.parametrize(
    "text",
    [
        None, "", "nonsense", "[" * 100_000, "{}", "[1, null, []]", '[{"device": "cpu"}]',
        '[{"device": "cpu", "state": "asleep"}]', '[{"device": 1, "state": "idle"}]',
        '[{"device": "cpu", "state": "idle", "rows": "many"}]',
        '[{"device": "cpu", "state": "idle", "mean": -1}]',
        '[{"device": "cpu", "state": "idle", "spread": NaN}]',
        '[{"device": "cpu", "state": "idle", "tokens_per_second": Infinity}]',
        '[{"device": "cpu", "state": "idle", "rows_per_second": null}]',
        json.dumps([{"device": "cpu", "state": "idle", "error": "x" * 1000}]),
    ],
)  # fmt: skip
def test_what_no_worker_wrote_is_no_report(text: str | None) -> None:
    assert from_text(text) == ()

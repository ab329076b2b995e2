"""Prometheus metrics of this process's devices, on a port of this machine.

docs/operations.md lists them. The counters are those of `workers.device_counters`; labels are
devices, stages, results and states, so their number is bounded, and no URI is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.store.retry import load
from workers.device_counters import STATES, Counters

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# Metric → what it counts, and the counter.
_COUNTERS = {
    "rows": ("Rows computed or copied.", "rows"),
    "tokens": ("Tokens computed.", "tokens"),
    "padding_tokens": ("Tokens computed for the shape of a CUDA graph alone.", "padding_tokens"),
    "quarantined_rows": ("Rows that could not be computed.", "quarantined_rows"),
    "step_backs": ("Times a device stepped back from a job.", "step_backs"),
    "device_deaths": ("Processes of a device that died, or hung and were killed.", "deaths"),
}


@contextmanager
def metrics_served(
    port: int | None,
    devices: Sequence[str],
    counters: Counters,
    broker_up: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Serve metrics at http://HOST:`port`/metrics, on every interface, while the context is open.

    Args:
        port: to listen on; None serves nothing.
        devices: their names.
        counters: of each device.
        broker_up: whether the broker answered when it was last asked; None without a broker.

    Raises:
        UsageError: the port is taken, or the library that serves metrics is not installed.
    """
    if port is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise UsageError(
            "--metrics-port needs the package prometheus-client, which is not installed",
            hint="pip install 'bei-jobs[metrics]'",
        ) from error
    registry = CollectorRegistry()
    registry.register(_Collector(devices, counters, broker_up))
    try:
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        raise UsageError(
            f"--metrics-port {port} cannot be listened on: {error.strerror}",
            hint="give a free port; every worker and every run of a machine needs one of its own",
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def own_version() -> str:
    """The version of bei-jobs."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bei-jobs")
    except PackageNotFoundError:  # a source tree that is not installed
        return "source"


class _Collector:
    """Reads the counters when Prometheus asks."""

    def __init__(
        self,
        devices: Sequence[str],
        counters: Counters,
        broker_up: Callable[[], bool] | None,
    ) -> None:
        self._devices = list(zip(_labels(devices), counters, strict=True))
        self._broker_up = broker_up

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        yield InfoMetricFamily("bei_jobs", "The program.", value={"version": own_version()})
        if self._broker_up is not None:
            yield GaugeMetricFamily(
                "bei_jobs_broker_up", "Whether Redis answered last.", value=self._broker_up()
            )
        yield from self._of_devices()
        yield from self._times()
        yield from self._gauges()

    def _of_devices(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        for name, (text, counter) in _COUNTERS.items():
            metric = CounterMetricFamily(f"bei_jobs_{name}", text, labels=["device"])
            for device, counters in self._devices:
                metric.add_metric([device], getattr(counters, counter))
            yield metric
        shards = CounterMetricFamily(
            "bei_jobs_shards", "Shards that ended.", labels=["device", "result"]
        )
        copied = CounterMetricFamily(
            "bei_jobs_copied_rows",
            "Rows of shards, copied.",
            labels=["device", "how"],
        )
        retries = CounterMetricFamily(
            "bei_jobs_store_retries", "Calls of a store that were repeated.", labels=["device"]
        )
        retries.add_metric(["none"], load.repeated)  # of this process, such as to reconcile
        for device, counters in self._devices:
            shards.add_metric([device, "done"], counters.shards_done)
            shards.add_metric([device, "failed"], counters.shards_failed)
            copied.add_metric([device, "reused"], counters.reused_rows)
            copied.add_metric([device, "deduplicated"], counters.deduplicated_rows)
            retries.add_metric([device], counters.store_retries)
        yield from (shards, copied, retries)

    def _times(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily

        stages = CounterMetricFamily(
            "bei_jobs_stage_seconds", "Time a stage was at work.", labels=["device", "stage"]
        )
        waits = SummaryMetricFamily(
            "bei_jobs_queue_wait_seconds", "Time a span waited in the queue.", labels=["device"]
        )
        for device, counters in self._devices:
            for stage, seconds in counters.stage_seconds.items():
                stages.add_metric([device, stage], seconds)
            waits.add_metric([device], int(counters.spans), counters.queue_wait_seconds)
        yield from (stages, waits)

    def _gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        memory = GaugeMetricFamily(
            "bei_jobs_device_memory_bytes",
            "Memory of a GPU that torch holds; for a CPU, of the device's process.",
            labels=["device"],
        )
        states = GaugeMetricFamily(
            "bei_jobs_device_state", "1 for the state of the device.", labels=["device", "state"]
        )
        for device, counters in self._devices:
            memory.add_metric([device], counters.memory_bytes)
            now = counters.state
            for state in STATES:
                states.add_metric([device, state], state == now)
        yield from (memory, states)


def _labels(devices: Sequence[str]) -> list[str]:
    """The devices, each under a name of its own: "cpu", "cpu-2"."""
    seen: dict[str, int] = {}
    labels = []
    for device in devices:
        seen[device] = seen.get(device, 0) + 1
        labels.append(device if seen[device] == 1 else f"{device}-{seen[device]}")
    return labels

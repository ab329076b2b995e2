"""Run a prepared job on this machine or on a broker's queue, and print how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from jobs.display import Display, downloads_said
from jobs.early_start import output_of
from jobs.fleet import fleet_status
from jobs.follow import BarView, follow
from jobs.live import Watched
from jobs.planned_line import tell_parent
from pipeline.errors import BeiJobsError, Interrupted, JobFailed, UsageError
from pipeline.output.chosen import note_choices
from pipeline.output.failures import note_failed_submit
from pipeline.output.output import Output
from pipeline.output.state import mark_checked
from pipeline.output.status import job_status
from pipeline.planning.damaged import can_go_on_without, damaged_files
from pipeline.planning.prepare import Prepared, prepare
from pipeline.request import Request
from workers.device_counters import new_counters
from workers.devices import device_choices, find_devices, fleet_choices
from workers.foreground import all_reused, remember, run_in_foreground
from workers.logs import set_context
from workers.metrics import metrics_served
from workers.open_devices import EarlyDevices, open_devices
from workers.settings import Settings, load_settings


def submit(
    request: Request,
    display: Display,
    *,
    device: str | None,
    broker_url: str | None,
    wait: bool,
    metrics_port: int | None = None,
    early: EarlyDevices | None = None,
) -> int:
    """Plan a job, run it here or enqueue it, print its summary and return the exit code.

    Args:
        request: what the user asked for.
        display: what the user sees.
        device: the value of --device; None for the default.
        broker_url: Redis of the fleet; None or "" runs the job here.
        wait: follow a job on the broker to its end.
        metrics_port: where a run on this machine serves metrics; None for nowhere.
        early: devices whose processes run already; None for none.

    Raises:
        BeiJobsError: of planning, of the broker, or of the run.
    """
    settings = load_settings()

    def plan() -> Prepared:
        prepared = prepare(request, settings.cache_dir, display.say)
        set_context(job=prepared.run.job)
        tell_parent(settings.notify_fd, prepared.run, broker_url)
        display.show_choices(prepared.choices)
        if not prepared.finished:
            display.show_certificate(prepared.run)
        display.show_skipped(prepared.run.skipped)
        display.show_ignored(prepared.ignored)
        _tell_start(prepared, display)
        return prepared

    noted = failures_noted(output_of(request))
    with display.webhooks, noted, downloads_said(display.say):
        if broker_url:
            if metrics_port is not None:
                display.warn("--metrics-port: with --broker, `bei-jobs worker` serves the metrics")
            return run_on_broker(plan(), broker_url, display, wait=wait)
        uris = (*request.inputs, request.output or "")

        def without_damaged(failed: Prepared) -> Prepared | None:
            damaged = damaged_files(failed.output, failed.run, failed.plan)
            if not can_go_on_without(damaged, failed.run, request.max_bad_files):
                return None
            prepared = prepare(request, settings.cache_dir, display.say)
            set_context(job=prepared.run.job)
            display.show_skipped(prepared.run.skipped)
            _tell_start(prepared, display)
            return prepared

        # A later run often has nothing to do: then no process imports torch.
        return run_here(
            plan, uris, settings, display, device, metrics_port, without_damaged,
            start=not _begun(output_of(request)), early=early,
        )  # fmt: skip


def _tell_start(prepared: Prepared, display: Display) -> None:
    if display.webhooks:
        display.begin(prepared.run, job_status(prepared.output, prepared.run))


@contextmanager
def failures_noted(output: str) -> Iterator[None]:
    """An error that ends a command is kept in its output, unless the run has it already.

    Args:
        output: URI; "" if there is none.
    """
    try:
        yield
    except (Interrupted, JobFailed):
        raise
    except BeiJobsError as error:
        if output:
            note_failed_submit(output, error)
        raise


def _begun(output: str) -> bool:
    try:
        return bool(output) and Output(output).begun()
    except BeiJobsError:  # which planning raises too
        return False


def run_here(
    plan: Callable[[], Prepared],
    uris: Iterable[str],
    settings: Settings,
    display: Display,
    device: str | None,
    metrics_port: int | None = None,
    after_failure: Callable[[Prepared], Prepared | None] = lambda failed: None,
    *,
    start: bool = True,
    early: EarlyDevices | None = None,
) -> int:
    """Run a job in the foreground, print how it ended and return the exit code.

    Args:
        plan: prepares the run.
        uris: of the inputs and the output.
        settings: of this machine.
        display: what the user sees.
        device: the value of --device; None for the default.
        metrics_port: where metrics are served; None for nowhere.
        after_failure: prepares the run to go on with where shards of a run failed; None for none.
        start: whether the processes of the devices start while it is planned.
        early: devices whose processes run already; None for none.

    Raises:
        BeiJobsError: of planning, or of every device.
    """
    devices = find_devices(device)  # a wrong name is reported before anything is written
    counters = new_counters(len(devices.names))
    with metrics_served(metrics_port, devices.names, counters):
        with open_devices(
            devices.names, uris, settings, counters, start=start, early=early
        ) as opened:
            prepared = plan()
            remember(prepared, settings)
            if prepared.finished:
                return _nothing_to_do(prepared, display)
            display.show_choices(device_choices(devices))
            outcome = run_in_foreground(prepared, settings, opened, display)
            if isinstance(outcome.error, JobFailed) and (next_run := after_failure(prepared)):
                prepared = next_run
                remember(prepared, settings)
                outcome = run_in_foreground(prepared, settings, opened, display)
        note_choices(prepared.output, prepared.run, display.choices or {})
        return display.conclude(prepared.run, outcome.status, error=outcome.error)


def _nothing_to_do(prepared: Prepared, display: Display) -> int:
    mark_checked(prepared.output, prepared.run)
    status = all_reused(job_status(prepared.output, prepared.run))
    if not display.as_json:
        which = "of the other files" if prepared.run.skipped else "of these inputs"
        display.say(f"nothing to do: every row {which} is already computed")
    return display.conclude(prepared.run, status)


def run_on_broker(prepared: Prepared, broker_url: str, display: Display, *, wait: bool) -> int:
    """Enqueue a job, print its summary and return the exit code; with `wait`, follow it first.

    Raises:
        BrokerError: Redis cannot be reached.
        UsageError: the output is in a store that workers cannot read.
    """
    from workers.broker import Broker  # redis takes a moment to import
    from workers.reconcile import reconcile

    output, run = prepared.output, prepared.run
    if output.uri.startswith("memory://"):
        raise UsageError(
            "a memory:// output exists only in this process, so workers cannot write to it",
            hint="give an --output that workers share, such as s3://bucket/vectors",
        )
    broker = Broker(broker_url)
    broker.ping()
    if not prepared.finished:
        spec = run.spec
        display.show_choices(
            fleet_choices(prepared.card, precision=spec.precision, token_budget=spec.token_budget)
        )
        note_choices(output, run, display.choices or {})
        broker.register(run)
        reconcile(broker, output, run, prepared.plan)
    else:
        mark_checked(output, run)
    if wait:
        return follow([Watched(output, run, broker)], display, BarView(display))
    status, fleet = fleet_status(broker, output, run)
    if prepared.finished:
        status = all_reused(status)
    display.show_fleet(fleet)
    if display.webhooks and not status.final:
        display.warn("--notify: without --wait nothing is posted when the job ends")
    return display.conclude(run, status, fleet=fleet)

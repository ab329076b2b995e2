"""`bei-jobs submit`: run a job on this machine or on a broker's queue."""

from __future__ import annotations

from typing import Any

import click

from jobs.bei_option import bei_config_choices
from jobs.submit_options import make_request, submit_options


@click.command(name="submit")
@submit_options
def command(
    inputs: tuple[str, ...],
    broker: str | None,
    wait: bool,
    device: str | None,
    notify: tuple[str, ...],
    report: str | None,
    metrics_port: int | None,
    log_format: str,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Run a job on INPUT: files, directories, globs or URIs of Parquet, Arrow, JSONL or CSV.

    Without --broker the job runs on this machine, in the foreground. Run the same command again to
    resume a job or to pick up new input; only rows whose text is new are computed.
    """
    from jobs.early_start import devices_needed
    from workers.open_devices import started_early
    from workers.settings import load_settings

    page = _page(report, broker, wait=wait)
    request, settings = make_request(inputs, options), load_settings()
    names = () if broker else devices_needed(request, device)
    with started_early(names, settings) as early:
        from jobs.display import Display  # while the processes of the devices import torch
        from jobs.run_job import submit
        from jobs.webhooks import Webhooks

        display = Display(as_json=as_json, quiet=quiet, webhooks=Webhooks(notify), page=page)
        display.show_choices(bei_config_choices(click.get_current_context()))
        return submit(
            request,
            display,
            device=device,
            broker_url=broker,
            wait=wait,
            metrics_port=metrics_port,
            early=early,
        )


def _page(report: str | None, broker: str | None, *, wait: bool) -> str | None:
    """The URI of the page to write at the end; a wrong one is refused before anything is done."""
    if not report:
        return None
    from jobs.report.write import page_uri
    from pipeline.errors import UsageError

    if broker and not wait:
        raise UsageError(
            "--report: without --wait this command ends before the job does",
            hint="add --wait, or run `bei-jobs report OUTPUT` when the job is done",
        )
    return page_uri(report)

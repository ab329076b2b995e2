"""`bei-jobs worker`: serve a broker's queue with this machine's devices."""

from __future__ import annotations

import click

from jobs.options import broker_option, log_option, metrics_option, option
from workers.logs import LogFormat


@click.command(name="worker")
@broker_option
@option("--device", metavar="NAME[,NAME]", help="cpu, cuda or cuda:N. Default: all GPUs, or cpu.")
@metrics_option
@log_option
@click.option("--verbose", "-v", is_flag=True, help="Log every shard.")
def command(
    broker: str | None,
    device: str | None,
    metrics_port: int | None,
    log_format: LogFormat,
    verbose: bool,
) -> int:
    """Serve a broker's queue with one process per device, each keeping its encoder loaded.

    SIGTERM stops the worker between two batches and returns unfinished work to the queue.
    """
    from pipeline.errors import UsageError
    from workers.devices import find_devices
    from workers.settings import load_settings
    from workers.supervisor import serve

    if not broker:
        raise UsageError(
            "a worker needs a --broker",
            hint="give one, such as redis://localhost:6379/0, or set BEI_JOBS_BROKER",
        )
    return serve(
        load_settings(), broker, find_devices(device).names,
        verbose=verbose, log_format=log_format, metrics_port=metrics_port,
    )  # fmt: skip

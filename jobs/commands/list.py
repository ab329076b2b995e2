"""`bei-jobs list`: the known jobs."""

from __future__ import annotations

import json

import click

from jobs.options import broker_option, json_option


@click.command(name="list")
@broker_option
@json_option
def command(broker: str | None, as_json: bool) -> None:
    """List the jobs that ran on this machine, and with --broker those of the fleet."""
    from jobs.find_job import open_broker
    from jobs.fleet import as_seen_by, view_fleet
    from jobs.summary import summary
    from pipeline.errors import BeiJobsError
    from pipeline.output.output import Output
    from pipeline.output.status import job_status
    from pipeline.store.uris import redact
    from workers.known_jobs import KnownJobs
    from workers.settings import load_settings

    refs = {ref.job: ref for ref in KnownJobs(load_settings().state_dir).all()}
    queue = open_broker(broker)
    of_fleet = {} if queue is None else {ref.job: ref for ref in queue.jobs()}
    refs |= of_fleet
    rows = []
    for ref in refs.values():
        try:
            output = Output(ref.output)
            run = output.run(ref.n)
            status = job_status(output, run)
            if queue is not None and ref.job in of_fleet:
                status = as_seen_by(view_fleet(queue, [run.job]), status)
            rows.append(summary(run, status))
        except BeiJobsError as error:
            rows.append(
                {"job": ref.job, "output": ref.output, "state": "gone", "reason": str(error)}
            )
    fleet = None if queue is None else view_fleet(queue, refs)
    if as_json:
        click.echo(json.dumps({"jobs": rows, **({} if fleet is None else fleet.to_json())}))
        return
    for row in rows:
        counts = row.get("rows", {"done": 0, "total": 0})
        click.echo(
            f"{row['job']}  {row['state']:<19}  {counts['done']:>12,} of {counts['total']:<12,}  "
            f"{row.get('finished') or row.get('started', ''):<20}  {redact(row['output'])}"
        )
    if not rows:
        click.echo("no known jobs", err=True)
    if fleet is not None:
        click.echo(fleet)

"""`bei-jobs history`: what happened on an output, run by run."""

from __future__ import annotations

import click

from jobs.options import json_option


@click.command(name="history")
@click.argument("output", metavar="OUTPUT")
@json_option
def command(output: str, as_json: bool) -> None:
    """Show the runs of OUTPUT, newest first: when, by whom, what changed, and how each ended.

    Submits that failed before they had a run are shown as "not planned", the last 20 of them.
    """
    import json

    from jobs.record import history_line, unplanned_line
    from jobs.summary import summary
    from pipeline.output.history import read_history
    from pipeline.output.output import find_run

    found, newest = find_run(output)
    history = read_history(found, newest)
    if as_json:
        runs = [summary(run, status) for run, status in history.runs]
        failures = [
            {"at": each.at, "reason": each.reason, "hint": each.hint, "by": each.by}
            for each in history.unplanned
        ]
        click.echo(json.dumps({"output": found.uri, "runs": runs, "not_planned": failures}))
        return
    lines = [(run.created, history_line(run, status)) for run, status in history.runs]
    lines += [(each.at, unplanned_line(each)) for each in history.unplanned]
    for _, line in sorted(lines, key=lambda item: item[0], reverse=True):
        click.echo(line)

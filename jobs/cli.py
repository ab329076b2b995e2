"""The command line: `bei-jobs COMMAND`. Each command has a file of its own in jobs/commands/.

A command parses its options, calls one function and lets errors propagate; `main` prints them, so
that a user's mistake never shows a stack trace.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from jobs.options import stores_option
from pipeline.errors import BeiJobsError, Interrupted, UsageError
from workers.logs import log_format

logger = logging.getLogger(__name__)

#: Command → (module of jobs/, one line for --help). Modules are imported when they are run:
#: `bei-jobs --help` and `status` must not wait for what only `submit` needs.
COMMANDS = {
    "submit": "Run a job on this machine or on a broker's queue.",
    "plan": "Say what a submit would do and cost, and write nothing.",
    "rehearse": "Say on a sample what another model, or other options, would change.",
    "list": "List the jobs of this machine or of a broker.",
    "status": "Show the status of a job.",
    "history": "Show the runs of an output: when, by whom, and what changed.",
    "watch": "Follow a job until it ends.",
    "cancel": "Cancel a job; committed parts are kept.",
    "retry": "Retry a failed or cancelled job, or a finished one's quarantined rows.",
    "verify": "Check that an output is complete and valid.",
    "report": "Write a page about an output: what ran, how fast, what became of it.",
    "files": "Print the parts of the newest finished run, one URI per line.",
    "export": "Write the rows as Parquet, .npy, Lance or Delta.",
    "models": "List the tested models, or describe a checkpoint.",
    "check": "Compare a job's precision with float32 on a sample.",
    "schedule": "Run job files at the times of their `cron`.",
    "backfill": "Run a job file for the slots of a range of time.",
    "worker": "Serve a broker's queue with this machine's devices.",
}


class _Commands(click.Group):
    """Lists commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"jobs.commands.{cmd_name}")
        command: click.Command = module.command
        if stores_option not in command.params:
            command.params.append(stores_option)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bei-jobs", prog_name="bei-jobs")
def cli() -> None:
    """Offline batch inference for text encoders: a corpus in, Arrow files out.

    Start with:  bei-jobs submit corpus.parquet
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with quarantined rows or skipped files, 130
    interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    job_file: dict[str, bool] = {}  # what it says about errors

    def as_json() -> bool:
        return "--json" in words or "json" in job_file

    try:
        code = cli.main(words, prog_name="bei-jobs", standalone_mode=False, obj=job_file)
    except BeiJobsError as error:
        print_error(error.message, error.hint)
        code = _report(words, error, error.exit_code, as_json=as_json())
    except click.UsageError as error:
        _show(error)
        usage = UsageError(error.format_message())
        code = _report(words, usage, error.exit_code, as_json=as_json())
    except click.ClickException as error:
        print_error(error.format_message())
        usage = UsageError(error.format_message())
        code = _report(words, usage, error.exit_code, as_json=as_json())
    except (click.Abort, KeyboardInterrupt):
        print_error("interrupted")
        stopped = Interrupted("interrupted")
        code = _report(words, stopped, stopped.exit_code, as_json=as_json())
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has gone: there is no one to report to
        code = 0
    except Exception as error:  # of this program: Python prints where
        report = {"error": "an error of bei-jobs itself", "type": type(error).__name__}
        _notify_failed(words, report)
        raise
    sys.exit(code or 0)


def say(line: str, after: str = "") -> None:
    """Print a line to stderr that is no trouble.

    Args:
        line: what to print.
        after: what a terminal is given first, such as a line break below a progress bar.
    """
    if log_format() == "json":
        logger.info("%s", line)
    else:
        click.echo(f"{after}{line}", err=True)


def print_error(message: str, hint: str = "", level: int = logging.ERROR) -> None:
    """Print to stderr what went wrong and what to do next."""
    if log_format() == "json":
        logger.log(level, "%s", message, extra={"hint": hint} if hint else None)
        return
    click.echo(f"bei-jobs: {message}", err=True)
    if hint:
        click.echo(f"  → {hint}", err=True)


def _show(error: click.UsageError) -> None:
    """Print how a command is used, and what was wrong."""
    if log_format() == "json":
        print_error(error.format_message())
    else:
        error.show()


def _report(words: Sequence[str], error: BeiJobsError, code: int, *, as_json: bool) -> int:
    """Tell the readers of --json and --notify what went wrong; returns `code`."""
    report = {"error": error.message, "hint": error.hint, "exit_code": code}
    report["type"] = type(error).__name__
    if as_json:
        click.echo(json.dumps(report))
    _notify_failed(words, report)
    return code


def _notify_failed(words: Sequence[str], report: Mapping[str, Any]) -> None:
    """Post to the URLs of --notify, also where the options are wrong: a night did not start."""
    if list(words[:1]) != ["submit"]:
        return
    from jobs.webhooks import Webhooks

    command = cli.get_command(click.Context(cli), "submit")
    assert command is not None
    given = command.make_context(
        "submit", list(words[1:]), resilient_parsing=True, ignore_unknown_options=True
    )
    with Webhooks(given.params.get("notify") or ()) as webhooks:
        webhooks.send("failed", report)

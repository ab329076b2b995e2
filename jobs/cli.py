"""The command line: `bei-jobs COMMAND`. Each command has a file of its own in jobs/commands/.

A command parses its options, calls one function and lets errors propagate; `main` prints them, so
that a user's mistake never shows a stack trace.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence

import click

from pipeline.errors import BeiJobsError, Interrupted, UsageError

#: Command → (module of jobs/, one line for --help). Modules are imported when they are run:
#: `bei-jobs --help` and `status` must not wait for what only `submit` needs.
COMMANDS = {
    "submit": "Run a job on this machine or on a broker's queue.",
    "plan": "Say what a submit would do and cost, and write nothing.",
    "list": "List the jobs of this machine or of a broker.",
    "status": "Show the status of a job.",
    "watch": "Follow a job until it ends.",
    "cancel": "Cancel a job; committed parts are kept.",
    "retry": "Retry a failed or cancelled job, or a finished one's quarantined rows.",
    "verify": "Check that an output is complete and valid.",
    "files": "Print the parts of the newest finished run, one URI per line.",
    "models": "List the tested models, or describe a checkpoint.",
    "check": "Compare a job's precision with float32 on a sample.",
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

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with quarantined rows, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(words, prog_name="bei-jobs", standalone_mode=False)
    except BeiJobsError as error:
        print_error(error.message, error.hint)
        code = _as_json(words, error, error.exit_code)
    except click.UsageError as error:
        error.show()
        code = _as_json(words, UsageError(error.format_message()), error.exit_code)
    except click.ClickException as error:
        print_error(error.format_message())
        code = _as_json(words, UsageError(error.format_message()), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print_error("interrupted")
        code = _as_json(words, Interrupted("interrupted"), Interrupted.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has gone: there is no one to report to
        code = 0
    sys.exit(code or 0)


def print_error(message: str, hint: str = "") -> None:
    """Print to stderr what went wrong and what to do next."""
    click.echo(f"bei-jobs: {message}", err=True)
    if hint:
        click.echo(f"  → {hint}", err=True)


def _as_json(words: Sequence[str], error: BeiJobsError, code: int) -> int:
    if "--json" in words:
        report = {"error": error.message, "hint": error.hint, "exit_code": code}
        click.echo(json.dumps({**report, "type": type(error).__name__}))
    return code

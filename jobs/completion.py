"""What a shell completes beside commands, options and choices: files, and the ids of known jobs."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

# Options without a type of their own that take a path or a URI.
_FILES = frozenset({"--output", "--model", "--stores", "--reuse-from"})


class _Files(StringParamType):
    """A path or a URI."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class _Jobs(_Files):
    """The id of a job that this machine knows, or the path of an output."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from workers.known_jobs import KnownJobs
        from workers.settings import load_settings

        refs = KnownJobs(load_settings().state_dir).all()
        newest_first = sorted(refs, key=lambda ref: ref.created, reverse=True)
        known = [
            CompletionItem(ref.job, help=ref.output)
            for ref in newest_first
            if ref.job.startswith(incomplete)
        ]
        return known or super().shell_complete(ctx, param, incomplete)


def complete_values(command: click.Command) -> None:
    """Have the shell complete the arguments and options of a command that take any text."""
    for param in command.params:
        if isinstance(param.type, StringParamType) and (
            isinstance(param, click.Argument) or _FILES.intersection(param.opts)
        ):
            param.type = _Jobs() if param.name in ("job", "jobs") else _Files()
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        complete_values(below)

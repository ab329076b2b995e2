"""What a user sees while a job runs: a bar and a few lines on stderr."""

from __future__ import annotations

from dataclasses import dataclass

import click

from jobs.progress_bar import ProgressBar
from pipeline.choice import Choices


@dataclass(slots=True)
class Display:
    """How much to show, and the bar; what `workers.foreground` tells its observer is shown.

    Attributes:
        as_json: one JSON object at the end, on stdout.
        quiet: nothing on stderr but errors.
        choices: what was chosen for the user so far, by option.
    """

    as_json: bool = False
    quiet: bool = False
    choices: Choices | None = None
    bar: ProgressBar | None = None

    def show_choices(self, choices: Choices) -> None:
        """One line per choice, each once."""
        earlier = dict(self.choices or {})
        for name, choice in choices.items():
            if name not in earlier and not self.quiet:
                self._print(f"{name:<16} {choice.value}: {choice.reason}")
        self.choices = {**choices, **earlier}

    def _print(self, line: str) -> None:
        """A line on stderr, above the bar where there is one."""
        if self.bar is None:
            click.echo(line, err=True)
        else:
            self.bar.write(line)

    def waiting(self, holder: str) -> None:
        click.echo(f"waiting for process {holder}, which runs a job on this output", err=True)

    def started(self, rows: int, reused: int) -> None:
        self.bar = ProgressBar(rows, reused, quiet=self.quiet)

    def chose(self, choices: Choices) -> None:
        self.show_choices(choices)

    def batch(self, rows: int, tokens: int) -> None:
        if self.bar is not None:
            self.bar.add(rows, tokens)

    def stopping(self) -> None:
        click.echo("\nstopping after this batch …", err=True)

    def ended(self) -> None:
        if self.bar is not None:
            self.bar.close()

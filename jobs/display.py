"""What a user sees while a job runs: a progress bar and a few lines on stderr."""

from __future__ import annotations

from dataclasses import dataclass

import click

from jobs.progress_bar import ProgressBar
from pipeline.choice import Choices


@dataclass(slots=True)
class Display:
    """Shows what happens in a run, as the observer that `workers.foreground` calls.

    Attributes:
        as_json: one JSON object at the end, on stdout.
        quiet: no choices and no progress bar on stderr.
        choices: what was chosen for the user so far, by option.
    """

    as_json: bool = False
    quiet: bool = False
    choices: Choices | None = None
    bar: ProgressBar | None = None
    _rows: int = 0
    _reused: int = 0

    def show_choices(self, choices: Choices) -> None:
        """One line per choice, each once."""
        earlier = dict(self.choices or {})
        for name, choice in choices.items():
            if name not in earlier and not self.quiet:
                click.echo(f"{name:<16} {choice.value}: {choice.reason}", err=True)
        self.choices = {**choices, **earlier}

    def waiting(self, holder: str) -> None:
        click.echo(f"waiting for process {holder}, which runs a job on this output", err=True)

    def started(self, rows: int, reused: int) -> None:
        self._rows, self._reused = rows, reused

    def chose(self, choices: Choices) -> None:
        self.show_choices(choices)
        self._open_bar()

    def batch(self, rows: int, tokens: int) -> None:
        self._open_bar().add(rows, tokens)

    def _open_bar(self) -> ProgressBar:
        """The bar, below the lines that are printed before the first batch."""
        if self.bar is None:
            self.bar = ProgressBar(self._rows, self._reused, quiet=self.quiet)
        return self.bar

    def stopping(self) -> None:
        click.echo("\nstopping after this batch …", err=True)

    def ended(self) -> None:
        if self.bar is not None:
            self.bar.close()

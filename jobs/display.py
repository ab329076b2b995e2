"""What a user sees while a job runs: a progress bar and a few lines on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from jobs.fleet import FleetView
from jobs.progress_bar import ProgressBar
from pipeline.choice import Choices

_SKIPPED_SHOWN = 20


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
    _workers: int | None = None  # as last shown
    _refusals: frozenset[str] = frozenset()  # as last shown

    def show_choices(self, choices: Choices) -> None:
        """One line per choice, each once."""
        earlier = dict(self.choices or {})
        for name, choice in choices.items():
            if name not in earlier and not self.quiet:
                click.echo(f"{name:<16} {choice.value}: {choice.reason}", err=True)
        self.choices = {**choices, **earlier}

    def show_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """One line per bad file, with its reason, even with `quiet`."""
        for _, reason in skipped[:_SKIPPED_SHOWN]:
            click.echo(f"skipped: {reason}", err=True)
        if len(skipped) > _SKIPPED_SHOWN:
            click.echo(f"skipped: {len(skipped) - _SKIPPED_SHOWN} more; see --json", err=True)

    def show_fleet(self, fleet: FleetView, bar: ProgressBar | None = None) -> None:
        """Print a line when the number of workers changes; if there is none, even with `quiet`.

        A worker that has stepped back is printed once, with its reason, even with `quiet`.

        Args:
            fleet: its current state.
            bar: the line is printed above it.
        """
        lines = []
        if self._workers != len(fleet.workers):
            self._workers = len(fleet.workers)
            hint = "" if fleet.workers else ": start one with `bei-jobs worker --broker URL`"
            if not (fleet.workers and self.quiet):
                lines.append(f"{fleet}{hint}")
        refusals = fleet.refusals()
        lines += [f"stepped back: {line}" for line in refusals if line not in self._refusals]
        self._refusals = frozenset(refusals)
        for line in lines:
            if bar is None:
                click.echo(line, err=True)
            else:
                bar.write(line)

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

"""What a user sees of a job: a progress bar and a few lines while it runs, and how it ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import click

from jobs.cli import print_error, say
from jobs.fleet import FleetView
from jobs.progress_bar import ProgressBar
from jobs.summary import EXIT_DONE, EXIT_FAILED, exit_code, print_summary, summary
from jobs.webhooks import Webhooks
from pipeline.choice import Choices
from pipeline.errors import BeiJobsError, Interrupted
from pipeline.input.ignored import IgnoredFiles
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.output.status import JobStatus
from pipeline.store.uris import redact

_SKIPPED_SHOWN = 20


@dataclass(slots=True)
class Display:
    """Shows what happens in a run, as the observer that `workers.foreground` calls.

    Attributes:
        as_json: one JSON object at the end, on stdout.
        quiet: nothing at all when all is well, but for the JSON object.
        webhooks: told when the job starts and how it ends.
        page: where a page about the output is written when the job ends; None for nowhere.
        choices: what was chosen for the user so far, by option.
        warnings: what the user was warned of so far.
        ignored: files beside the inputs.
    """

    as_json: bool = False
    quiet: bool = False
    webhooks: Webhooks = field(default_factory=Webhooks)
    page: str | None = None
    choices: Choices | None = None
    warnings: list[str] = field(default_factory=list)
    ignored: IgnoredFiles = field(default_factory=IgnoredFiles)
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
                say(f"{name:<16} {_shown(choice.value)}: {choice.reason}")
        self.choices = {**choices, **earlier}

    def show_certificate(self, run: Run) -> None:
        """One line about what was proved of the model; where a proof failed, even with `quiet`."""
        certificate = run.record.certificate if run.record else None
        if certificate is None:
            self.say("certificate      none for this model: `bei-jobs check` makes one")
        elif certificate.passed:
            self.say(f"certificate      {certificate}")
        else:
            self.warn(f"the model was {certificate}")

    def show_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """One line per bad file, with its reason, even with `quiet`."""
        for _, reason in skipped[:_SKIPPED_SHOWN]:
            say(f"skipped: {reason}")
        if len(skipped) > _SKIPPED_SHOWN:
            say(f"skipped: {len(skipped) - _SKIPPED_SHOWN} more; see --json")

    def show_ignored(self, ignored: IgnoredFiles) -> None:
        """One line about the files beside the inputs, if there are any."""
        self.ignored = ignored
        if ignored:
            self.say(f"ignored          {ignored}")

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
                say(line)
            else:
                bar.write(line)

    def say(self, line: str) -> None:
        """Print a line that is no trouble, unless `quiet`."""
        if not self.quiet:
            say(line)

    def warn(self, warning: str) -> None:
        """Print a warning, also in the JSON object."""
        self.warnings.append(warning)
        print_error(warning, level=logging.WARNING)

    def begin(self, run: Run, status: JobStatus) -> None:
        """Tell the webhooks that a run is planned."""
        self.webhooks.send("start", summary(run, status, self.choices, ignored=self.ignored))

    def conclude(
        self,
        run: Run,
        status: JobStatus,
        *,
        fleet: FleetView | None = None,
        error: BeiJobsError | None = None,
    ) -> int:
        """Print how a job ended or where it stands, tell the webhooks, return the exit code.

        Args:
            run: of the job.
            status: of the run.
            fleet: the workers that are connected, where the job may go on without this process.
            error: why a run on this machine is not finished.
        """
        code = exit_code(status) if error is None else error.exit_code
        page = self._write_page(run, error)
        warnings = {"warnings": self.warnings} if self.warnings else {}
        report = {**summary(run, status, self.choices, fleet, self.ignored), **page, **warnings}
        if status.final or error is not None:
            failed = error is not None or code == EXIT_FAILED
            self.webhooks.send("failed" if failed else "done", report)
        if error is not None:
            print_error(error.message, error.hint)
        if self.as_json:
            click.echo(json.dumps(report))
        elif error is None and not (self.quiet and _all_well(code, fleet)):
            print_summary(run, status, as_json=False, fleet=fleet, ignored=self.ignored)
        self.webhooks.close()
        return code

    def _write_page(self, run: Run, error: BeiJobsError | None) -> dict[str, str]:
        """Write the page that was asked for; returns what the JSON object says of it.

        Nothing that is wrong with a page changes how a job has ended.
        """
        if self.page is None or isinstance(error, Interrupted):
            return {}
        from jobs.report.gather import gather
        from jobs.report.write import write_page

        try:
            write_page(gather(Output(run.output), run, choices=self.choices), self.page)
        except BeiJobsError as problem:
            self.warn(f"--report: {problem.message}")
            return {}
        except Exception as problem:  # of this program: the rows are there all the same
            self.warn(f"--report: an error of bei-jobs itself: {problem!r}")
            return {}
        self.say(f"report           {redact(self.page)}")
        return {"report": redact(self.page)}

    def waiting(self, holder: str) -> None:
        # A program that asked for JSON keeps this as the log of its job (`bei_jobs.Job.log`).
        if self.as_json or not self.quiet:
            say(f"waiting for process {holder}, which runs a job on this output")

    def started(self, rows: int, reused: int) -> None:
        self._rows, self._reused = rows, reused

    def chose(self, choices: Choices) -> None:
        self.show_choices(choices)
        self._open_bar()

    def warned(self, line: str) -> None:
        with nullcontext() if self.bar is None else self.bar.aside():
            self.warn(line)

    def batch(self, rows: int, tokens: int) -> None:
        self._open_bar().add(rows, tokens)

    def _open_bar(self) -> ProgressBar:
        """The bar, below the lines that are printed before the first batch."""
        if self.bar is None:
            self.bar = ProgressBar(self._rows, self._reused, quiet=self.quiet)
        return self.bar

    def stopping(self) -> None:
        say("stopping after this batch …", after="\n")

    def ended(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _all_well(code: int, fleet: FleetView | None) -> bool:
    return code == EXIT_DONE and (fleet is None or bool(fleet.workers and not fleet.stepped_back))

"""From a request to a run that can be executed: draft, claim, match rows, start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.input.ignored import IgnoredFiles
from pipeline.output.manifest import sweep
from pipeline.output.output import Output
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.planning.draft import Draft, draft
from pipeline.planning.match_rows import match_rows
from pipeline.request import Request


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run on an output. `finished`: it was already complete, there is nothing to do."""

    output: Output
    run: Run
    plan: Plan
    card: ModelCard
    choices: Choices  # what planning chose, by option
    finished: bool
    ignored: IgnoredFiles = field(default_factory=IgnoredFiles)  # beside the input files


def prepare(
    request: Request, cache_dir: Path, say: Callable[[str], None] = lambda line: None
) -> Prepared:
    """Resolve a request against its model, inputs and output, and start or join a run.

    Args:
        request: the options of `submit`.
        cache_dir: where downloaded checkpoints are cached.
        say: called with what takes time.

    Raises:
        UsageError: options exclude each other or do not fit the model.
        InputError: inputs are missing, unreadable, empty or lack columns.
        CheckpointError: the model cannot be found or cannot do the task.
        OutputConflict: the output holds something else.
        StorageError: the output cannot be written.
    """
    card: ModelCard | None = None
    while True:
        drafted = draft(request, cache_dir, card)
        card = drafted.card
        if prepared := _start(drafted, say):
            return prepared
        # Another submit started a run meanwhile, perhaps for other inputs: plan again after it.


def _start(drafted: Draft, say: Callable[[str], None]) -> Prepared | None:
    """Start the run of a draft or join the last one; None if there is a higher run by then."""
    output, last, plan = drafted.output, drafted.last, drafted.plan
    output.directory.probe()
    stored_format = output.claim(drafted.spec, drafted.schema)
    if last is not None and (joined := drafted.joined()):
        if output.superseded(last):
            return None
        run, finished = joined
    else:
        run, finished = drafted.run(stored_format, _match(drafted, stored_format, say)), False
        if output.start(run, plan) is None:
            return None
    sweep(output)
    ignored = drafted.planned.ignored
    return Prepared(output, run, plan, drafted.card, drafted.choices, finished, ignored)


def _match(drafted: Draft, stored_format: int, say: Callable[[str], None]) -> int:
    """How many rows of new and changed files can be copied from earlier parts."""
    others = drafted.reused_outputs(stored_format)
    if others is None:
        return 0
    return match_rows(
        drafted.output, drafted.plan, drafted.columns_read, drafted.texts, say, others=others
    )

"""What was chosen for the user in a run, and why: advisory, for people to read later.

_bei/runs/<n>/choices.json    option → value and reason
"""

from __future__ import annotations

import json
from contextlib import suppress

from pipeline.choice import Choice, Choices
from pipeline.errors import NotFound, StorageError
from pipeline.output.output import Output
from pipeline.output.run import Run

_NAME = "choices.json"


def note_choices(output: Output, run: Run, choices: Choices) -> None:
    """Keep the choices of a run; where that fails, go on without."""
    values = {
        name: {"value": choice.value, "reason": choice.reason} for name, choice in choices.items()
    }
    with suppress(StorageError):
        output.directory.put(run.path(_NAME), json.dumps(values, indent=1, default=str).encode())


def read_choices(output: Output, run: Run) -> Choices | None:
    """The choices of a run; None where they were not kept, as by earlier versions.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        stored = output.read_json(run.path(_NAME))
    except NotFound:
        return None
    with output.intact(run.path(_NAME)):
        return {
            str(name): Choice(choice["value"], str(choice["reason"]))
            for name, choice in stored.items()
        }

"""Plans of input files, without a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from pipeline.input.cutting import PlannedInputs, plan_inputs
from pipeline.input.wanted import Earlier, Sizing, Wanted


def plan_of(inputs: Sequence[object], **options: Any) -> PlannedInputs:
    """What a job would read of some inputs.

    Args:
        inputs: files, directories, globs, URIs.
        options: fields of `Wanted`, `Sizing` and `Earlier`; by default the column `text` is read.
    """
    given = {"columns": (), "text_columns": ("text",), "output_columns": (), **options}
    wanted, sizing, earlier = (
        {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}
        for kind in (Wanted, Sizing, Earlier)
    )
    assert not given, f"no options of a plan: {', '.join(given)}"
    return plan_inputs(
        [str(each) for each in inputs], Wanted(**wanted), Sizing(**sizing), Earlier(**earlier)
    )

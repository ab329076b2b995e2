"""The precision that an output keeps, where its job says `auto`.

    _bei/precision.json    create-only: the first device that loads the model writes it

Devices choose differently. So that the rows of an output do not depend on which of them was there,
all compute in the precision of the first, in later runs too.
"""

from __future__ import annotations

import json
from typing import get_args

from pipeline.choice import Choice
from pipeline.errors import NotFound
from pipeline.output.open_shards import piece_precision
from pipeline.output.output import Output
from pipeline.output.part_file import read_info
from pipeline.output.run import Run, now
from pipeline.spec import Precision
from pipeline.store.uris import redact

_FILE = "_bei/precision.json"


def kept_precision(output: Output, reuse_from: str = "") -> Choice[str] | None:
    """The precision that an output began with, or else that of the output whose rows it copies.

    Earlier versions wrote it only into their parts and pieces. None if nothing is computed yet.

    Args:
        output: of a job with `--precision auto`.
        reuse_from: URI of the output that it copies rows from; "" for none.

    Raises:
        StorageError: it cannot be read.
    """
    if precision := _stored(output) or _of_parts(output):
        return Choice(precision, "the output began with it")
    if reuse_from and (precision := _stored(other := Output(reuse_from)) or _of_parts(other)):
        return Choice(precision, f"that of {redact(reuse_from)}, whose rows are copied")
    return None


def keep_precision(output: Output, run: Run, own: Choice[str]) -> Choice[str]:
    """Write down the precision of the first device, unless another one was faster.

    Args:
        output: of the run.
        run: whose job says `auto`.
        own: what the device would compute in.

    Returns:
        What it must compute in.

    Raises:
        StorageError: the file can be neither read nor written.
    """
    data = json.dumps({"precision": own.value, "run": run.n, "at": now()}).encode()
    if output.directory.create(_FILE, data):
        return own
    kept = _stored(output)
    return own if kept in (None, own.value) else Choice(kept, "the output began with it")


def _stored(output: Output) -> str | None:
    try:
        data = output.read_json(_FILE)
    except NotFound:
        return None
    with output.intact(_FILE):
        return _checked(data["precision"])


def _of_parts(output: Output) -> str | None:
    part = min(output.committed(), default=None)
    if part is None:
        precision = piece_precision(output)
        return precision if _is_precision(precision) else None  # a damaged piece is not used
    with output.intact(part):
        return _checked(read_info(output.directory, part).values["precision"])


def _checked(precision: object) -> str:
    if not _is_precision(precision):
        raise ValueError(f"{str(precision)[:40]!r} is not a precision")
    return str(precision)


def _is_precision(value: object) -> bool:
    return value in get_args(Precision) and value != "auto"

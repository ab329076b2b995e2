"""Whether a tokenizer may be loaded into this process.

The library that computes tokenizers is in Rust: it cannot be interrupted, prints a stack trace of
its own where it panics, and ends the process where memory runs out. So nothing is loaded unseen:

1. What tokenizer.json says is read first, and a tokenizer that could multiply texts is refused.
2. One whose parts are all known to be harmless, as in almost every published checkpoint, is loaded
   without further cost.
3. The others (an expression of unusual shape, a step of a newer library) are tried on texts made
   to provoke them, in a process that has limits on memory and time. That takes a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pipeline.encoder.checkpoint import tokenizer_trial
from pipeline.encoder.checkpoint.read_json import DOWNLOAD_AGAIN
from pipeline.encoder.checkpoint.regex_shape import is_plain
from pipeline.encoder.checkpoint.shown import one_line, shown
from pipeline.encoder.checkpoint.tokenizer_outline import TokenizerOutline
from pipeline.encoder.checkpoint.tokenizer_steps import regexes, unusual_parts
from pipeline.errors import CheckpointError

# The trial ends itself by CPU time, so that a busy machine refuses no tokenizer; this is for a
# machine that stands still.
_TIMEOUT_S = 120


def check_tokenizer(file: Path, outline: TokenizerOutline, name: Path | None = None) -> None:
    """Check a tokenizer.json before it is loaded.

    Args:
        file: the tokenizer.json.
        outline: of the file.
        name: what messages call it; None for the file itself.

    Raises:
        CheckpointError: a text could make it use up the memory, the time or the process.
    """
    try:
        unusual = unusual_parts(outline)
    except (ValueError, KeyError, TypeError) as error:
        lacks = "a step lacks " if isinstance(error, KeyError) else ""
        raise CheckpointError(
            f"{name or file} is not a tokenizer to be used safely: {lacks}{one_line(error)}",
            hint=DOWNLOAD_AGAIN,
        ) from error
    expressions = regexes(outline)
    unusual += [f"the pattern {shown(each)}" for each in expressions if not is_plain(each)]
    if unusual:
        problem = _try(file, expressions)
        if problem is not None:
            raise CheckpointError(
                f"{name or file} has {one_line(' and '.join(unusual))}, and fails on a short text: "
                f"{problem}",
                hint="use a tokenizer.json as published, without an edit of its patterns",
            )


def _try(file: Path, expressions: list[str]) -> str | None:
    """Use a tokenizer in a process of its own; what went wrong, None for nothing."""
    try:
        done = subprocess.run(
            # -P: the modules beside the script are not for import.
            [sys.executable, "-P", tokenizer_trial.__file__, str(file)],
            input=json.dumps(expressions).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return None
        said = one_line(done.stdout.decode("utf-8", "replace"))
    except subprocess.TimeoutExpired:
        said = ""
    return said or "it uses up the time or the memory that it may have"

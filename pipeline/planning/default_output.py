"""Where the output goes when nobody says so."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pipeline.errors import UsageError
from pipeline.store.uris import absolute, redact

_DATA_SUFFIXES = re.compile(
    r"(\.(parquet|pq|arrows?|feather|ipc|jsonl|ndjson|json|csv|tsv))?(\.(gz|zst))?$", re.IGNORECASE
)
_MAGIC = re.compile(r"[*?\[]")


def default_output(inputs: Sequence[str], task: str) -> str:
    """Beside the input: `corpus.parquet` → `corpus.embed`, `data/` and `data/*.csv` → `data.embed`.

    Named after the task, so that one corpus can be embedded and classified side by side.

    Raises:
        UsageError: there are several inputs, so that no place is beside them all, or the input
            is part of an output.
    """
    if len(inputs) != 1:
        raise UsageError(
            "several inputs need an --output", hint="give one, such as --output vectors/"
        )
    uri = absolute(inputs[0])
    if "/_bei/" in f"{uri}/":
        raise UsageError(
            f"{redact(uri)} lies inside an output, where no other output may be",
            hint="give an --output of its own, such as --output repaired.embed",
        )
    while _MAGIC.search(uri) and not os.path.exists(uri):
        uri = uri.rstrip("/").rpartition("/")[0]
    if not uri.strip("/"):
        raise UsageError("an --output beside the root directory cannot be named", hint="give one")
    return _DATA_SUFFIXES.sub("", uri.rstrip("/")) + f".{task}"

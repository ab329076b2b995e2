"""The output of a job without --output."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pipeline.errors import UsageError
from pipeline.store.uris import absolute, is_web, redact

_DATA_SUFFIXES = re.compile(
    r"(\.(parquet|pq|arrows?|feather|ipc|jsonl|ndjson|json|csv|tsv))?(\.(gz|zst|bz2|xz))?$",
    re.IGNORECASE,
)
_MAGIC = re.compile(r"[*?\[]")


def default_output(inputs: Sequence[str], task: str) -> str:
    """Next to the input: `corpus.csv` → `corpus.embed`, `data/` and `data/*.csv` → `data.embed`.

    Named after the task, so that one corpus can be embedded and classified side by side.

    Raises:
        UsageError: there are several inputs, or the input is part of an output.
    """
    if len(inputs) != 1:
        raise UsageError(
            "several inputs need an --output", hint="give one, such as --output vectors/"
        )
    uri = absolute(inputs[0])
    if is_web(uri):
        raise UsageError(
            f"there is no default --output next to {redact(uri)}: a web server takes no files",
            hint="give one, such as --output vectors/",
        )
    if "/_bei/" in f"{uri}/":
        raise UsageError(
            f"{redact(uri)} is inside an output, where no other output may be",
            hint="give a separate --output, such as --output repaired.embed",
        )
    while _MAGIC.search(uri) and not os.path.exists(uri):
        uri = uri.rstrip("/").rpartition("/")[0]
    if not uri.strip("/"):
        raise UsageError("there is no default --output next to the root directory", hint="give one")
    return _DATA_SUFFIXES.sub("", uri.rstrip("/")) + f".{task}"

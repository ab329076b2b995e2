"""Whether a job has claimed an output on this machine, known before anything slow is imported."""

from __future__ import annotations

import os

from pipeline.store.uris import absolute, is_local

#: The file of an output that its first job creates.
SPEC = "_bei/spec.json"


def begun_here(uri: str) -> bool | None:
    """Whether a job has claimed it; None for an output that is not on this machine."""
    return os.path.exists(os.path.join(absolute(uri), SPEC)) if is_local(uri) else None

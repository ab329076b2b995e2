"""Libraries that only one format of an export needs."""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.errors import UsageError
from pipeline.export.destination import Destination
from pipeline.store.uris import redact


def load_library(name: str, dest: Destination) -> Any:
    """The module `name`; it comes with the extra that is named like the format.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{redact(dest.uri)}: --to {dest.format} needs a package that is not installed "
            f"({error})",
            hint=f"install bei-jobs with its extra: {dest.format}",
        ) from error

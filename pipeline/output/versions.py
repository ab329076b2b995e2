"""The software that computes a run, named by the run and by each of its parts."""

from __future__ import annotations

import platform
from functools import cache

_PACKAGES = ("bei-jobs", "torch", "tokenizers", "pyarrow")


@cache
def software_versions() -> dict[str, str]:
    """The versions of the software that can change an output's bytes."""
    from importlib.metadata import PackageNotFoundError, version  # takes a moment to import

    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            versions[name] = "source"
    return versions

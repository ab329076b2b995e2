"""Hide a directory from one process: a mount namespace of its own with an empty tmpfs over it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_SCRIPT = 'mount -t tmpfs none "$0" && exec "$@"'


def without(folder: Path) -> tuple[str, ...]:
    """Words to start a process behind, to which `folder` is empty. Only root may do that."""
    words = ("unshare", "--mount", "sh", "-c", _SCRIPT, str(folder))
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not permitted here")
    return words

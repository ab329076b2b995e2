"""Small disks of their own, to fill them and to make them read-only."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

BALLAST = "_ballast"


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs; only root may mount one."""

    path: Path

    @classmethod
    def mount(cls, path: Path, megabytes: int) -> SmallDisk:
        path.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("mounting a tmpfs is not permitted here")
        return cls(path)

    def fill(self) -> None:
        """Write until nothing fits."""
        descriptor = os.open(self.path / BALLAST, os.O_WRONLY | os.O_CREAT)
        try:
            for size in (1 << 16, 1 << 12):
                try:
                    while os.write(descriptor, bytes(size)) == size:
                        pass
                except OSError:
                    continue
        finally:
            os.close(descriptor)

    def free(self) -> None:
        (self.path / BALLAST).unlink()

    def read_only(self) -> None:
        self._remount("ro")

    def writable(self) -> None:
        self._remount("rw")

    def _remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.path)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

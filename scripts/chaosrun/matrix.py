"""Every test of tests/faults, and the table of what held."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/chaos matrix`."""
    parser.add_argument("words", nargs="*", help="for pytest, such as -k redis")


def run(options: argparse.Namespace) -> int:
    """Run pytest; its exit code."""
    tests = ["tests/faults", "tests/integration/test_hung_consumers.py"]
    words = [sys.executable, "-m", "pytest", *tests, "-q", "--tb=short", *options.words]
    return subprocess.run(
        words, cwd=ROOT, env={**os.environ, "CHAOS": "all"}, check=False
    ).returncode

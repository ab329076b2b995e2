"""The reference of commands is what the command line says today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_of_commands_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference"], capture_output=True, text=True, check=True
    )

    assert (ROOT / "docs" / "commands.md").read_text() == made.stdout, (
        "run: python scripts/reference > docs/commands.md"
    )


def test_the_readme_names_every_command() -> None:
    from jobs.cli import COMMANDS

    readme = (ROOT / "README.md").read_text()

    assert [
        name for name in COMMANDS if f"`{name}`" not in readme and f"bei-jobs {name}" not in readme
    ] == []

"""The reference of commands is what the command line says today."""

from __future__ import annotations

import re
import subprocess
import sys

from corpora import ROOT


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


def test_the_table_of_models_and_the_list_that_is_printed_name_the_same() -> None:
    from pipeline.encoder.architecture.tested_models import TESTED_MODELS

    rows = re.findall(
        r"^\| ([\w.-]+/[\w.-]+) \| (\w+) \| ([\w-]+) \|",
        (ROOT / "docs" / "models.md").read_text(),
        flags=re.MULTILINE,
    )

    assert {tuple(known) for known in TESTED_MODELS} == set(rows)

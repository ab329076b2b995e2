"""share/: the man page and the shells' completion, as the wheel installs them."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from corpora import ROOT

from jobs.cli import COMMANDS
from pipeline.output.run import job_id
from workers.known_jobs import JobRef, KnownJobs

SHARE = ROOT / "share"


def test_share_is_what_the_script_makes_of_the_command_line() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "share"))["files"]()
    there = {str(p.relative_to(SHARE)): p.read_text() for p in SHARE.rglob("*") if p.is_file()}
    assert there == made, "run scripts/share"


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_man_page_is_without_mistakes_and_names_every_command() -> None:
    page = SHARE / "man/man1/bei-jobs.1"
    words = ["groff", "-man", "-Tascii", "-ww", "-P-cbou", str(page)]
    shown = subprocess.run(words, capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    text = shown.stdout
    assert all(f"   bei-jobs {name}\n" in text for name in COMMANDS)
    assert "--text-column TEXT\n" in text
    assert "130    interrupted" in text


def completed(line: str, tmp_path: Path) -> list[str]:
    """What bash offers at the end of a line, with the script that is installed."""
    (tmp_path / "bei-jobs").write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m bei_jobs "$@"\n'
    )
    (tmp_path / "bei-jobs").chmod(0o755)
    script = f"""
        PATH={tmp_path}:$PATH BEI_JOBS_STATE_DIR={tmp_path}/state
        export BEI_JOBS_STATE_DIR
        compopt() {{ echo "compopt $*"; }}
        . {SHARE}/bash-completion/completions/bei-jobs
        COMP_WORDS=({line}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _bei_jobs_completion bei-jobs
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bei-jobs wa", ["watch"]),
        ("bei-jobs schedule e", ["export"]),
        ("bei-jobs submit x --precision bf", ["bfloat16"]),
        ("bei-jobs submit x --output-dtype float32,bi", ["float32,binary"]),
        ("bei-jobs submit cor", ["compopt", "-o", "default"]),
        ("bei-jobs submit x --output som", ["compopt", "-o", "default"]),
    ],
)
def test_bash_completes(line: str, offered: list[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path) == offered


def test_bash_completes_the_ids_of_jobs_with_the_newest_first(tmp_path: Path) -> None:
    moments = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
    refs = [JobRef(job_id(f"/{at}", 1), f"/{at}", 1, at) for at in moments]
    for ref in refs:
        KnownJobs(tmp_path / "state").add(ref)
    assert completed("bei-jobs watch ''", tmp_path) == [refs[1].job, refs[0].job]

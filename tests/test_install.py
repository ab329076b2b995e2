"""scripts/_install: uv takes packages from where pip would."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest
from corpora import ROOT

SCRIPT = ROOT / "scripts/_install"
OF_UV = runpy.run_path(str(SCRIPT), run_name="tested")


def test_the_settings_of_pip_are_handed_on_and_the_nearest_one_counts() -> None:
    listed = (
        ":env:.find-links='/opt/wheels /more'\n"
        ":env:.default-timeout='180'\n"
        "global.find-links='/elsewhere'\n"
        "global.index-url='https://user:secret@mirror/simple'\n"
        "global.extra-index-url='\\nhttps://one/simple\\nhttps://two/simple'\n"
    )
    assert OF_UV["variables"](OF_UV["settings"](listed)) == {
        "UV_DEFAULT_INDEX": "https://user:secret@mirror/simple",
        "UV_FIND_LINKS": "/opt/wheels,/more",
        "UV_INDEX": "https://one/simple https://two/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_a_setting_that_uv_lacks_leaves_it_to_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--dry-run", "pip"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "uv cannot install here; pip does" in done.stderr
    assert "already satisfied: pip" in done.stdout

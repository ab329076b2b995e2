"""The fused kernels, in Triton's interpreter and in a process of their own; see `interpreted`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpora import ROOT

# Where scripts/test puts Triton, off the path of everything else.
TRITON = Path(sys.prefix) / "triton"
PATHS = [str(TRITON)] if TRITON.is_dir() else []


@pytest.mark.timeout(600)
def test_the_kernels_are_equal_to_torch_in_the_interpreter() -> None:
    if not (PATHS or importlib.util.find_spec("triton")):
        assert os.environ.get("CI") != "true", "CI has Triton"
        pytest.skip("needs Triton in .venv/triton, where scripts/test puts it")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *PATHS]),
        "TRITON_INTERPRET": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    folder = Path(__file__).parent / "interpreted"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]

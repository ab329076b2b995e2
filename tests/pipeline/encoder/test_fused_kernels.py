"""The fused kernels without a GPU, in processes of their own: computed in Triton's interpreter
(`interpreted`), and compiled for a GPU that is not here.
"""

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


def _python(*words: str, **environment: str) -> None:
    """Run Python with Triton on its path."""
    if not (PATHS or importlib.util.find_spec("triton")):
        assert os.environ.get("CI") != "true", "CI has Triton"
        pytest.skip("needs Triton in .venv/triton, where scripts/test puts it")
    path = os.pathsep.join([str(ROOT), *PATHS])
    one = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **one, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5000:]


@pytest.mark.timeout(600)
def test_the_kernels_are_equal_to_torch_in_the_interpreter() -> None:
    folder = Path(__file__).parent / "interpreted"
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder))
    _python(*words, TRITON_INTERPRET="1")


@pytest.mark.timeout(600)
def test_the_kernels_compile_for_a_gpu_without_spilling_registers(tmp_path: Path) -> None:
    _python("tests/compile_kernels.py", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))

"""Every error a caller can meet: the tree of `pipeline/errors.py`, without importing `pipeline`.

A program that uses bei_jobs may have its own package `pipeline`, which must stay importable. Type
checkers would look there too: for them, errors.pyi repeats the tree.
"""

import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

SourceFileLoader(__name__, str(Path(__file__).parents[1] / "pipeline" / "errors.py")).exec_module(
    sys.modules[__name__]
)

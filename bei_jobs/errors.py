"""Every error a caller can meet: the tree of `pipeline/errors.py`, without an import of `pipeline`.

A program that uses bei_jobs may have a package of that name itself, and must go on to find it. For
type checkers, which would go there too, the tree stands beside this in errors.pyi.
"""

import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

SourceFileLoader(__name__, str(Path(__file__).parents[1] / "pipeline" / "errors.py")).exec_module(
    sys.modules[__name__]
)

"""Models of real size with random weights, one table: ours by default beside the library's.

Every text has as many tokens as the others, so that no engine loses by padding: what is compared is
the forward pass of each family, with its head. `scripts/bench encode --shapes NAME` has the rest.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import header
from benchmarks.contest import Outcome, report
from benchmarks.encode import cases_of, common_arguments
from benchmarks.shapes import SHAPES

#: Every family and task once.
MODELS = [name for name in SHAPES if not name.startswith(("Qwen2", "potion"))]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench models`."""
    parser.add_argument("--shapes", default=",".join(MODELS))
    parser.add_argument("--length", dest="lengths", default="96", help="tokens of every text")
    parser.add_argument("--tokens", type=int, default=4_032, help="of each model")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="ours, comma-separated")
    parser.add_argument("--peers", default="defaults", help="all, none, or words in their names")
    common_arguments(parser)
    parser.set_defaults(checked=16)


def run(options: argparse.Namespace, command: str) -> str:
    """Measure every model and return the table."""

    def cases() -> Iterator[tuple[list[str], str, Outcome]]:
        for shape in options.shapes.split(","):
            with tempfile.TemporaryDirectory() as folder:
                for _, outcome in cases_of(shape, Path(folder), options):
                    yield [shape, SHAPES[shape].task], shape, outcome

    printed = report(["model", "task"], cases())
    return f"{header(command, options.device)}\n\n{printed}"

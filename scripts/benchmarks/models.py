"""Models of real size with random weights, one table: ours by default beside the library's.

Every text has as many tokens as the others, so that no engine loses by padding: what is compared is
the forward pass of each family, with its head. `scripts/bench encode --shapes NAME` has the rest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.common import header, table
from benchmarks.contest import COLUMNS, NOTES, listed
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
    columns = ["model", "task", *COLUMNS]
    rows: list[list[object]] = []
    notes: list[tuple[str, str]] = []
    for shape in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for _, outcome in cases_of(shape, Path(folder), options):
                new = [[shape, SHAPES[shape].task, *row] for row in outcome.rows]
                print(table(columns, new), file=sys.stderr, flush=True)  # a cut run has these
                rows += new
                notes += [(shape, note) for note in outcome.notes]
    lines = [
        header(command, options.device),
        "",
        table(columns, rows),
        "",
        NOTES,
        "",
        *listed(notes),
    ]
    return "\n".join(lines)

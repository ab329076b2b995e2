"""Finding rows in earlier parts stays within its memory, whatever the rows are."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import ROOT

_MATCH = """
import resource, sys
from pipeline.input.cutting import plan_inputs
from pipeline.input.wanted import Wanted
from pipeline.output.output import Output
from pipeline.output.plan import make_plan
from pipeline.planning.match_rows import match_rows
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # of addresses, most of them unused
wanted = Wanted(columns=(), text_columns=("text",), output_columns=())
planned = plan_inputs([sys.argv[1]], wanted)
plan = make_plan(planned.files, space="0" * 16, schema="0" * 16)
print(match_rows(Output(sys.argv[2]), plan, planned.schema, ("text",), lambda line: None))
"""


@pytest.mark.parametrize(("text", "found"), [("the same boilerplate", 30_000), (None, 0)])
def test_a_text_of_thousands_of_rows_is_not_matched_with_each_of_thousands(
    tmp_path: Path, text: str | None, found: int
) -> None:
    count = 30_000
    pq.write_table(
        pa.table({"text": pa.array([text] * count, pa.string())}), tmp_path / "c.parquet"
    )
    key = None if text is None else blake2b(text.encode(), digest_size=16).digest()
    rows = pa.table({"row_key": pa.array([key] * count, pa.binary(16))})
    part = tmp_path / f"out/part-c.parquet-00000000-{0:012}-{0:016x}.arrow"
    part.parent.mkdir()
    with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)

    done = subprocess.run(
        [sys.executable, "-c", _MATCH, str(tmp_path / "c.parquet"), str(part.parent)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "POLARS_MAX_THREADS": "2"},
    )  # fmt: skip

    assert (done.returncode, done.stdout.strip()) == (0, str(found)), done.stderr

"""A part says which fused kernels computed it, and nothing where there were none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures_encoder import open_engine
from prepared import prepared_run

from pipeline.choice import Choice
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.output.provenance import of_run


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        (None, None),
        (Choice("none", "Triton cannot be imported"), None),
        (Choice("norm, gate", "by trial"), "norm, gate"),
    ],
)
def test_fused_kernels_are_in_a_parts_metadata_where_there_are_any(
    choice: Choice[str] | None,
    kept: str | None,
    tmp_path: Path,
    golden: Callable[[str], Checkpoint],
) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["one"]}), tmp_path / "in.parquet")
    run = prepared_run(tmp_path, tmp_path / "in.parquet").run
    engine = open_engine(golden("bert_mean"))
    if choice is not None:
        engine.choices = {**engine.choices, "fused-kernels": choice}
    assert of_run(run, engine, "attempt").get("fused_kernels") == kept

"""`bei_jobs.plan` is `bei-jobs plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from corpora import write_parquet

import bei_jobs


def test_a_plan_says_what_a_submit_would_do(tiny: dict[str, Any], tmp_path: Path) -> None:
    corpus = write_parquet(tmp_path / "c.parquet")

    found = bei_jobs.plan(corpus, exact=True, price_per_hour=3.6, keep=["text"], **tiny)

    assert found["rows"]["computed"] == 20
    assert found["price"] == pytest.approx(found["seconds"] / 1000, abs=1e-4)
    assert not (tmp_path / "c.embed").exists()
    with pytest.raises(bei_jobs.InputError, match="body"):
        bei_jobs.plan(corpus, text_column="body", **tiny)

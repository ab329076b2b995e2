"""What a report says of vectors, results and times, given these."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from jobs.pages.words import amount, size
from jobs.report.parts import Parts
from jobs.report.results import results_of
from jobs.report.timeline import timeline
from jobs.report.vectors import look_at


def test_terms_of_sparse_vectors_are_counted() -> None:
    table = pa.table({
        "sparse_indices": pa.array([[1, 2], [3]], pa.list_(pa.int32())),
        "sparse_values": pa.array([[0.5, 1.0], [2.0]], pa.list_(pa.float16())),
        "sparse_terms": [["a", "b"], ["a"]],
        "n_tokens": [1, 2],
    })  # fmt: skip
    found = {(each["column"], each["what"]): each for each in results_of(table)}
    assert found["sparse_indices", "lengths"]["most"] == 2
    assert found["sparse_values", "numbers"]["count"] == 3
    assert found["sparse_terms", "values"]["values"][0] == {"value": "a", "count": 2}
    assert not any(column == "n_tokens" for column, _ in found)


RANDOM = np.random.default_rng(0)
SOUND = RANDOM.normal(size=(200, 32)).astype(np.float32)
SOUND /= np.linalg.norm(SOUND, axis=1, keepdims=True)
KEYS = [row.to_bytes(16, "big") for row in range(200)]


def test_sound_vectors_are_no_warning() -> None:
    assert look_at(SOUND, KEYS, unit=True)["warnings"] == []


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        (SOUND * 0.01 + 1, "point almost all in one direction"),
        (SOUND * 3, "should have unit length"),
        (SOUND * 0, "are zero"),
        (SOUND * np.float32("nan"), "not numbers"),
        (SOUND * (np.arange(32) == 3), "have collapsed"),
        (SOUND * (np.arange(32) > 9), "the same value in every vector"),
        (SOUND[np.arange(200) // 2], "equal to that of another text"),
    ],
)
def test_a_broken_model_is_a_warning(vectors: np.ndarray[Any, Any], problem: str) -> None:
    found = look_at(vectors.astype(np.float32), KEYS, unit=True)["warnings"]
    assert any(problem in warning for warning in found), found


def spans(*commits: tuple[str, float, int]) -> Any:
    """Parts of 10 rows; of each its attempt, when it was committed, and its tokens."""
    rows = [
        {
            "part": f"p{at}", "own": True, "read": True, "attempt": attempt, "at": when,
            "rows": 10, "tokens": tokens, "reused": 0, "deduplicated": 0, "failed": 0,
            "seconds": 1.0, "device": "cpu", "precision": "float32",
        }
        for at, (attempt, when, tokens) in enumerate(commits)
    ]  # fmt: skip
    return Parts(pl.DataFrame(rows), {}, len(rows))


def test_throughput_over_time() -> None:
    found = timeline(spans(("a", 1, 100), ("a", 2, 100), ("b", 2, 50)), started=-5.0)
    assert found is not None
    assert found["seconds"] == 2
    assert [each["tokens_per_second"] for each in found["bins"]] == [100, 150]
    assert found["device_seconds"] == 3
    assert found["stalls"] == []


def test_stalls_are_found() -> None:
    steady = [("a", float(at), 100) for at in range(1, 20)]
    found = timeline(spans(*steady, ("a", 60.0, 100), ("b", 200.0, 100)), started=0.0)
    assert found is not None
    slow, gap = found["stalls"]
    assert (slow["at"], round(slow["seconds"])) == (19, 40)
    assert "far longer than usual" in slow["why"]
    assert (gap["at"], gap["seconds"], gap["why"]) == (60, 139, "no process worked")


def test_parts_of_copied_rows_are_no_stall() -> None:
    steady = [("a", float(at), 100) for at in range(1, 20)]
    found = timeline(spans(*steady, ("a", 60.0, 0)), started=0.0)
    assert found is not None
    assert found["stalls"] == []


def test_amounts_and_sizes_are_never_powers_of_ten() -> None:
    assert [amount(value) for value in (12345, 99.996, 0.012341)] == ["12,345.00", "100", "0.01234"]
    assert [size(value) for value in (999, 999_499, 999_600, 10**15)] == [
        *("999 bytes", "999 kB", "1 MB", "1 PB"),
    ]

"""What is the same space, what is not, and what a spec refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pipeline.errors import UsageError
from pipeline.shards import InputFile
from pipeline.spec import NOT_IDENTITY, JobSpec, ModelIdentity, failure_budget

MODEL = ModelIdentity("m", "", "aa", "bb")
SPEC = JobSpec(task="embed", model=MODEL)
OTHER_VALUES = {
    "task": "tag", "encoder": {"pooling": "cls"}, "text_column": "body", "query_column": "q",
    "documents_column": "d", "document_column": "x", "id_column": "key", "keep": ("a",),
    "source_columns": True,
    "prompt": "query: ", "max_length": 7, "truncate": "left", "dimensions": 8,
    "chunking": "chunk", "chunk_tokens": 64, "chunk_overlap": 8, "chunk_rules": 1,
    "output_dtype": "int8", "output_format": "parquet", "normalize": False, "top_k": 2,
    "raw_scores": True,
    "aggregation": "max", "all_labels": True, "precision": "float16", "token_budget": 9,
    "vectors": ("sparse",), "kind": "query", "more_dimensions": (4,),
    "more_output_dtypes": ("binary",), "sparse_top_k": 3, "sparse_terms": True,
    "token_offsets": True,
    "rows_per_shard": 9, "max_failed_rows": "0", "model": ModelIdentity("m", "", "cc", "bb"),
}  # fmt: skip


def test_every_field_has_another_value_here() -> None:
    assert OTHER_VALUES.keys() == {field.name for field in dataclasses.fields(JobSpec)}


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_a_field_changes_the_space_unless_it_is_named_as_one_that_does_not(name: str) -> None:
    changed = dataclasses.replace(SPEC, **{name: OTHER_VALUES[name]})

    assert (changed.space == SPEC.space) == (name in NOT_IDENTITY)


def test_the_same_weights_under_another_name_are_the_same_space() -> None:
    renamed = dataclasses.replace(SPEC, model=dataclasses.replace(MODEL, name="/dir/m"))

    assert renamed.space == SPEC.space


def test_a_spec_survives_json() -> None:
    spec = dataclasses.replace(SPEC, keep=("a", "b"), encoder={"pooling": ["mean"]})

    assert JobSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


LATER = (
    "all_labels", "output_format", "source_columns", "vectors", "kind", "more_dimensions",
    "more_output_dtypes", "sparse_top_k", "sparse_terms", "token_offsets",
    "chunking", "chunk_tokens", "chunk_overlap", "chunk_rules",
)  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_a_field_that_came_later_is_not_there_where_it_is_not_set(name: str) -> None:
    other = dataclasses.replace(SPEC, **{name: OTHER_VALUES[name]})

    assert name not in SPEC.to_json()
    assert JobSpec.from_json(json.loads(json.dumps(other.to_json()))) == other


def test_a_field_of_a_newer_version_is_an_error_not_dropped() -> None:
    with pytest.raises(UsageError, match="novelty"):
        JobSpec.from_json(SPEC.to_json() | {"novelty": 1})


@pytest.mark.parametrize(
    "wrong",
    [{"aggregation": "dance"}, {"dimensions": 0}, {"max_length": -1}, {"max_failed_rows": "x"}],
)
def test_nonsense_is_refused_by_the_options_name(wrong: dict[str, object]) -> None:
    option = next(iter(wrong)).replace("_", "-")
    with pytest.raises(UsageError, match=f"--{option}"):
        dataclasses.replace(SPEC, **wrong)


@pytest.mark.parametrize(
    ("limit", "rows", "allowed"),
    [
        ("1%", 1000, 10),
        ("1%", 99, 0),
        ("0.5%", 1000, 5),
        ("0", 10, 0),
        ("7", 10, 7),
        ("100%", 3, 3),
        ("1% or 100", 50_000, 500),
        ("1% or 100", 1_000, 100),
        ("1% or 100", 100, 99),
        ("1% or 100", 0, 0),
        ("0 or 2", 9, 2),
    ],
)
def test_a_failure_budget_is_a_count_or_a_share(limit: str, rows: int, allowed: int) -> None:
    assert failure_budget(limit, rows) == allowed


@pytest.mark.parametrize("limit", ["", "-1", "x", "101%", "-1%", "1.5", "1 or x", "1% or", "nan%"])
def test_other_budgets_are_refused(limit: str) -> None:
    with pytest.raises(UsageError, match="max-failed-rows"):
        failure_budget(limit, 10)


def test_a_slug_is_safe_flat_and_short() -> None:
    path = "year=2024/it's a/" + "x" * 200

    slug = InputFile("u", path, "v", 1, 1, "csv").slug

    assert slug.startswith("year_2024.it_s_a.xxx")
    assert len(slug) == 80

"""Which types of one column in two files are one, and that no value changes by it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_plans import plan_of

from pipeline.errors import InputError
from pipeline.input.cutting import PlannedInputs
from pipeline.input.reading import read
from pipeline.spec import schema_hash

NOT_NULL = {"nullable": False}
MAP = pa.map_(pa.string(), pa.int64())


def write(path: Path, column: pa.Array) -> Path:
    table = pa.table({"text": ["t"] * len(column), "kept": column})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    return path


def plan(folder: Path, schema: pa.Schema | None = None) -> PlannedInputs:
    return plan_of([folder], columns=("kept",), schema=schema)


def kept(planned: PlannedInputs) -> list[Any]:
    return [
        value
        for file, cuts in planned.files
        for _, batch in read(file, cuts, planned.schema, 10)
        for value in batch.column("kept").to_pylist()
    ]


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        (pa.list_(pa.int64()), pa.list_(pa.field("element", pa.int64())), [1]),
        (pa.list_(pa.int64()), pa.list_(pa.field("item", pa.int64(), **NOT_NULL)), [1]),
        (MAP, pa.map_(pa.field("k", pa.string(), **NOT_NULL), pa.int64()), [("a", 1)]),
        (
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
            pa.struct([("b", pa.string()), ("a", pa.int64())]),
            {"a": 1, "b": "x"},
        ),
        *(
            (pa.timestamp("us", "UTC"), pa.timestamp("us", zone), datetime(2024, 1, 1, tzinfo=UTC))
            for zone in ("+00:00", "Etc/UTC", "Z")
        ),
    ],
    ids=str,
)
def test_two_spellings_of_one_type_are_one_and_the_first_stays(
    tmp_path: Path, first: pa.DataType, second: pa.DataType, value: object
) -> None:
    """Another spelling of the schema would mean that all parts are written anew."""
    write(tmp_path / "a.arrow", pa.array([value, None], first))
    planned = plan(tmp_path)
    write(tmp_path / "b.arrow", pa.array([None, value], second))
    for again in (plan(tmp_path), plan(tmp_path, planned.schema)):
        assert str(again.schema.field("kept").type) == str(first)
        assert schema_hash(again.schema) == schema_hash(planned.schema)
        assert kept(again) == [value, None, None, value]


@pytest.mark.parametrize(
    "other", [pa.float64(), pa.float32(), pa.float16()], ids=lambda kind: str(kind)
)
def test_decimals_never_become_floats(tmp_path: Path, other: pa.DataType) -> None:
    """pyarrow joins them without a word, and 99999999.99 became 100000000."""
    write(tmp_path / "a.arrow", pa.array([Decimal("99999999.99")], pa.decimal128(10, 2)))
    write(tmp_path / "b.arrow", pa.array([1.5]).cast(other))
    with pytest.raises(InputError, match=r"b\.arrow: column 'kept' is .*, but decimal128\(10, 2\)"):
        plan(tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_view(pa.int64()),
        pa.run_end_encoded(pa.int32(), pa.string()),
        pa.dense_union([pa.field("a", pa.int64())]),
        pa.uuid(),
        pa.struct([("a", MAP)]),
    ],
    ids=str,
)
def test_a_column_of_only_nulls_joins_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    write(tmp_path / "a.arrow", pa.nulls(1, kind))
    write(tmp_path / "b.arrow", pa.nulls(2))
    assert plan(tmp_path).schema.field("kept").type == kind
    assert kept(plan(tmp_path)) == [None] * 3


@pytest.mark.parametrize(
    "kind", [MAP, pa.list_(MAP), pa.map_(pa.string(), MAP), pa.struct([("a", MAP)])], ids=str
)
def test_a_map_has_one_hash_however_it_was_read(tmp_path: Path, kind: pa.DataType) -> None:
    """Parquet gives its parts other names than Arrow, which run.json does not keep."""
    write(tmp_path / "a.parquet", pa.nulls(1, kind))
    schema = plan(tmp_path).schema
    stored = pa.ipc.read_schema(schema.serialize())
    assert schema_hash(schema) == schema_hash(stored)
    assert str(schema.field("kept").type) != str(stored.field("kept").type)

"""Check that an output is what its manifest says: every row once, unaltered and finite."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import BeiJobsError, NotFound, StorageError
from pipeline.input.reading import read
from pipeline.output.manifest import read_parts, require_finished
from pipeline.output.output import Output
from pipeline.output.part_file import PartInfo, checksum_holds, parse_info
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.spec import ROW_COLUMNS, Shard, schema_hash, shard_id
from pipeline.store.uris import redact

# Parts read concurrently. Each is held in memory as a whole.
_READERS = 4
# Input rows read at once to compare ids.
_ID_ROWS = 16_384
_ROW_COLUMN_NAMES = tuple(field.name for field in ROW_COLUMNS)


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification; the output is sound if `problems` is empty."""

    job: str
    rows: int
    parts: int
    problems: tuple[str, ...]
    precisions: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(output: Output) -> Verification:
    """Read every part of the newest finished run and compare it with plan and manifest.

    Raises:
        NotFound: there is no finished run.
    """
    run, manifest = require_finished(output)
    plan = output.plan(run)
    listed = {row["part"]: row for row in read_parts(output, run).to_pylist()}
    problems = [*_coverage(run, plan), *_listing(output, run, plan, listed)]
    rows = 0
    schemas: dict[pa.Schema, list[str]] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for part, schema, part_rows, part_problems in pool.map(
            lambda shard: _check_part(output, run, shard, listed.get(shard.part)), plan.shards()
        ):
            rows += part_rows
            problems += part_problems
            if schema is not None:
                schemas.setdefault(schema, []).append(part)
    problems += _one_schema(schemas)
    if rows != manifest.rows:
        problems.append(f"the manifest says {manifest.rows} rows, but the parts hold {rows}")
    if len(manifest.precisions) > 1:
        problems.append(
            f"parts were computed in different precisions: {', '.join(manifest.precisions)}"
        )
    return Verification(run.job, rows, len(listed), tuple(problems), manifest.precisions)


def _coverage(run: Run, plan: Plan) -> Iterator[str]:
    """Check that the shards of each file cover every row exactly once."""
    cuts = plan.cuts()
    for file in plan.files:
        row = 0
        for cut in sorted(cuts[file.uri], key=lambda cut: cut.first_row):
            if cut.first_row != row:
                problem = "missing" if cut.first_row > row else "planned twice"
                first, end = sorted((row, cut.first_row))
                yield f"{redact(file.uri)}: rows {first}-{end - 1} are {problem}"
            row = cut.first_row + cut.rows
        if row != file.rows and run.limit is None:
            yield f"{redact(file.uri)}: {row} of {file.rows} rows are planned"


def _listing(
    output: Output, run: Run, plan: Plan, listed: dict[str, dict[str, Any]]
) -> Iterator[str]:
    """Check that the plan, the part list and the stored parts are the same set."""
    committed = output.committed()
    latest = output.run_numbers()[-1]
    planned = plan.parts if latest == run.n else plan.parts | output.plan(output.run(latest)).parts
    for name in sorted(plan.parts - listed.keys()):
        yield f"{name} is planned but not in the manifest's part list"
    for name in sorted(listed.keys() - plan.parts):
        yield f"{name} is in the manifest's part list but not planned"
    for name in sorted(plan.parts - committed.keys()):
        yield f"{name} is missing"
    stored = {item.name for item in output.directory.list() if item.name.endswith(".arrow")}
    for name in sorted(stored - planned):
        yield f"{name} is in the output but in no plan; a reader of *.arrow would see its rows"


def _check_part(
    output: Output, run: Run, shard: Shard, row: dict[str, Any] | None
) -> tuple[str, pa.Schema | None, int, list[str]]:
    """The name of a part, its columns, its number of rows, and its problems."""
    try:
        data = output.directory.read(shard.part)
        info = parse_info(shard.part, data)
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            table = reader.read_all()
    except NotFound:
        return shard.part, None, 0, []  # reported by `_listing`
    except (StorageError, pa.ArrowException, OSError) as error:
        return shard.part, None, 0, [f"{shard.part} cannot be read: {error}"]
    problems = [*_integrity(data, info, row), *_provenance(run, shard, info)]
    if problem := _columns(run, info.schema):
        problems.append(problem)
    else:
        problems += [*_rows(shard, info, table), *_values(run, table)]
        problems += _ids(run, shard, table)
    messages = [f"{shard.part}: {problem}" for problem in problems]
    return shard.part, info.schema, table.num_rows, messages


def _ids(run: Run, shard: Shard, table: pa.Table) -> Iterator[str]:
    """Check that the ids are those of the input rows, in order.

    This needs the planned version of the input: a changed or missing input is skipped, as is a
    compressed one, which would be read from its start for each shard.
    """
    name = run.spec.id_column
    if name is None or shard.file.compression:
        return
    id_schema = pa.schema([run.columns.field(name)])
    try:
        batches = [batch for _, batch in read(shard.file, [shard.cut], id_schema, _ID_ROWS)]
    except BeiJobsError:
        return
    expected = pa.Table.from_batches(batches, id_schema)[name]
    if len(expected) == table.num_rows and [*map(repr, expected.to_pylist())] != [
        *map(repr, table[name].to_pylist())
    ]:
        yield f"its {name} column differs from the input's, which begins at row {shard.first_row}"


def _one_schema(schemas: dict[pa.Schema, list[str]]) -> Iterator[str]:
    """Check that all parts have the same columns; report those that differ from most."""
    common = max(schemas, key=lambda schema: len(schemas[schema]), default=None)
    for schema, parts in schemas.items():
        if schema != common:
            for part in parts:
                yield f"{part}: its columns are {_text(schema)}; most parts have {_text(common)}"


def _columns(run: Run, schema: pa.Schema) -> str:
    """The problem with a part's columns, if any: kept ones come first, ROW_COLUMNS last."""
    kept = run.kept
    last = tuple(schema.names[-len(_ROW_COLUMN_NAMES) :])
    if [*schema][: len(kept)] == [*kept] and last == _ROW_COLUMN_NAMES:
        return ""
    added = ", ".join(_ROW_COLUMN_NAMES)
    return f"its columns are {_text(schema)}; the plan keeps {_text(kept)} and adds {added}"


def _text(schema: pa.Schema) -> str:
    return "(" + ", ".join(f"{field.name} {field.type}" for field in schema) + ")"


def _integrity(data: bytes, info: PartInfo, row: dict[str, Any] | None) -> Iterator[str]:
    if not checksum_holds(data, info):
        yield "its checksum does not match its bytes"
    if row is not None and row["checksum"] != info.values.get("checksum"):
        yield "it is not the part that the manifest lists"
    if row is not None and row["bytes"] != len(data):
        yield f"it has {len(data)} bytes, but the manifest says {row['bytes']}"


def _provenance(run: Run, shard: Shard, info: PartInfo) -> Iterator[str]:
    schema = schema_hash(run.kept)
    expected = {
        "space": run.spec.space,
        "schema": schema,
        "shard": shard.id,
        "sha256": run.spec.model.sha256,
        "task": run.spec.task,
        "input_version": shard.file.version,
        "first_row": str(shard.first_row),
    }
    for key, value in expected.items():
        if info.values.get(key) != value:
            yield f"its {key} is {info.values.get(key)!r}, not {value!r}"
    if shard_id(run.spec.space, schema, shard.file, shard.cut) != shard.id:
        yield "its shard id does not follow from the plan"


def _rows(shard: Shard, info: PartInfo, table: pa.Table) -> Iterator[str]:
    if table.num_rows != shard.rows:
        yield f"it holds {table.num_rows} rows, but the plan says {shard.rows}"
    if info.values.get("rows") != str(table.num_rows):
        yield f"its metadata says {info.values.get('rows')} rows, but it holds {table.num_rows}"
    failed = table.num_rows - table["error"].null_count
    if info.values.get("failed") != str(failed):
        yield f"its metadata says {info.values.get('failed')} failed rows, but it holds {failed}"


def _values(run: Run, table: pa.Table) -> Iterator[str]:
    """Check that results are null exactly where there is an error, and finite elsewhere."""
    error = table["error"].is_valid()
    for name in table.column_names[len(run.kept) : -len(_ROW_COLUMN_NAMES)]:
        column = table[name]
        if not pc.all(pc.equal(column.is_null(), error)).as_py() and table.num_rows:
            yield f"{name} is not null exactly where there is an error"
        if not _finite(column):
            yield f"{name} has a value that is not finite"


def _finite(column: pa.ChunkedArray) -> bool:
    return all(_finite_array(chunk) for chunk in column.chunks)


def _finite_array(array: pa.Array) -> bool:
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        return _finite_array(array.flatten())
    if pa.types.is_struct(array.type):
        return all(_finite_array(array.field(i)) for i in range(array.type.num_fields))
    if not pa.types.is_floating(array.type):
        return True
    values = array.drop_null().to_numpy(zero_copy_only=False)
    return bool(np.isfinite(values).all())

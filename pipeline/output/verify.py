"""Check that an output is what its manifest says: every row once, unaltered and finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import BeiJobsError, NotFound, StorageError
from pipeline.input.reading import read_numbered
from pipeline.input.where import where_columns
from pipeline.output.chunk_rows import chunk_problems, first_chunks
from pipeline.output.manifest import listed_for, read_parts, require_finished
from pipeline.output.output import Output
from pipeline.output.part_file import PartInfo, checksum_holds, parse_info, read_rows
from pipeline.output.plan import Plan, row_values
from pipeline.output.readable import readable, unreadable
from pipeline.output.run import Run
from pipeline.output.source_columns import SOURCE_NAMES, source_problems
from pipeline.part_columns import ROW_COLUMNS
from pipeline.prefetch import map_in_order
from pipeline.row_keys import KEY_FIELD, row_keys
from pipeline.shards import Shard, shard_id
from pipeline.spec import schema_hash
from pipeline.store.uris import redact
from pipeline.tasks import find_task

# Parts read concurrently. Each is held in memory as a whole.
_READERS = 4
# Input rows read at once to compare ids and keys.
_INPUT_ROWS = 16_384
_Names: TypeAlias = "pa.Array | pa.ChunkedArray"


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
    parts = read_parts(output, run)
    problems = [*_coverage(run, plan), *_listing(output, run, plan, parts["part"])]
    checker = _PartChecker(output, run)
    listed = row_values(listed_for(plan, parts.select(["part", "checksum", "bytes"])))
    rows = 0
    schemas: dict[pa.Schema, list[str]] = {}
    for part, schema, part_rows, part_problems in map_in_order(
        lambda pair: checker.check(*pair), zip(plan.shards(), listed, strict=True), _READERS
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
    return Verification(run.job, rows, parts.num_rows, tuple(problems), manifest.precisions)


def _coverage(run: Run, plan: Plan) -> Iterator[str]:
    """Check that the shards of each file cover every row exactly once.

    Of a skipped file, only the rows of an earlier version are planned that were there.
    """
    cuts, skipped = plan.cuts(), dict(run.skipped)
    for file in plan.files:
        row = 0
        for cut in sorted(cuts[file.uri], key=lambda cut: cut.first_row):
            if cut.first_row < row or (cut.first_row > row and file.uri not in skipped):
                problem = "missing" if cut.first_row > row else "planned twice"
                first, end = sorted((row, cut.first_row))
                yield f"{redact(file.uri)}: rows {first}-{end - 1} are {problem}"
            row = cut.end
        none_selected = file.selects and not row
        if row != file.rows and not none_selected and not (run.limit or file.uri in skipped):
            yield f"{redact(file.uri)}: {row} of {file.rows} rows are planned"


def _listing(output: Output, run: Run, plan: Plan, listed: pa.ChunkedArray) -> Iterator[str]:
    """Check that the plan, the part list and the stored parts are the same set."""
    planned = plan.table["part"]
    names = (item.name for item in output.directory.list())
    suffix = f".{plan.output_format}"
    stored = pa.array([name for name in names if name.endswith(suffix)], pa.string())
    strays, latest = _names_not_in(stored, planned), output.run_numbers()[-1]
    if latest != run.n:
        strays = _names_not_in(strays, output.plan(output.run(latest)).table["part"])
    for name in _names_not_in(planned, listed).to_pylist():
        yield f"{name} is planned but not in the manifest's part list"
    for name in _names_not_in(listed, planned).to_pylist():
        yield f"{name} is in the manifest's part list but not planned"
    for name in _names_not_in(planned, stored).to_pylist():
        yield f"{name} is missing"
    for name in sorted(strays.to_pylist()):
        yield f"{name} is in the output but in no plan; a reader of *{suffix} would see its rows"


def _names_not_in(names: _Names, others: _Names) -> _Names:
    return names.filter(pc.invert(pc.is_in(names, value_set=others)))


class _PartChecker:
    """Checks the parts of one run; what they share is derived once."""

    def __init__(self, output: Output, run: Run) -> None:
        self._output = output
        self._run = run
        self._kept = run.kept
        self._last = [*ROW_COLUMNS, *([KEY_FIELD] if run.keyed else [])]
        self._expected = {
            "space": run.spec.space,
            "schema": schema_hash(run.kept),
            "sha256": run.spec.model.sha256,
            "task": run.spec.task,
        }

    def check(
        self, shard: Shard, listed: tuple[Any, ...]
    ) -> tuple[str, pa.Schema | None, int, list[str]]:
        """The name of a part, its columns, its number of rows, and its problems.

        `listed` is what the manifest says of it: name, checksum, bytes; nulls if it lists none.
        """
        part = shard.part
        try:
            data = self._output.directory.read(part)
            info = parse_info(part, data)
            table = read_rows(part, data)
        except NotFound:
            return part, None, 0, []  # reported by `_listing`
        except (StorageError, pa.ArrowException, OSError) as error:
            return part, None, 0, [f"{part} cannot be read: {error}"]
        problems = [*_integrity(data, info, listed), *self._provenance(shard, info)]
        if problem := _columns(self._kept, info.schema, self._last):
            problems.append(problem)
        else:
            results = table.column_names[len(self._kept) : -len(self._last)]
            problems += _values(results, table)
            problems += find_task(self._run.spec.task).flaws(table)
            damaged = [*unreadable(part, data, table)]
            if self._run.spec.has_chunk_rows:
                problems += chunk_problems(table, [f.name for f in (*self._kept, *self._last)])
                if info.values.get("chunks") != str(table.num_rows):
                    problems.append(f"its metadata says {info.values.get('chunks')} chunks, but it "
                                    f"holds {table.num_rows} rows")  # fmt: skip
                table = first_chunks(table)
            problems += _rows(shard, info, table)
            if self._run.spec.source_columns:
                problems += source_problems(shard, table)
            problems += damaged or _compared_with_input(self._run, shard, table)
        return part, info.schema, table.num_rows, [f"{part}: {problem}" for problem in problems]

    def _provenance(self, shard: Shard, info: PartInfo) -> Iterator[str]:
        expected = {
            **self._expected,
            "shard": shard.id,
            "input_version": shard.file.version,
            "first_row": str(shard.first_row),
        }
        for key, value in expected.items():
            if info.values.get(key) != value:
                yield f"its {key} is {info.values.get(key)!r}, not {value!r}"
        space, schema = expected["space"], expected["schema"]
        if shard_id(space, schema, shard.file, shard.cut) != shard.id:
            yield "its shard id does not follow from the plan"


def _compared_with_input(run: Run, shard: Shard, table: pa.Table) -> Iterator[str]:
    """Check that ids, row keys and row numbers are those of the input rows, in order.

    This needs the planned version of the input: a changed or missing input is skipped, as is a
    compressed one, which would be read from its start for each shard.
    """
    name = run.spec.id_column
    texts = find_task(run.spec.task).columns_read(run.spec) if run.keyed else ()
    if not (name or texts) or shard.file.compression:
        return
    needed = {*texts, name, *where_columns(shard.file.where)}
    columns = pa.schema([field for field in run.columns if field.name in needed])
    ids, keys, numbers = list[str](), list[bytes | None](), list[int]()
    try:
        for _, rows, batch in read_numbered(shard.file, [shard.cut], columns, _INPUT_ROWS):
            numbers += rows.tolist()
            keys += row_keys(batch, texts).to_pylist() if texts else []
            ids += map(repr, readable(batch.column(name)).to_pylist()) if name else []
    except BeiJobsError:
        return
    where = f"the input's, which begins at row {shard.first_row}"
    if name and len(ids) == table.num_rows and ids != [*map(repr, table[name].to_pylist())]:
        yield f"its {name} column differs from {where}"
    if texts and len(keys) == table.num_rows and keys != table[KEY_FIELD.name].to_pylist():
        yield f"its row keys are not those of the texts of {where}"
    if run.spec.source_columns and numbers != table[SOURCE_NAMES[1]].to_pylist():
        yield f"its source_row differs from {where}"


def _one_schema(schemas: dict[pa.Schema, list[str]]) -> Iterator[str]:
    """Check that all parts have the same columns; report those that differ from most."""
    common = max(schemas, key=lambda schema: len(schemas[schema]), default=None)
    for schema, parts in schemas.items():
        if schema != common:
            for part in parts:
                yield f"{part}: its columns are {_text(schema)}; most parts have {_text(common)}"


def _columns(kept: pa.Schema, schema: pa.Schema, last: Sequence[pa.Field]) -> str:
    """The problem with a part's columns, if any: kept ones come first, those of every task last."""
    names = [field.name for field in last]
    if [*schema][: len(kept)] == [*kept] and schema.names[-len(last) :] == names:
        return ""
    added = ", ".join(names)
    return f"its columns are {_text(schema)}; the plan keeps {_text(kept)} and adds {added}"


def _text(schema: pa.Schema) -> str:
    return "(" + ", ".join(f"{field.name} {field.type}" for field in schema) + ")"


def _integrity(data: bytes, info: PartInfo, listed: tuple[Any, ...]) -> Iterator[str]:
    part, checksum, size = listed
    if not checksum_holds(data, info):
        yield "its checksum does not match its bytes"
    if part is not None and checksum != info.values.get("checksum"):
        yield "it is not the part that the manifest lists"
    if part is not None and size != len(data):
        yield f"it has {len(data)} bytes, but the manifest says {size}"


def _rows(shard: Shard, info: PartInfo, table: pa.Table) -> Iterator[str]:
    if table.num_rows != shard.rows:
        yield f"it holds {table.num_rows} rows, but the plan says {shard.rows}"
    if info.values.get("rows") != str(table.num_rows):
        yield f"its metadata says {info.values.get('rows')} rows, but it holds {table.num_rows}"
    failed = table.num_rows - table["error"].null_count
    if info.values.get("failed") != str(failed):
        yield f"its metadata says {info.values.get('failed')} failed rows, but it holds {failed}"


def _values(results: Sequence[str], table: pa.Table) -> Iterator[str]:
    """Check that results are null exactly where there is an error, and finite elsewhere."""
    error = table["error"].is_valid()
    for name in results:
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

"""A run: one plan carried out on an output, and its JSON form."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline.errors import OutputConflict
from pipeline.input.table_file import ReadTable
from pipeline.output.chunk_rows import RowForm
from pipeline.output.record import Record
from pipeline.output.source_columns import SOURCE_FIELDS
from pipeline.spec import NUMERICS_VERSION, JobSpec, digest
from pipeline.store.uris import redact

# Increase it if the stored format changes so that older versions must not touch an output.
# 1: 0.1.0.
# 2: parts have row keys. An output keeps the format that it began with.
FORMAT_VERSION = 2
KEYED_FORMAT = 2
RUNS = "_bei/runs/"


@dataclass(frozen=True, slots=True)
class Run:
    """One plan carried out on an output."""

    output: str
    n: int
    spec: JobSpec
    inputs: tuple[str, ...]  # the INPUT arguments as given, resolved to absolute URIs
    columns: pa.Schema  # of the input as planned: id, kept and task columns
    plan: str  # digest of the plan
    files: int  # those of the plan, and skipped ones
    shards: int
    rows: int
    limit: int | None = None
    created: str = field(default_factory=lambda: now())
    format: int = FORMAT_VERSION
    numerics: int = NUMERICS_VERSION  # of the version that planned it: only that computes it
    matched: int = 0  # rows that were found in earlier parts when it was planned
    reuse_from: str = ""  # the other output whose parts were searched too
    record: Record | None = None  # None: of an earlier version
    skipped: tuple[tuple[str, str], ...] = ()  # input files left out: URI and reason
    tables: tuple[ReadTable, ...] = ()  # those among the inputs

    @property
    def job(self) -> str:
        return job_id(self.output, self.n)

    @property
    def keyed(self) -> bool:
        """Whether its parts have row keys."""
        return self.format >= KEYED_FORMAT

    @property
    def kept(self) -> pa.Schema:
        """The columns of a part before its results: see `kept_schema`."""
        return kept_schema(self.spec, self.columns)

    @property
    def passing(self) -> pa.Schema:
        """The id and kept columns, which pass through."""
        return passing_schema(self.spec, self.columns)

    @property
    def form(self) -> RowForm:
        """How its rows are held, and how its parts have them."""
        return RowForm(len(self.kept), keyed=self.keyed, chunked=self.spec.has_chunk_rows)

    def path(self, name: str) -> str:
        """The path of an object of this run, relative to the output."""
        return f"{RUNS}{self.n}/{name}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes an equal run."""
        columns = base64.b64encode(self.columns.serialize()).decode()
        plain = {name: getattr(self, name) for name in (*_PLAIN_FIELDS, "numerics", "matched")}
        return {
            **plain,
            "job": self.job,
            "columns": columns,
            "spec": self.spec.to_json(),
            **({"reuse_from": self.reuse_from} if self.reuse_from else {}),
            **({"record": self.record.to_json()} if self.record else {}),
            **({"skipped": [list(each) for each in self.skipped]} if self.skipped else {}),
            **({"tables": [asdict(each) for each in self.tables]} if self.tables else {}),
        }

    @classmethod
    def from_json(cls, output: str, data: dict[str, Any]) -> Run:
        """Rebuild a run. `output` is where it was found; it may have been moved since it was made.

        Raises:
            OutputConflict: a newer version of bei-jobs wrote it.
            ValueError: a number is none, or its numerics version is not one from 1.
        """
        if data.get("format", 0) > FORMAT_VERSION:
            raise OutputConflict(
                f"{redact(output)} was written by a newer version of bei-jobs",
                hint="upgrade bei-jobs here; an older version must not touch it",
            )
        columns = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(data["columns"])))
        plain = {name: data[name] for name in _PLAIN_FIELDS}
        plain["inputs"] = tuple(plain["inputs"])
        for name in _COUNTS:
            if type(plain[name]) is not int:
                raise ValueError(f"{name} is {plain[name]!r}")
        plain["numerics"] = data.get("numerics", 1)  # not stored by 0.1.0
        if type(plain["numerics"]) is not int or plain["numerics"] < 1:
            raise ValueError(f"numerics is {plain['numerics']!r}")
        plain["matched"] = int(data.get("matched", 0))
        plain["reuse_from"] = str(data.get("reuse_from", ""))
        record = data.get("record")
        plain["record"] = None if record is None else Record.from_json(record)
        plain["skipped"] = tuple((str(uri), str(reason)) for uri, reason in data.get("skipped", ()))
        plain["tables"] = tuple(ReadTable(**each) for each in data.get("tables", ()))
        return cls(
            **{**plain, "output": output}, columns=columns, spec=JobSpec.from_json(data["spec"])
        )


_PLAIN_FIELDS = (
    "output", "n", "inputs", "plan", "files", "shards", "rows", "limit", "created", "format",
)  # fmt: skip


_COUNTS = ("n", "files", "shards", "rows")


def job_id(output: str, n: int) -> str:
    """The job id of a run: 12 hex digits over (output, n)."""
    return digest(output, n)[:12]


def kept_schema(spec: JobSpec, columns: pa.Schema) -> pa.Schema:
    """The columns that say where a row is from, if there is no id, and those that pass through."""
    source = SOURCE_FIELDS if spec.source_columns else ()
    return pa.schema([*source, *passing_schema(spec, columns)])


def passing_schema(spec: JobSpec, columns: pa.Schema) -> pa.Schema:
    """The fields of the id column, if there is one, and of the kept columns."""
    names = [spec.id_column] if spec.id_column else []
    names += [name for name in spec.keep if name not in names]
    return pa.schema([columns.field(name) for name in names])


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(time: str) -> float:
    """Seconds from a time in ISO 8601 until now.

    Raises:
        ValueError: it is no such time.
    """
    then = datetime.fromisoformat(time)
    return (datetime.now(UTC) - then.replace(tzinfo=then.tzinfo or UTC)).total_seconds()

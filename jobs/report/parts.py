"""The parts of a run as a table: what was counted, by whom, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from pipeline.errors import StorageError
from pipeline.output.manifest import newest_finished, read_manifest, read_parts
from pipeline.output.output import Output
from pipeline.output.part_file import PartInfo, read_info
from pipeline.output.plan import Plan
from pipeline.output.run import Run
from pipeline.store.directory import ObjectInfo
from pipeline.store.uris import redact

# Ends of parts that are read: each is a few small requests to a remote store.
_READ = 400
_READERS = 16
_COUNTS = ("rows", "tokens", "truncated", "failed", "reused", "deduplicated", "chunks", "cut")
# The listing's time is finer than that in a part; a copied output has other times.
_SAME_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What is there of a run.

    Attributes:
        table: one row per part in input order: part, index (in the plan), file, bytes, at (seconds
            since the epoch), own (whether this run computed it), read (whether its counts are
            known); rows, tokens, truncated, failed, reused, deduplicated, chunks, cut, seconds,
            attempt, device and precision.
        infos: name → metadata of a part, for those of this run that were read.
        own: how many parts this run wrote.
    """

    table: pl.DataFrame
    infos: Mapping[str, PartInfo]
    own: int


def find_parts(output: Output, run: Run, plan: Plan) -> Parts:
    """The parts of a run that are committed.

    Those of a finished run are counted in its list of parts. Of any other run, the ends of a few
    hundred parts are read.

    Raises:
        StorageError: the output cannot be read.
    """
    committed = output.committed()
    planned = pl.from_arrow(plan.table.select(["part", "file", "rows"]))
    assert isinstance(planned, pl.DataFrame)
    names = [redact(file.uri) for file in plan.files]
    there = _placed(planned, committed).with_columns(
        pl.col("file").map_elements(names.__getitem__, return_dtype=pl.String)
    )
    if manifest := read_manifest(output, run):
        table = there.drop("rows").join(_listed(output, run), on="part", how="left")
        table = table.with_columns(own=pl.col("job").eq(manifest.job).fill_null(False))
        infos = _read(output, table.filter("own")["part"].to_list())
    else:
        earlier = _earlier(output, run)
        mine = [name for name in there["part"].to_list() if name not in earlier]
        infos = _read(output, mine)
        table = there.with_columns(own=pl.col("part").is_in(mine)).drop("rows")
        table = table.join(_counted(infos), on="part", how="left")
    table = table.with_columns(read=pl.col("rows").is_not_null())
    own = int(table["own"].sum())
    return Parts(_timed(table, infos, own), infos, own)


def _placed(planned: pl.DataFrame, committed: Mapping[str, ObjectInfo]) -> pl.DataFrame:
    objects = pl.DataFrame(
        [(info.name, info.size, info.modified) for info in committed.values()],
        schema={"part": pl.String, "bytes": pl.Int64, "at": pl.Float64},
        orient="row",
    )
    return planned.with_row_index().join(objects, on="part", how="inner").sort("index")


def _listed(output: Output, run: Run) -> pl.DataFrame:
    listed = pl.from_arrow(read_parts(output, run))
    assert isinstance(listed, pl.DataFrame)
    missing = [name for name in _COUNTS if name not in listed.columns]
    return listed.with_columns(
        [pl.lit(0 if name != "cut" else None, pl.Int64).alias(name) for name in missing]
    ).drop("bytes", "version", "checksum")


def _earlier(output: Output, run: Run) -> set[str]:
    """The parts of the newest finished run: this one finds them."""
    finished = newest_finished(output)
    if finished is None or finished[0].n == run.n:
        return set()
    return set(read_parts(output, finished[0])["part"].to_pylist())


def _read(output: Output, names: list[str]) -> dict[str, PartInfo]:
    places = np.linspace(0, len(names) - 1, min(_READ, len(names))).astype(int)
    chosen = [names[at] for at in places.tolist()]

    def read(name: str) -> PartInfo | None:
        try:
            return read_info(output.directory, name)
        except StorageError:  # deleted meanwhile, or damaged, which `verify` finds
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        infos = pool.map(read, chosen)
        return {info.name: info for info in infos if info is not None}


def _counted(infos: Mapping[str, PartInfo]) -> pl.DataFrame:
    texts = ("job", "attempt", "device", "precision")
    rows = [
        (
            name,
            *(_integer(info.values.get(key)) for key in _COUNTS),
            _float(info.values.get("seconds")),
            *(info.values.get(key, "") for key in texts),
        )
        for name, info in infos.items()
    ]
    schema: dict[str, Any] = {"part": pl.String, **dict.fromkeys(_COUNTS, pl.Int64)}
    schema |= {"seconds": pl.Float64, **dict.fromkeys(texts, pl.String)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _timed(table: pl.DataFrame, infos: Mapping[str, PartInfo], own: int) -> pl.DataFrame:
    """With the times that parts themselves say, if all were read and the store's differ."""
    said = {name: _epoch(info.values.get("written", "")) for name, info in infos.items()}
    listed = dict(zip(table["part"].to_list(), table["at"].to_list(), strict=True))
    copied = any(
        at is not None and abs(at - listed[name]) > _SAME_SECONDS for name, at in said.items()
    )
    if not copied or len(infos) < own:
        return table
    times = pl.DataFrame(
        {"part": list(said), "said": list(said.values())},
        schema={"part": pl.String, "said": pl.Float64},
    )
    table = table.join(times, on="part", how="left")
    return table.with_columns(at=pl.coalesce("said", "at")).drop("said")


def json_of(info: PartInfo, key: str) -> dict[str, Any]:
    """A JSON object among the metadata of a part; {} where there is none."""
    try:
        value = json.loads(info.values.get(key, "{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _integer(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0


def _float(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _epoch(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None

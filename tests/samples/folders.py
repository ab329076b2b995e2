"""Folders as they are found, and what an INPUT names in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def _put(*names: str) -> Callable[[Path], None]:
    """Makes Parquet files of one row; any other name gets a few bytes."""

    def make(folder: Path) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in {".parquet", ".pq"}:
                pq.write_table(pa.table({"text": [name]}), path)
            else:
                path.write_text("one line\n")

    return make


def _linked(link: str, target: str, *names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _put(*names)(folder)
        (folder / link).parent.mkdir(parents=True, exist_ok=True)
        (folder / link).symlink_to(target)

    return make


def _one_named(name: str, content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _put("data/a.parquet")(folder)
        (folder / name).write_bytes(content)

    return make


def _delta(folder: Path) -> None:
    """A Delta table that had two files, of which one was removed."""
    _put("data/old.parquet", "data/new.parquet")(folder)
    log = folder / "data/_delta_log"
    log.mkdir()
    fields = [{"name": "text", "type": "string", "nullable": True, "metadata": {}}]
    schema = json.dumps({"type": "struct", "fields": fields})
    table = {
        "id": "5a1b", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
        "partitionColumns": [], "configuration": {}, "createdTime": 0,
    }  # fmt: skip
    size = os.stat(folder / "data/new.parquet").st_size
    add = {"partitionValues": {}, "size": size, "modificationTime": 0, "dataChange": True}
    commits = [
        [
            {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
            {"metaData": table},
            {"add": {"path": "old.parquet", **add}},
        ],
        [
            {"remove": {"path": "old.parquet", "deletionTimestamp": 0, "dataChange": True}},
            {"add": {"path": "new.parquet", **add}},
        ],
    ]
    for number, actions in enumerate(commits):
        lines = "".join(json.dumps(action) + "\n" for action in actions)
        (log / f"{number:020}.json").write_text(lines)


@dataclass(frozen=True, slots=True)
class Folder:
    """What is there, made by `make`, and the INPUT that is given, from there."""

    what: str
    make: Callable[[Path], None]
    inputs: tuple[str, ...] = ("data",)


FOLDERS = (
    Folder("folders in folders", _put("data/a.parquet", "data/x/b.parquet", "data/x/y/c.parquet")),
    Folder("a file and its folder", _put("data/a.parquet", "data/b.parquet"),
           ("data", "data/a.parquet", "data/*.parquet", "./data//", "data/../data")),
    Folder("hive keys", _put("data/day=2024-01-01/a.parquet", "data/day=a%2Fb/b.parquet")),
    Folder("hive keys in some paths only", _put("data/day=1/a.parquet", "data/b.parquet")),
    Folder("names that start with `_` or `.`",
           _put("data/a.parquet", "data/_b.parquet", "data/.c.parquet", "data/_d/e.parquet")),
    Folder("one of them by its name", _put("data/_b.parquet"), ("data/_b.parquet",)),
    Folder("one of them by a glob", _put("data/_b.parquet", "data/c.parquet"),
           ("data/_*.parquet",)),
    Folder("only such names", _put("data/_b.parquet")),
    Folder("other files", _put("data/a.parquet", "data/notes.txt", "data/_SUCCESS")),
    Folder("only other files", _put("data/notes.txt")),
    Folder("a file of another kind by its name", _put("data/notes.txt"), ("data/notes.txt",)),
    Folder("no file", lambda folder: (folder / "data").mkdir()),
    Folder("nothing", _put("other/a.parquet")),
    Folder("suffixes in capitals", _put("data/A.PARQUET", "data/b.PQ")),
    Folder("a folder named like a file", _put("data/a.parquet/part-0.parquet")),
    Folder("an output of bei-jobs", _put("data/a.parquet", "data/a.embed/part-0.parquet",
                                        "data/a.embed/_bei/spec.json")),
    Folder("that output by its name", _put("data/a.embed/part-0.parquet",
                                           "data/a.embed/_bei/spec.json"), ("data/a.embed",)),
    Folder("glob characters in names", _put("data [2024]/a*.parquet", "data 2/b.parquet"),
           ("data [2024]", "data [2024]/a*.parquet")),
    Folder("a linked file", _linked("data/b.parquet", "../a.parquet", "a.parquet")),
    Folder("a link beside its file", _linked("data/b.parquet", "a.parquet", "data/a.parquet")),
    Folder("a linked folder", _linked("data/x", "../more", "data/a.parquet", "more/b.parquet")),
    Folder("a link to its own folder", _linked("data/x/up", "..", "data/x/a.parquet")),
    Folder("a link that leads nowhere", _linked("data/b.parquet", "no", "data/a.parquet")),
    Folder("an empty file, `.parquet`", _one_named("data/b.parquet", b"")),
    Folder("an empty file, `.jsonl`", _one_named("data/b.jsonl", b"")),
    Folder("a file that is no Parquet", _one_named("data/b.parquet", b"PAR1 and no more")),
    Folder("files without the column", _one_named("data/b.jsonl", b'{"body":"a"}\n')),
    Folder("a Delta table", _delta),
    Folder("an Iceberg table, its metadata damaged",
           _put("data/data/a.parquet", "data/metadata/v1.metadata.json")),
    Folder("a Hudi table", _put("data/a.parquet", "data/.hoodie/hoodie.properties")),
    Folder("a Lance table", _put("data/data/a.lance", "data/_versions/1.manifest")),
    Folder("a table among files", _put("data/a.parquet", "data/t/b.parquet",
                                       "data/t/.hoodie/hoodie.properties")),
    Folder("a file of a table by its name",
           _put("data/a.parquet", "data/.hoodie/hoodie.properties"), ("data/a.parquet",)),
)  # fmt: skip

"""docs/formats.md: every sample is written and read, and the page says what came of it."""

from __future__ import annotations

import io
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BeiJobsError
from samples.arrow import arrow_samples
from samples.csv import csv_samples
from samples.folders import FOLDERS, Folder
from samples.globs import FILES, FOUND, GLOBS, LINKS
from samples.jsonl import jsonl_samples
from samples.parquet import parquet_samples
from samples.read import outcome, plan, rows
from samples.sample import Sample
from samples.types import VALUES, column, in_parquet

HEAD = """# What is read

Made by `scripts/formats`, which writes each file below and reads it with every column kept. A test
compares this page with what it prints, and the rows of each file with those that DuckDB reads (of
Arrow IPC, which it does not, with those of polars). The last column says where these differ; where
it is empty they are equal, or nobody reads the file.

A file that is refused is skipped, and the job ends with exit code 3; where more than half of the
files are (`--max-bad-files`), nothing is computed.

Suffixes: `.parquet` and `.pq`; `.arrow`, `.arrows`, `.feather` and `.ipc`; `.jsonl`, `.ndjson` and
`.json`; `.csv`; `.tsv`. Others, and what a suffix may have behind it, are rows of the tables. A
file without a suffix is told by its first bytes; `--format` says what any file is.
"""
FORMATS: dict[str, Callable[[], Iterator[Sample]]] = {
    "Parquet": parquet_samples,
    "Arrow IPC": arrow_samples,
    "JSON Lines": jsonl_samples,
    "CSV": csv_samples,
}
NOTES = {
    "JSON Lines": "One object a line; a key that is missing is a null.\n",
    "CSV": "Commas, quotes as in RFC 4180, a header line. Every value is a text, an empty field an "
    "empty one.\n",
}
TYPES = """## Types of columns

Each Arrow type as the text of a row, as a list of texts (`--documents-column`) and as a kept
column: whether it comes out with equal type and values (of Parquet, with those that pyarrow reads
of the file). What is refused:
"""
JSON_VALUES = (
    "null", "true", "1", "1.5", '"a"', '"2024-01-01"', "[]", "[1, 2.5]", "{}", '{"a": {"b": [1]}}',
)  # fmt: skip


GLOBS_HEAD = """## Globs

As in a shell: `*`, `?`, `[ab]`, `[!a]`, and `**` for any number of folders. A folder that matches
is read as a folder, which is what happens too if the glob is not quoted and the shell replaces it.
`{{a,b}}` is the shell's alone. What exists by that very name is taken literally. A slash at the end
changes nothing: `*/**` is what is in folders. Names that start with `_` or `.` match where the glob
says so. In a bucket `//`, `.` and `..` are parts of a name.

A test compares the files with those that DuckDB and polars find, which also take hidden names,
outputs of bei-jobs, and a file again for each link to it. The folder has {names}; links are
{links}.

"""


def page() -> str:
    """The page."""
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Feather version 1
        root = Path(folder).resolve()
        for title, samples in FORMATS.items():
            parts += [f"## {title}\n", *([NOTES[title]] if title in NOTES else [])]
            lines = (_of_sample(sample, root) for sample in samples())
            parts.append(_table(("file", "outcome", "the reference"), lines))
        parts += [TYPES, _types(root), "The types of JSON values:\n", _json_types(root)]
        parts += ["## Folders\n", _folders(root)]
    return "\n".join([*parts, _globs()])


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---" for _ in head], *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _code(text: str) -> str:
    """Words as they are, in a cell of a table."""
    escaped = text.replace("|", "\\|").replace("\t", "\\t")
    return f"``{escaped}``" if "`" in escaped else f"`{escaped}`"


def _of_sample(sample: Sample, root: Path) -> tuple[str, str, str]:
    found = outcome(sample, root)
    if not isinstance(found, str):
        return sample.what, "read", sample.differs
    refused, _, words = found.partition(": ")
    # What Python says after that differs between its versions.
    words = re.sub("is not JSON: .*", "is not JSON: …", words)
    return sample.what, f"{refused}: {_code(words)}", sample.differs


def _types(root: Path) -> str:
    lines, refusals = [], dict[str, str]()
    for kind, values in VALUES:
        array = column(kind, values)
        cells = [_code(str(kind))]
        for option in ("text_columns", "list_columns"):
            words = _as_text(array, option, root)
            cells.append("refused" if words else "read")
            refusals.setdefault(option, words)
        cells += [_kept(array, root, suffix) for suffix in (".parquet", ".arrow")]
        lines.append(cells)
    words = [f"- {_code(each)}" for each in refusals.values() if each]
    head = ("type", "text", "list of texts", "kept, of Parquet", "kept, of Arrow")
    return "\n".join([*words, "", _table(head, lines)])


def _file(array: pa.Array, root: Path, suffix: str) -> Path:
    table, path = pa.table({"text": ["a", "b", "c"], "v": array}), root / f"types{suffix}"
    sink = io.BytesIO()
    if suffix == ".parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    path.write_bytes(sink.getvalue())
    return path


def _as_text(array: pa.Array, option: str, root: Path) -> str:
    """The words with which a type is refused as a column of texts, or none."""
    path = _file(array, root, ".arrow")
    try:
        rows(plan([path], **{"text_columns": (), option: ("v",)}))
    except BeiJobsError as error:
        return str(error).replace(f"{root}/", "")
    return ""


def _kept(array: pa.Array, root: Path, suffix: str) -> str:
    if suffix == ".parquet" and not in_parquet(array):
        return "Parquet has no such type"
    path = _file(array, root, suffix)
    expected = pq.read_table(path)["v"] if suffix == ".parquet" else array
    found = rows(plan([path], columns=("v",)))["v"]
    same = found.type == expected.type and repr(found.to_pylist()) == repr(expected.to_pylist())
    return "equal" if same else "changed"


def _json_types(root: Path) -> str:
    lines = []
    for value in JSON_VALUES:
        (root / "types.jsonl").write_text(f'{{"text": "a", "v": {value}}}\n')
        kind = plan([root / "types.jsonl"], columns=("v",)).schema.field("v").type
        lines.append((_code(value), _code(str(kind))))
    return _table(("value", "type"), lines)


def _folders(root: Path) -> str:
    lines = []
    for number, each in enumerate(FOLDERS):
        place = root / f"folder{number}"
        place.mkdir()
        each.make(place)
        given = " ".join(f"`{name}`" for name in each.inputs)
        lines.append((each.what, _tree(place), given, _listed(each, place)))
    return _table(("folder", "files", "INPUT", "outcome"), lines)


def _tree(place: Path) -> str:
    names = (
        f"{path.relative_to(place)}{' → ' + str(path.readlink()) if path.is_symlink() else ''}"
        for path in sorted(place.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    )
    return ", ".join(f"`{name}`" for name in names)


def _listed(each: Folder, place: Path) -> str:
    try:
        planned = plan([f"{place}/{name}" for name in each.inputs])
    except BeiJobsError as error:
        return f"refused: {_code(str(error).replace(f'{place}/', ''))}"
    names = ", ".join(f"`{file.uri.removeprefix(f'{place}/')}`" for file, _ in planned.files)
    keys = f", with the column `{'`, `'.join(planned.partition)}`" if planned.partition else ""
    return f"reads {names}{keys}"


def _globs() -> str:
    lines = [
        (
            f"`{each.pattern}`",
            ", ".join(f"`{name}`" for name in each.paths) or "nothing: refused",
            "" if each.duckdb == FOUND else each.duckdb,
            "" if each.polars == FOUND else each.polars,
        )
        for each in GLOBS
    ]
    names = ", ".join(f"`{name}`" for name in FILES)
    links = ", ".join(f"`{link}` → `{target}`" for link, target in LINKS.items())
    return GLOBS_HEAD.format(names=names, links=links) + _table(
        ("glob", "files", "DuckDB", "polars"), lines
    )

"""The schema that all files of a job share, or the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.input.bad_files import BadFiles
from pipeline.input.discovery import ListedFile
from pipeline.input.formats import FileSummary
from pipeline.input.types import is_text, is_texts, merged_type, rounds, widens
from pipeline.input.wanted import Earlier, Wanted
from pipeline.store.uris import redact

# The types that columns of texts, and of lists of texts, are read as. 32-bit list offsets are
# enough for a batch of rows, and pyarrow's JSON reader supports no other kind of list.
TEXT = pa.large_string()
TEXTS = pa.list_(TEXT)

_Value = TypeVar("_Value")


def common_schema(
    listed: Sequence[ListedFile],
    summaries: Mapping[ListedFile, FileSummary],
    wanted: Wanted,
    earlier: Earlier,
    bad: BadFiles,
    *,
    widen: bool = False,
) -> tuple[pa.Schema, tuple[str, ...]]:
    """The columns to read and their types, hive keys last; and the names of the hive keys.

    Files without rows are ignored: they may lack columns. Files that do not fit are added to `bad`;
    where any was, the schema is to be found again without them.

    Args:
        listed: all files.
        summaries: of those that were opened.
        wanted: the columns, each by its own name.
        earlier: its schema is kept, if it has one.
        bad: files that have no say.
        widen: whether types of the earlier schema may be widened now.

    Raises:
        InputError: more files are bad than allowed; a column is named like an output column.
    """
    schema, free = earlier.schema, wanted.free
    keys = _hive_keys([file for file in listed if file not in bad], schema, bad)
    files = [f for f in listed if f in summaries and summaries[f].rows and f not in bad]
    present = _present(wanted.optional, files, summaries, keys, schema, bad)
    passing = [name for name in dict.fromkeys([*present, *wanted.columns]) if name not in keys]
    _refuse_output_names([*passing, *keys], wanted.output_columns)
    task_types = dict.fromkeys(wanted.text_columns, TEXT)
    task_types |= dict.fromkeys(wanted.list_columns, TEXTS)
    fields = []
    for name in dict.fromkeys([*passing, *task_types, *wanted.tested]):
        if name in keys:
            continue
        before = schema.field(name).type if schema is not None and name in schema.names else None
        kind = _common_type(
            name,
            files,
            summaries,
            task_type=task_types.get(name),
            earlier=before,
            bad=bad,
            may_lack=name in free or name not in (*passing, *task_types),
            widen=widen and (name in free or (before is not None and pa.types.is_null(before))),
        )
        fields.append(pa.field(name, kind if name in passing else task_types.get(name, kind)))
    return pa.schema([*fields, *(pa.field(key, pa.string()) for key in keys)]), keys


def _hive_keys(
    files: Sequence[ListedFile], schema: pa.Schema | None, bad: BadFiles
) -> tuple[str, ...]:
    """The hive keys of all paths in order of appearance; a file whose path has others is bad.

    They are those of most paths, and where two kinds are equally many, the more. Keys that the plan
    lacks do not count.
    """
    seen = dict.fromkeys(key for file in files for key, _ in file.partition)
    keys = tuple(key for key in seen if schema is None or key in schema.names)
    if keys and not bad.none_allowed:
        votes = (frozenset(dict(file.partition)).intersection(keys) for file in files)
        most = _most_common(sorted(votes, key=len, reverse=True))
        keys = tuple(key for key in keys if key in most)
    for file in files:
        own = dict(file.partition)
        if missing := [key for key in keys if key not in own]:
            problem = (
                f"no {missing[0]}=… directory in its path, but other paths have the hive keys "
                f"{', '.join(keys)}"
            )
        elif added := [key for key in own if key not in keys]:
            lacking = "most paths lack" if schema is None else "the plan of this output lacks"
            problem = f"its path has the hive key {added[0]!r}, which {lacking}"
        else:
            continue
        hint = "submit the two kinds of paths as separate jobs"
        bad.add(file, InputError(f"{redact(file.uri)}: {problem}", hint=hint))
    return keys


def _most_common(values: Iterable[_Value]) -> _Value:
    """The value that occurs most often; of several, the first."""
    return Counter(values).most_common(1)[0][0]


def _present(
    optional: Sequence[str],
    files: Sequence[ListedFile],
    summaries: Mapping[ListedFile, FileSummary],
    keys: Sequence[str],
    schema: pa.Schema | None,
    bad: BadFiles,
) -> list[str]:
    """The optional columns that at least half of the files have; a file that differs is bad."""
    present = []
    for name in optional:
        if name in keys or (schema is not None and name in schema.names):
            present.append(name)
            continue
        having = [file for file in files if name in summaries[file].columns]
        lacking = [file for file in files if name not in summaries[file].columns]
        if schema is not None or not having:
            continue
        if bad.none_allowed or len(having) >= len(lacking):
            present.append(name)
            others, problem = lacking, f"has no column {name!r}, but {redact(having[0].uri)} has"
        else:
            others, problem = having, f"has a column {name!r}, but {redact(lacking[0].uri)} has not"
        for file in others:
            hint = f"give all files a column {name!r}, or name the id with --id-column"
            bad.add(file, InputError(f"{redact(file.uri)} {problem}", hint=hint))
    return present


def _refuse_output_names(names: Sequence[str], output_columns: Collection[str]) -> None:
    if taken := [name for name in names if name in output_columns]:
        raise InputError(
            f"the input column {taken[0]!r} would pass through under a name that the job writes "
            f"itself ({', '.join(sorted(output_columns))})",
            hint="rename the column, or omit it from --keep",
        )


def _common_type(
    name: str,
    files: Sequence[ListedFile],
    summaries: Mapping[ListedFile, FileSummary],
    *,
    task_type: pa.DataType | None,
    earlier: pa.DataType | None,
    bad: BadFiles,
    may_lack: bool,
    widen: bool,
) -> pa.DataType:
    """The one type that the column can be cast to in every file without loss of meaning.

    A file that has the column not at all, or of a type that cannot join, is bad. `task_type` is
    TEXT or TEXTS for a column that the task reads, None for one that passes through. Where a file
    of JSON Lines `may_lack` the column, its values are null; that no file has it, is an error.
    """
    files = [file for file in files if file not in bad]
    may_lack &= earlier is not None or any(name in summaries[file].columns for file in files)
    kinds: dict[ListedFile, pa.DataType] = {}
    errors: dict[ListedFile, InputError] = {}
    for file in files:
        try:
            absent = may_lack and file.format == "jsonl" and name not in summaries[file].columns
            kinds[file] = pa.null() if absent else _type_in(name, file, summaries[file], task_type)
        except InputError as error:
            errors[file] = error
    common, where = earlier, "the plan of this output"
    if earlier is None and kinds:
        common, where = _first_type(kinds, task_type, bad), "most files"
    for file in files:
        if file in errors:
            bad.add(file, errors[file])
            continue
        merged = _merged(kinds[file], common, task_type)
        wider = earlier is not None and merged is not None and merged != earlier
        if merged is None or (wider and not (widen and widens(merged, earlier))):
            row = summaries[file].type_rows.get(name)
            at = "" if row is None else f"row {row}: "
            problem = f"{at}column {name!r} is {kinds[file]}, but {common} in {where}"
            hint = "cast the column in one of them, or submit them as separate jobs"
            bad.add(file, InputError(f"{redact(file.uri)}: {problem}", hint=hint))
        else:
            common, where = merged, where if earlier is not None else redact(file.uri)
    for file in files if common is not None else ():
        if name in summaries[file].large_from and rounds(kinds.get(file, common), common):
            bad.add(file, _would_round(file, name, summaries[file].large_from[name], common))
    return common if common is not None else pa.null()


def _would_round(file: ListedFile, name: str, row: int, common: pa.DataType) -> InputError:
    return InputError(
        f"{redact(file.uri)}: column {name!r} has an integer beyond 2**53, in row {row} or after "
        f"it, which no float may hold, but {common} in other files",
        hint="write the column as text in all files, or submit them as separate jobs",
    )


def _first_type(
    kinds: Mapping[ListedFile, pa.DataType], task_type: pa.DataType | None, bad: BadFiles
) -> pa.DataType:
    """The type that the others join: the first, or where some cannot, that of most files.

    Of several types that are equally many, it is the first; columns of only nulls, which join any
    type, do not count.
    """
    first = common = next(iter(kinds.values()))
    for kind in kinds.values():
        common = _merged(kind, common, task_type)
        if common is None:
            break
    if common is not None or bad.none_allowed:
        return first
    return _most_common(kind for kind in kinds.values() if not pa.types.is_null(kind))


def _refuse_other_than(expected: pa.DataType, kind: pa.DataType, where: str) -> None:
    if expected == TEXT and not is_text(kind):
        raise InputError(
            f"{where} is {kind}, a text is expected",
            hint="name a column of strings with --text-column (to rerank, --query-column and "
            "--document-column), or cast this one",
        )
    if expected == TEXTS and not is_texts(kind):
        raise InputError(
            f"{where} is {kind}, a list of texts is expected",
            hint="name a column of lists of strings with --documents-column, or, where a row has "
            "one document, a column of strings with --document-column",
        )


def _type_in(
    name: str, file: ListedFile, summary: FileSummary, task_type: pa.DataType | None
) -> pa.DataType:
    """The type of a column of a file.

    Raises:
        InputError: the column is missing or there twice, or has no type that the task reads.
    """
    times = summary.columns.count(name)
    if times == 0:
        raise InputError(
            f"{redact(file.uri)} has no column {name!r}; it has {', '.join(summary.columns)}",
            hint=_columns_hint(file, summary.columns),
        )
    if times > 1:
        raise InputError(
            f"{redact(file.uri)} has {times} columns named {name!r}",
            hint="rename all but one of them",
        )
    kind = summary.schema.field(name).type
    if task_type is not None:
        _refuse_other_than(task_type, kind, f"{redact(file.uri)}: column {name!r}")
    return kind


def _columns_hint(file: ListedFile, columns: Sequence[str]) -> str:
    """What to do about a column that a file lacks: its header may be cut at the wrong character."""
    if file.is_csv and len(columns) == 1:
        for char, word in {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}.items():
            if char in columns[0]:
                given = {"\t": "tsv", ",": "csv"}.get(char)
                remedy = f"give --format {given}" if given else "write it again with commas"
                return f"its columns seem to be separated by {word}: {remedy}"
    return (
        "name the columns with --text-column (to rerank, --query-column and "
        "--documents-column or --document-column), --id-column, --keep and --where"
    )


def _merged(
    one: pa.DataType, other: pa.DataType, task_type: pa.DataType | None
) -> pa.DataType | None:
    """The wider of two types; None if they are incompatible."""
    if task_type is not None and other == task_type:
        return other
    merged = merged_type(one, other)
    return task_type if merged is None else merged  # a struct without fields is false

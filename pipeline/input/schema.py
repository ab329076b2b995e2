"""The schema that the files of a job have in common, or the reason why they have none."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.input.discovery import ListedFile
from pipeline.input.formats import FileSummary
from pipeline.store.uris import redact

#: What a column of texts, and one of lists of texts, is read as. A list of 2^31 texts would not
#: fit into a batch of rows; pyarrow's JSON reader makes no other kind of list.
TEXT = pa.large_string()
TEXTS = pa.list_(TEXT)


def common_schema(
    found: Sequence[ListedFile],
    facts: Mapping[ListedFile, FileSummary],
    *,
    columns: Sequence[str],
    text_columns: Sequence[str],
    list_columns: Sequence[str],
    optional: Sequence[str],
    output_columns: Collection[str],
    schema: pa.Schema | None,
) -> tuple[pa.Schema, tuple[str, ...]]:
    """The columns to read and their types, hive keys last; and the names of the hive keys.

    See `pipeline.input.cutting.plan_inputs` for the arguments and errors. Files without a row have
    no say: they may lack columns.
    """
    files = [file for file in found if file in facts and facts[file].rows]
    keys = _hive_keys(found, schema)
    present = _present(optional, files, facts, keys, schema)
    passing = [name for name in dict.fromkeys([*present, *columns]) if name not in keys]
    _refuse_output_names([*passing, *keys], output_columns)
    wanted = dict.fromkeys(text_columns, TEXT) | dict.fromkeys(list_columns, TEXTS)
    fields = []
    for name in dict.fromkeys([*passing, *wanted]):
        if name in keys:
            continue
        earlier = schema.field(name).type if schema is not None and name in schema.names else None
        kind = _common_type(name, files, facts, wanted=wanted.get(name), earlier=earlier)
        fields.append(pa.field(name, kind if name in passing else wanted[name]))
    return pa.schema([*fields, *(pa.field(key, pa.string()) for key in keys)]), keys


def _hive_keys(found: Sequence[ListedFile], schema: pa.Schema | None) -> tuple[str, ...]:
    """Keys of all paths in order of appearance; a path must have them all or be refused."""
    keys = tuple(dict.fromkeys(key for file in found for key, _ in file.partition))
    for file in found:
        if missing := [key for key in keys if key not in dict(file.partition)]:
            raise InputError(
                f"{redact(file.uri)}: no {missing[0]}=… directory in its path, "
                f"but {len(keys)} hive keys ({', '.join(keys)}) in those of other files",
                hint="submit the two kinds of paths as jobs of their own",
            )
    if schema is not None and (new := [key for key in keys if key not in schema.names]):
        raise InputError(
            f"the paths have a new hive key {new[0]!r}, which the output was planned without",
            hint="start a new --output",
        )
    return keys


def _present(
    optional: Sequence[str],
    files: Sequence[ListedFile],
    facts: Mapping[ListedFile, FileSummary],
    keys: Sequence[str],
    schema: pa.Schema | None,
) -> list[str]:
    """Optional columns that every file has; one that only some have is refused."""
    present = []
    for name in optional:
        if name in keys or (schema is not None and name in schema.names):
            present.append(name)
            continue
        having = [file for file in files if name in facts[file].columns]
        lacking = [file for file in files if name not in facts[file].columns]
        if having and lacking and schema is None:
            raise InputError(
                f"{redact(lacking[0].uri)} has no column {name!r}, {redact(having[0].uri)} has",
                hint=f"give all files a column {name!r}, or name the id with --id-column",
            )
        if having and schema is None:
            present.append(name)
    return present


def _refuse_output_names(names: Sequence[str], output_columns: Collection[str]) -> None:
    if taken := [name for name in names if name in output_columns]:
        raise InputError(
            f"the input column {taken[0]!r} would pass through under a name that the job writes "
            f"itself ({', '.join(sorted(output_columns))})",
            hint="rename the column or do not --keep it",
        )


def _common_type(
    name: str,
    files: Sequence[ListedFile],
    facts: Mapping[ListedFile, FileSummary],
    *,
    wanted: pa.DataType | None,
    earlier: pa.DataType | None,
) -> pa.DataType:
    """The one type that a column of every file can be cast to without loss of meaning.

    `wanted` is TEXT or TEXTS for a column that the task reads, None for one that passes through.
    """
    common, where = earlier, "the plan of this output"
    for file in files:
        kind = _type_in(name, file, facts[file])
        if wanted is not None:
            _refuse_other_than(wanted, kind, f"{redact(file.uri)}: column {name!r}")
        merged = kind if common is None else _merged(kind, common, wanted)
        if merged is None or (earlier is not None and merged != earlier):
            raise InputError(
                f"{redact(file.uri)}: column {name!r} is {kind}, but {common} in {where}",
                hint="cast the column in one of them, or submit them as jobs of their own",
            )
        common, where = merged, where if earlier is not None else redact(file.uri)
    return common if common is not None else pa.null()


def _refuse_other_than(wanted: pa.DataType, kind: pa.DataType, where: str) -> None:
    if wanted == TEXT and not is_text(kind):
        raise InputError(
            f"{where} is {kind}, a text is expected",
            hint="name a column of strings with --text-column (to rerank, --query-column and "
            "--document-column), or cast this one",
        )
    if wanted == TEXTS and not is_texts(kind):
        raise InputError(
            f"{where} is {kind}, a list of texts is expected",
            hint="name a column of lists of strings with --documents-column, or, where a row has "
            "one document, a column of strings with --document-column",
        )


def _type_in(name: str, file: ListedFile, facts: FileSummary) -> pa.DataType:
    times = facts.columns.count(name)
    if times == 0:
        raise InputError(
            f"{redact(file.uri)} has no column {name!r}; it has {', '.join(facts.columns)}",
            hint="name the columns with --text-column (to rerank, --query-column and "
            "--documents-column or --document-column), --id-column and --keep",
        )
    if times > 1:
        raise InputError(
            f"{redact(file.uri)} has {times} columns named {name!r}",
            hint="rename all but one of them",
        )
    return facts.schema.field(name).type


def _merged(one: pa.DataType, other: pa.DataType, wanted: pa.DataType | None) -> pa.DataType | None:
    """The wider of two types; None where they do not go together."""
    if one == other:
        return one
    if wanted is not None and other == wanted:
        return other
    try:
        schemas = [pa.schema([("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return wanted


def is_text(kind: pa.DataType) -> bool:
    """Strings of any layout; also a column of nothing but nulls, which has no other type."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    kinds = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_null,
    )
    return any(is_kind(kind) for is_kind in kinds)


def is_texts(kind: pa.DataType) -> bool:
    """Lists of strings; also a column of nothing but nulls.

    Not list views, which pyarrow 26 casts to lists with wrong offsets.
    """
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_kind(kind) for is_kind in kinds):
        return is_text(kind.value_type)
    return bool(pa.types.is_null(kind))

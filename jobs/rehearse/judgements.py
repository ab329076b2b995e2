"""Queries, and which documents are relevant to them: as Parquet, JSON Lines, CSV or TREC's text.

    queries.tsv   qid<TAB>text                     qrels.txt   qid 0 document relevance
    with columns  id, text                         with columns  query_id, document_id, relevance

The names that BEIR's files have are known, too: see _COLUMNS.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import InputError, UsageError
from pipeline.store.directory import OpenedFile
from pipeline.store.uris import absolute, redact

if TYPE_CHECKING:
    import polars as pl

# What a column is → the names that it may have.
_COLUMNS = {
    "id of a query": ("query_id", "query-id", "qid", "id", "_id"),
    "text of a query": ("text", "query"),
    "id of a document": ("document_id", "document-id", "doc_id", "docid", "corpus_id", "corpus-id"),
    "relevance": ("relevance", "score", "rel", "label"),
}
_QUERY, _TEXT, _DOCUMENT, _RELEVANCE = _COLUMNS
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Judgements:
    """Queries to which at least one document is relevant."""

    texts: Mapping[str, str]  # id of a query → its text
    relevance: Mapping[str, Mapping[str, int]]  # id of a query → id of a document → above 0
    left_out: int  # queries without a relevant document

    @property
    def documents(self) -> frozenset[str]:
        """Ids of all relevant documents."""
        return frozenset(one for each in self.relevance.values() for one in each)


def read_judgements(queries: str, qrels: str) -> Judgements:
    """Read --queries and --qrels.

    Raises:
        InputError: a file cannot be read, the two do not go together, or nothing is relevant.
        StorageError: a file cannot be opened.
    """
    texts = _texts(queries)
    relevance: dict[str, dict[str, int]] = {}
    for query, document, value in _relevance(qrels):
        if value > 0:
            relevance.setdefault(query, {})[document] = value
    if not relevance:
        raise InputError(
            f"--qrels {redact(qrels)} names no relevant document",
            hint="a relevance above 0 says that a document is relevant",
        )
    if unknown := sorted(relevance.keys() - texts.keys()):
        shown = ", ".join(unknown[:_SHOWN]) + (", …" if len(unknown) > _SHOWN else "")
        raise InputError(
            f"--qrels names {len(unknown):,} of {len(relevance):,} queries that --queries does not "
            f"have: {shown}",
            hint="give the queries that these judgements are about, with the same ids",
        )
    judged = {query: text for query, text in texts.items() if query in relevance}
    return Judgements(judged, relevance, len(texts) - len(judged))


def _texts(uri: str) -> dict[str, str]:
    table = _table(uri)
    if table is None:
        rows: Iterable[list[str]] = _lines(uri, "\t", (2,), "qid<TAB>text")
    else:
        columns = [_column(table, _QUERY, uri), _column(table, _TEXT, uri)]
        rows = table.select(columns).drop_nulls().rows()  # type: ignore[assignment]
    texts: dict[str, str] = {}
    for query, text in rows:
        if texts.setdefault(query, text) != text:
            raise InputError(
                f"--queries {redact(uri)} has two texts for the query {query}",
                hint="give each query an id of its own",
            )
    return texts


def _relevance(uri: str) -> Iterable[tuple[str, str, int]]:
    table = _table(uri)
    if table is None:
        for number, fields in enumerate(_lines(uri, None, (3, 4), "qid 0 document relevance"), 1):
            yield fields[0], fields[-2], _whole(fields[-1], uri, number)
        return
    names = [_column(table, what, uri) for what in (_QUERY, _DOCUMENT, _RELEVANCE)]
    for number, (query, document, value) in enumerate(table.select(names).drop_nulls().rows(), 1):
        yield query, document, _whole(value, uri, number)


def _table(uri: str) -> pl.DataFrame | None:
    """A file with named columns, all as text; None for lines of text."""
    import polars as pl  # takes a moment to import

    suffix = uri.partition("?")[0].rpartition(".")[2].lower()
    readers: dict[str, Callable[[io.BytesIO], pl.DataFrame]] = {
        "parquet": pl.read_parquet,
        "jsonl": pl.read_ndjson,
        "ndjson": pl.read_ndjson,
        "csv": lambda data: pl.read_csv(data, infer_schema=False),
    }
    if suffix not in readers:
        return None
    try:
        table = readers[suffix](io.BytesIO(_bytes(uri)))
        flat = [name for name, kind in table.schema.items() if not kind.is_nested()]
        return table.select(pl.col(flat).cast(pl.String))
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{redact(uri)} cannot be read: {str(error).splitlines()[0]}",
            hint="give Parquet, JSON Lines or CSV with that suffix, or TREC's text with another",
        ) from error


def _column(table: pl.DataFrame, what: str, uri: str) -> str:
    known = _COLUMNS[what]
    found = next((name for name in known if name in table.columns), None)
    if found is None:
        raise InputError(
            f"{redact(uri)} has no column for the {what}, only {', '.join(table.columns)}",
            hint=f"name it {known[0]}; {', '.join(known[1:])} are known, too",
        )
    return found


def _lines(
    uri: str, separator: str | None, counts: tuple[int, ...], form: str
) -> Iterable[list[str]]:
    """The fields of each line; a first line of names, as BEIR has one, is skipped."""
    try:
        text = _bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{redact(uri)} is not UTF-8 text", hint=f"lines are {form}") from error
    # Not `splitlines`, which ends a line at U+2028 and the like, too.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        fields = line.split(separator, counts[-1] - 1 if separator else -1)
        if number == 1 and fields and fields[0] in _COLUMNS[_QUERY]:
            continue
        if not line.strip():
            continue
        if len(fields) not in counts:
            raise InputError(
                f"line {number} of {redact(uri)} has {_fields(len(fields))}: {line[:80]!r}",
                hint=f"lines are {form}",
            )
        yield fields


def _fields(number: int) -> str:
    return f"{number} field" + "s" * (number != 1)


def _whole(value: str, uri: str, number: int) -> int:
    try:
        if float(value) == int(float(value)):
            return int(float(value))
    except (ValueError, OverflowError):
        pass
    raise InputError(
        f"judgement {number} of {redact(uri)} has the relevance {value!r}",
        hint="give a whole number: 0 for a document that is not relevant",
    )


def _bytes(uri: str) -> bytes:
    with OpenedFile(absolute(uri)) as file:
        return file.read()


def check_options(queries: str | None, qrels: str | None) -> None:
    """Check that both files are given, or neither.

    Raises:
        UsageError: one of them is missing.
    """
    if bool(queries) != bool(qrels):
        given, missing = ("--queries", "--qrels") if queries else ("--qrels", "--queries")
        raise UsageError(
            f"{given} needs {missing}",
            hint="one file has the queries, the other which documents are relevant to each",
        )

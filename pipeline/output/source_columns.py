"""Where each row is from: the first columns of the parts of a job without an id column.

`source_file` is the URI of the input file as it was listed, of a local one its absolute path: what
DuckDB calls `filename`. `source_row` is the number of the row in that file, from 0, whichever rows
are selected. A row that is copied from an earlier part has the file that it stands in now.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.output.row_ranges import Rows
from pipeline.shards import InputFile, Shard
from pipeline.store.uris import redact

# A part is of one file, whose name it holds once.
SOURCE_FIELDS = (
    pa.field("source_file", pa.dictionary(pa.int32(), pa.string())),
    pa.field("source_row", pa.int64()),
)
SOURCE_NAMES = tuple(field.name for field in SOURCE_FIELDS)
SOURCE_BYTES = 12  # of a row


def source_columns(file: InputFile, rows: Rows) -> list[pa.Array]:
    """The columns of SOURCE_FIELDS for the rows of a file with these numbers, [R]."""
    name = pa.array([redact(file.uri)], pa.string())
    same = pa.array(np.zeros(len(rows), dtype=np.int32))
    return [pa.DictionaryArray.from_arrays(same, name), pa.array(rows, pa.int64())]


def source_problems(shard: Shard, table: pa.Table) -> Iterator[str]:
    """What is wrong with the columns of SOURCE_FIELDS in a part that is otherwise sound.

    Of a shard whose rows are selected, only their order and their range are known here.
    """
    import pyarrow.compute as pc

    uri = redact(shard.file.uri)
    files, rows = (table[name] for name in SOURCE_NAMES)
    if not pc.all(pc.equal(files.cast(pa.string()), uri).fill_null(False)).as_py():
        yield f"its source_file is not {uri} in every row"
    numbers = rows.fill_null(-1).to_numpy()
    steps = np.diff(numbers, prepend=shard.first_row - 1, append=shard.cut.end)
    if (steps < 1).any() or not (shard.file.where or (steps == 1).all()):
        yield f"its source_row does not count the rows from {shard.first_row}"

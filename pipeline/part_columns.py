"""The columns of a part besides what a task writes, and how rows in chunks are held."""

from __future__ import annotations

import pyarrow as pa

# The last columns of every part besides the key, whatever the task.
ROW_COLUMNS = (
    pa.field("n_tokens", pa.int32()),
    pa.field("truncated", pa.bool_()),
    pa.field("error", pa.string()),
)
# Of a row in chunks, before its other results, as it is held: see `pipeline.output.chunk_rows`.
HELD_FIELDS = (
    pa.field("chunk_start", pa.list_(pa.int32())),
    pa.field("chunk_end", pa.list_(pa.int32())),
    pa.field("chunk_tokens", pa.list_(pa.int32())),
)
# The same in a part. `chunk` is null where there is an error.
CHUNK_FIELDS = (
    pa.field("chunk", pa.int32()),
    pa.field("chunk_start", pa.int32()),
    pa.field("chunk_end", pa.int32()),
)
# After `error`, of rows that are held; null where it is not known.
CUT_FIELD = pa.field("_tokens_cut", pa.int32())

"""The rows of a committed part, proved to be the ones that were written."""

from __future__ import annotations

import pyarrow as pa

from pipeline.errors import NotFound, StorageError
from pipeline.output.output import Output
from pipeline.output.part_file import checksum_holds, parse_info, read_rows
from pipeline.store.uris import redact


def read_part(output: Output, part: str, checksum: str) -> pa.Table:
    """The rows of a part, with the metadata that describes it.

    Args:
        output: where it is.
        part: its name.
        checksum: as a manifest lists it.

    Raises:
        NotFound: a newer run has deleted it.
        StorageError: its bytes are not those that the manifest lists.
    """
    try:
        data = output.directory.read(part)
    except NotFound as error:
        raise NotFound(
            f"{redact(output.uri)}/{part} does not exist",
            hint="run the command again if another run has ended meanwhile, and otherwise "
            f"`bei-jobs verify {redact(output.uri)}`",
        ) from error
    try:
        info = parse_info(part, data)
        sound = info.values.get("checksum") == checksum and checksum_holds(data, info)
        table = read_rows(part, data)
        table.validate(full=True)
    except (StorageError, pa.ArrowException, OSError) as error:
        raise _damaged(output, part) from error
    if not sound:
        raise _damaged(output, part)
    return table


def _damaged(output: Output, part: str) -> StorageError:
    uri = redact(output.uri)
    return StorageError(f"{uri}/{part} is damaged", hint=f"run `bei-jobs verify {uri}`")

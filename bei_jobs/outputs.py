"""What a job left: its rows as a dataset, and the proof that they are all there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bei_jobs.child import ask
from bei_jobs.job_status import known
from bei_jobs.options import PathLike

if TYPE_CHECKING:
    import pyarrow.dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found. The output is sound where `ok`; if not, `problems` says why."""

    ok: bool
    job: str
    rows: int
    parts: int
    precisions: tuple[str, ...]
    problems: tuple[str, ...]


def read(output: PathLike) -> pyarrow.dataset.Dataset:
    """The rows of the newest finished run, in input order, from any store.

    The dataset is of that run: read anew after the next one, which may drop parts.

    Args:
        output: directory or URI.

    Returns:
        A dataset that reads as it is asked: `.to_table(columns=[…], filter=…)`, `.to_batches()`.

    Raises:
        NotFound: no run is finished there.
        BeiJobsError: the store is out of reach.
    """
    import pyarrow.dataset

    said = ask("files", "--", os.fspath(output))
    if "://" not in said["output"]:
        return pyarrow.dataset.dataset(said["files"], format="ipc")
    from fsspec.core import url_to_fs
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    # Another process wrote it: what this one remembers of the directory is out of date.
    fs, _ = url_to_fs(said["output"], use_listings_cache=False)
    paths = [fs._strip_protocol(uri) for uri in said["files"]]
    return pyarrow.dataset.dataset(paths, format="ipc", filesystem=PyFileSystem(FSSpecHandler(fs)))


def verify(output: PathLike) -> Verification:
    """Read all of an output: every input row once, checksums, schema, provenance, finite values.

    Args:
        output: directory or URI.

    Raises:
        NotFound: no run is finished there.
        BeiJobsError: the store is out of reach.
    """
    said = known(Verification, ask("verify", "--", os.fspath(output)))
    lists = {name: tuple(said[name]) for name in ("precisions", "problems")}
    return Verification(**{**said, **lists})

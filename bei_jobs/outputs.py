"""The output of a job: its rows as a dataset, and the proof that they are complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bei_jobs.child import ask
from bei_jobs.job_status import known
from bei_jobs.options import PathLike, absolute

if TYPE_CHECKING:
    import pyarrow.dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found: whether the output is sound, and if not, the problems."""

    ok: bool
    job: str
    rows: int
    parts: int
    precisions: tuple[str, ...]
    problems: tuple[str, ...]


def read(
    output: PathLike,
    *,
    stores: PathLike | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> pyarrow.dataset.Dataset:
    """The rows of the newest finished run, in input order, from any store.

    The dataset is that of this run. Call `read` again after the next run, which may delete parts
    of this one.

    Args:
        output: directory or URI.
        stores: TOML file with the options of stores, for the process that lists the parts; None
            for the one in the environment.
        storage_options: of fsspec, for this process, which reads them: what the section of
            `stores` says in fsspec's words.

    Returns:
        A lazy dataset: `.to_table(columns=[…], filter=…)`, `.to_batches()`.

    Raises:
        NotFound: the output has no finished run.
        BeiJobsError: the store cannot be reached.
    """
    import pyarrow.dataset

    answer = ask("files", "--", os.fspath(output), stores=absolute(stores))
    kind = "parquet" if answer["files"][0].endswith(".parquet") else "ipc"
    if "://" not in answer["output"]:
        return pyarrow.dataset.dataset(answer["files"], format=kind)
    from fsspec.core import url_to_fs
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    # Another process wrote the files: a listing that this one has cached may be out of date.
    options = {**(storage_options or {}), "use_listings_cache": False}
    fs, _ = url_to_fs(answer["output"], **options)
    paths = [fs._strip_protocol(uri) for uri in answer["files"]]
    return pyarrow.dataset.dataset(paths, format=kind, filesystem=PyFileSystem(FSSpecHandler(fs)))


def verify(output: PathLike, *, stores: PathLike | None = None) -> Verification:
    """Read all of an output: every input row once, checksums, schema, provenance, finite values.

    Args:
        output: directory or URI.
        stores: TOML file with the options of stores; None for the one in the environment.

    Raises:
        NotFound: the output has no finished run.
        BeiJobsError: the store cannot be reached.
    """
    answer = known(Verification, ask("verify", "--", os.fspath(output), stores=absolute(stores)))
    lists = {name: tuple(answer[name]) for name in ("precisions", "problems")}
    return Verification(**{**answer, **lists})

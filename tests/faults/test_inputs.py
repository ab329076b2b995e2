"""Inputs that are replaced, deleted or damaged while their job runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from corpora import write_parquet
from faults.case import ROWS, SHARD_ROWS, Case
from fleet import until

pytestmark = [pytest.mark.integration, pytest.mark.kind("input")]

Damage = Callable[[Path], None]


def replaced(path: Path) -> None:
    """Another corpus under the same name, in one step."""
    new = write_parquet(path.with_suffix(".new"), ROWS, seed=9, row_group=SHARD_ROWS)
    os.replace(new, path)


def rewritten_in_place(path: Path) -> None:
    content = write_parquet(path.with_suffix(".new"), ROWS, seed=9, row_group=SHARD_ROWS)
    path.write_bytes(content.read_bytes())
    content.unlink()


def shortened(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damaged_row_group(path: Path) -> None:
    """Bytes of the last row group are overwritten: its size stays, its time does not."""
    group = pq.ParquetFile(path).metadata.row_group(5).column(1)
    with path.open("r+b") as file:
        file.seek(group.data_page_offset)
        file.write(b"\xff" * 64)


def damaged_row_group_unnoticed(path: Path) -> None:
    """The same on a worn disk, which changes no time."""
    stat = path.stat()
    damaged_row_group(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def words(damage: Damage) -> str:
    return damage.__name__.replace("_", " ")


def struck_in_the_middle(case: Case, damage: Damage, corpus: Path) -> str:
    """The reason of the failure."""
    paused = case.pause_at("before-commit")
    case.start(**paused.environment)
    job = case.submit(corpus)
    paused.reached()
    damage(corpus)
    paused.release()
    return case.wait(job)


@pytest.mark.parametrize(
    "damage", [pytest.param(replaced, marks=pytest.mark.quick), rewritten_in_place], ids=words
)
def test_a_new_version_of_an_input(case: Case, damage: Damage) -> None:
    """The old version's rows are never mixed with the new one's: the same command computes it."""
    corpus = case.corpus()
    reason = struck_in_the_middle(case, damage, corpus)
    assert "changed since it was planned" in reason or "is not the version" in reason, reason
    case.struck()
    job = case.jobs[0]
    case.resume(job)
    case.accept_outside()
    case.check(failures=18)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(shortened, marks=pytest.mark.quick),
        damaged_row_group,
        damaged_row_group_unnoticed,
    ],
    ids=words,
)
def test_an_input_is_damaged_and_restored(case: Case, damage: Damage) -> None:
    corpus = case.corpus()
    copy = shutil.copy2(corpus, case.root / "copy.parquet")
    reason = struck_in_the_middle(case, damage, corpus)
    assert corpus.name in reason, reason
    shutil.copy2(copy, corpus)
    case.struck()
    job = case.jobs[0]
    case.resume(job)
    case.accept_outside()
    case.check(failures=18)


def test_an_input_is_deleted_and_restored(case: Case) -> None:
    """Workers step back from a job whose input they do not see; restored, it ends one way or the
    other: its version is the planned one, or the same command takes the new one.
    """
    corpus = case.corpus()
    copy = shutil.copy2(corpus, case.root / "copy.parquet")
    paused = case.pause_at("before-commit")
    machine = case.start(**paused.environment)
    job = case.submit(corpus)
    paused.reached()
    corpus.unlink()
    paused.release()
    until(lambda: corpus.name in machine.log and "ERROR" in machine.log, "the worker to say so")
    shutil.copy2(copy, corpus)
    case.accept_outside()
    case.struck()
    case.finish_or_resume(job)
    case.check(failures=18, computed=6)

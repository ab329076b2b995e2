"""One row kills, breaks or hangs whatever computes it: it is found, and quarantined alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from commandline import spawn
from corpora import texts, write_parquet
from faults import checks
from faults.case import ROWS, SHARD_ROWS, Case
from faults.checks import Rows
from faults.points import sabotaged

pytestmark = [pytest.mark.integration, pytest.mark.kind("poison")]

ROW = 555
REASONS = {
    "kill": r"killed its process (signal 9)",
    "raise": "raised RuntimeError: poisoned",
    "hang": "took longer than",
}
ENVIRONMENT = sabotaged(CHAOS_POISON="1", BEI_JOBS_BATCH_SECONDS="3")


def quickly(kind: str) -> list[object]:
    """All kinds of poison; one of them is quick enough for CI."""
    return [pytest.param(k, marks=[pytest.mark.quick] if k == kind else []) for k in REASONS]


def poisoned(case: Case, kind: str) -> Path:
    lines = texts(ROWS)
    lines[ROW] += f" poison:{kind}"
    path = case.outside / "input" / "poisoned.parquet"
    write_parquet(path, ROWS, row_group=SHARD_ROWS, text=lines)
    case.accept_outside()
    return path


def with_one_quarantined(case: Case, reason: str) -> Rows:
    """The rows of the corpus without its poison, with the error in the poison's place."""
    rows = case.undisturbed(case.corpus("peaceful"))
    errors = [*rows.errors]
    errors[ROW] = reason
    return replace(rows, errors=errors)


def judged(case: Case, output: object, kind: str) -> None:
    found = Rows.read(output).errors[ROW]
    assert found is not None
    assert REASONS[kind] in found
    checks.exactly_once(output, with_one_quarantined(case, found))


@pytest.mark.parametrize("kind", quickly("raise"))
def test_a_poison_row_of_a_fleet(case: Case, kind: str) -> None:
    expected = with_one_quarantined(case, REASONS[kind])
    corpus = poisoned(case, kind)
    case.undisturbed = lambda _: expected
    for _ in range(2):
        case.start(**ENVIRONMENT)
    job = case.submit(corpus)
    case.struck()
    case.finish(job)
    judged(case, job.output, kind)
    case.check(computed=12)


@pytest.mark.parametrize("kind", quickly("kill"))
def test_a_poison_row_in_the_foreground(case: Case, kind: str) -> None:
    expected = with_one_quarantined(case, REASONS[kind])
    corpus, output = poisoned(case, kind), case.root / "outputs" / "out"
    case.undisturbed = lambda _: expected
    process = spawn(*case.words(corpus, output), "--device", "cpu", "--quiet", **ENVIRONMENT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    judged(case, output, kind)
    case.check_local(output, corpus, resumed=False)

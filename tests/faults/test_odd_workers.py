"""One of two workers lacks the model or the input: it leaves the job to the other one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from corpora import TINY
from faults.case import Case
from faults.mounts import without
from fleet import until

pytestmark = [pytest.mark.integration, pytest.mark.kind("worker")]


def lacking(case: Case, folder: Path) -> None:
    """The worker that lacks `folder` takes the first message, the other one comes later."""
    odd = case.start_behind(without(folder))
    odd.ready()
    job = case.submit()
    until(lambda: "ERROR" in odd.log, "the worker to say so")
    case.start()
    case.struck()
    case.finish(job)
    assert odd.log.count(" rows\n") == 0
    case.check()


def test_one_worker_lacks_the_model(case: Case) -> None:
    model = case.root / "model"
    shutil.copytree(TINY, model)
    case.model = str(model)
    lacking(case, model)


def test_one_worker_lacks_the_input(case: Case) -> None:
    lacking(case, case.corpus().parent)

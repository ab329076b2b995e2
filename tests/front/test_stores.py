"""`stores=`: a Python program names the file, and each call of its job uses it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_accounts import MakeAccount

import bei_jobs

pytestmark = pytest.mark.integration


def test_a_job_keeps_its_stores_file(
    submit: Callable[..., bei_jobs.Job],
    corpus: Path,
    make_account: MakeAccount,
    stores_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_account("store")
    file = stores_file(store.section())
    monkeypatch.chdir(tmp_path)
    job = submit(corpus, output=f"s3://{store.bucket}/out", stores=file.name)
    monkeypatch.chdir("/")
    assert job.wait().rows.computed == 20
    assert pickle.loads(pickle.dumps(job)).status().final
    assert bei_jobs.job(job.output, stores=file).status().final
    assert bei_jobs.verify(job.output, stores=file).ok
    account = {"key": store.key, "secret": store.secret, "endpoint_url": store.endpoint}
    rows = bei_jobs.read(job.output, stores=file, storage_options=account)
    assert rows.count_rows() == 20
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    with pytest.raises(bei_jobs.AccessDenied):
        bei_jobs.verify(job.output)

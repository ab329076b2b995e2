"""Records what this version does, for later versions to be held against.

    PYTHONPATH=tests python tests/compatibility/record.py

Only for what is new since the last recording: a recorded value never changes without a line in
CHANGELOG.md and, where it is a value's identity, a new NUMERICS_VERSION.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import boto3
import redis
from fixtures_redis import RedisServer
from fixtures_s3 import ACCESS_KEY, SECRET_KEY, S3Server
from identities import (
    BUCKET,
    GOLDENS,
    MODEL,
    RECORDED,
    VARIANTS,
    corpus,
    described,
    identity,
    layouts,
    options,
    put,
    submit,
)


def main() -> None:
    server = S3Server()
    os.environ.update(
        AWS_ACCESS_KEY_ID=ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=SECRET_KEY,
        AWS_DEFAULT_REGION="us-east-1",
        AWS_ENDPOINT_URL=server.endpoint,
    )
    put(server, "corpus.jsonl", corpus())
    RECORDED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            BEI_JOBS_STATE_DIR=f"{folder}/state", BEI_JOBS_CACHE_DIR=f"{folder}/cache"
        )
        write("identities.json", {
            name: {v: identity(Path(folder, name, v), name, task, v) for v in VARIANTS[task]}
            for name, task in layouts().items()
        })  # fmt: skip
        write("models.json", {name: described(name, task) for name, task in layouts().items()})
        write("options.json", options())
        record_outputs(server.endpoint)
    server.stop()


def record_outputs(endpoint: str) -> None:
    """A finished output, and one that is queued with nothing committed, with its message."""
    shutil.copytree(GOLDENS / "bert_mean", MODEL, dirs_exist_ok=True)
    options = ("--keep", "lang", "--rows-per-shard", 2)
    done = submit(f"s3://{BUCKET}/finished", MODEL, *options)
    assert done.code == 0, done.err
    redis_server = RedisServer(Path(tempfile.mkdtemp()))
    redis_server.start()
    queued = submit(f"s3://{BUCKET}/queued", MODEL, *options, "--broker", redis_server.url)
    assert queued.code == 0, queued.err
    client = redis.Redis.from_url(redis_server.url, decode_responses=True)
    write("messages.json", client.lrange("bei-jobs", 0, -1))
    write("jobs.json", client.hgetall("bei:jobs"))
    redis_server.stop()
    store = boto3.client("s3", endpoint_url=endpoint)
    for prefix in ("finished/", "queued/"):
        for item in store.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
            file = RECORDED / item["Key"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(store.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read())


def write(name: str, value: object) -> None:
    (RECORDED / name).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

"""What version 0.1.0 wrote and named is read and named alike today; `record.py` recorded it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import typed
from fixtures_redis import RedisServer
from fixtures_s3 import S3Server
from fleet import Worker, until
from identities import (
    BUCKET,
    GOLDENS,
    MODEL,
    RECORDED,
    ROWS,
    VARIANTS,
    corpus,
    described,
    identity,
    layouts,
    options,
    put,
    submit,
)

FINISHED, QUEUED, TAGGED = (f"s3://{BUCKET}/{name}" for name in ("finished", "queued", "tagged"))
SHARDS = 3
SPLIT = ("--keep", "lang", "--rows-per-shard", 2)


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text())


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory of another test, and the corpus of the records under its fixed name."""
    torch.set_num_threads(1)
    monkeypatch.setenv("BEI_JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("BEI_JOBS_CACHE_DIR", str(tmp_path / "cache"))
    clear(s3)
    put(s3, "corpus.jsonl", corpus())


def clear(server: S3Server) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=server.endpoint)
    client.create_bucket(Bucket=BUCKET)
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])


@pytest.fixture
def restore(s3: S3Server, tmp_path: Path) -> Callable[..., Path]:
    """Put a recorded output back into the store; the model, wherever it lies today."""

    def put_back(name: str, golden: str = "bert_mean") -> Path:
        model = tmp_path / golden
        shutil.copytree(GOLDENS / golden, model, dirs_exist_ok=True)
        for file in sorted(path for path in (RECORDED / name).rglob("*") if path.is_file()):
            data = file.read_bytes()
            if file.suffix == ".json":
                data = data.replace(str(Path(MODEL).with_name(golden)).encode(), bytes(model))
            put(s3, str(file.relative_to(RECORDED)), data)
        return model

    return put_back


@pytest.mark.parametrize(
    ("name", "variant"), [(n, v) for n, task in layouts().items() for v in VARIANTS[task]]
)
def test_the_identity_of_every_layout_is_the_one_that_was_recorded(
    name: str, variant: str, tmp_path: Path
) -> None:
    found = identity(tmp_path / "out", name, layouts()[name], variant)
    before = recorded("identities.json")[name][variant]

    if (layouts()[name], variant) == ("tag", "options"):
        # The raw scores of tokens are those of all labels now: other values, in another space.
        assert found["space"] != before["space"]
        assert found["schema"] == before["schema"]
    else:
        assert found == before


@pytest.mark.parametrize("name", layouts())
def test_models_says_all_that_it_said(name: str) -> None:
    before = recorded("models.json")[name]

    found = described(name, layouts()[name])

    assert {key: found.get(key) for key in before} == before


def test_every_option_is_there_with_its_default() -> None:
    found = options()

    for command, before in recorded("options.json").items():
        assert {name: found[command].get(name) for name in before} == before, command


def test_a_finished_output_is_found_complete(restore: Callable[..., Path], tmp_path: Path) -> None:
    model = restore("finished")

    done = submit(FINISHED, model, *SPLIT, "--json")

    assert done.code == 0, done.err
    assert done.json["run"] == 1
    assert done.json["rows"] == {
        "total": ROWS, "done": ROWS, "computed": 0, "reused": ROWS, "deduplicated": 0, "failed": 0,
    }  # fmt: skip
    assert typed("verify", FINISHED).code == 0
    assert len(typed("files", FINISHED).out.split()) == SHARDS
    assert typed("export", FINISHED, tmp_path / "out.npy", "--json").json["rows"] == ROWS


def test_an_output_that_lost_a_part_computes_that_part_alone(
    restore: Callable[..., Path], s3: S3Server
) -> None:
    import boto3

    model = restore("finished")
    part = sorted((RECORDED / "finished").glob("*.arrow"))[1]
    boto3.client("s3", endpoint_url=s3.endpoint).delete_object(
        Bucket=BUCKET, Key=f"finished/{part.name}"
    )

    done = submit(FINISHED, model, *SPLIT, "--json")

    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == ROWS // SHARDS
    assert typed("verify", FINISHED).code == 0


@pytest.mark.parametrize("lost", [False, True])
def test_an_output_of_raw_scores_keeps_the_columns_that_it_began_with(
    restore: Callable[..., Path], s3: S3Server, tmp_path: Path, lost: bool
) -> None:
    """`tagged` was written by 0.1.0: of each token with an entity, the logit of its label."""
    import boto3
    import pyarrow as pa

    model = restore("tagged", "ner_bert")
    part = sorted((RECORDED / "tagged").glob("*.arrow"))[1]
    store = boto3.client("s3", endpoint_url=s3.endpoint)
    if lost:
        store.delete_object(Bucket=BUCKET, Key=f"tagged/{part.name}")
    words = ("--task", "tag", "--aggregation", "none", "--raw-scores", *SPLIT)

    done = submit(TAGGED, model, *words, "--json")

    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == (ROWS // SHARDS if lost else 0)
    assert typed("verify", TAGGED).code == 0
    body = store.get_object(Bucket=BUCKET, Key=f"tagged/{part.name}")["Body"].read()
    found, before = (pa.ipc.open_file(data).read_all() for data in (body, part.read_bytes()))
    assert found.schema.field("tokens") == before.schema.field("tokens")
    for now, then in zip(found["tokens"].to_pylist(), before["tokens"].to_pylist(), strict=True):
        assert [token.pop("score") for token in now] == pytest.approx(
            [token.pop("score") for token in then], abs=1e-5
        )
        assert now == then


def test_other_options_are_still_another_job(restore: Callable[..., Path]) -> None:
    model = restore("finished")

    refused = submit(FINISHED, model, *SPLIT, "--dimensions", 8)

    assert refused.code == 1
    assert "dimensions" in refused.err


@pytest.mark.integration
def test_queued_messages_are_carried_out(
    restore: Callable[..., Path], redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    restore("queued")
    server = redis_server()
    client = server.client()
    for job, reference in recorded("jobs.json").items():
        client.hset("bei:jobs", job, reference)
    for message in reversed(recorded("messages.json")):
        client.lpush("bei-jobs", message)

    # Too patient to send anything itself: what is computed, it was told to by these messages.
    worker = Worker(server.url, tmp_path / "worker", BEI_JOBS_RECONCILE_SECONDS="600")
    try:
        until(lambda: typed("status", QUEUED).out.split()[2] == "done", worker.log)
    finally:
        worker.kill()

    assert typed("verify", QUEUED).code == 0

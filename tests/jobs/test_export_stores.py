"""`bei-jobs export` from and to buckets."""

from __future__ import annotations

import gc
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from commandline import Bei
from corpora import parts, write_parquet
from exports import DESTS, harm, read
from fixtures_accounts import MakeAccount
from fixtures_s3 import S3Server

pytestmark = pytest.mark.integration


def per_file(dest: str) -> tuple[object, ...]:
    return ("--rows-per-file", 16) if dest == "out/" else ()


@pytest.mark.parametrize("dest", DESTS)
def test_an_output_on_s3_is_exported_to_s3(
    bei: Bei, finished: Path, s3: S3Server, dest: str
) -> None:
    root = f"s3://{s3.make_bucket()}"
    fsspec.filesystem("s3").put(str(finished), f"{root}/c.embed", recursive=True)
    words = ("export", f"{root}/c.embed", f"{root}/{dest}", *per_file(dest))

    done = bei(*words)
    assert done.code == (3 if dest == "out.npy" else 0), done.err
    refused = bei(*words)
    assert (refused.code, "exists" in refused.err) == (1, True)
    expected = [f"0-{row}" for row in range(30) if row != 1 or dest != "out.npy"]
    assert ids_on_s3(f"{root}/{dest}", s3.endpoint) == expected
    again = bei(*words, "--overwrite")
    assert again.code == done.code, again.err
    assert ids_on_s3(f"{root}/{dest}", s3.endpoint) == expected


def ids_on_s3(dest: str, endpoint: str) -> list[str]:
    """The ids of the rows at a DEST, in order; of an array, the vectors are as many."""
    store = {"aws_endpoint": endpoint, "aws_allow_http": "true"}
    if dest.endswith((".lance", ".delta")):
        return [row["id"] for row in read(dest, **store)]
    fs, path = fsspec.url_to_fs(dest)
    files = sorted(fs.find(path)) if dest.endswith("/") else [path.replace(".npy", ".ids.parquet")]
    assert [name.rpartition("-of-")[2] for name in files if "-of-" in name] in (
        [], ["00002.parquet"] * 2
    )  # fmt: skip
    ids = [one for name in files for one in pq.read_table(name, filesystem=fs)["id"].to_pylist()]
    if dest.endswith(".npy"):
        assert np.load(io.BytesIO(fs.cat_file(path))).shape == (len(ids), 32)
    return ids


@pytest.mark.parametrize("dest", DESTS)
def test_a_broken_export_leaves_nothing_on_s3(
    bei: Bei, finished: Path, s3: S3Server, tmp_path: Path, dest: str
) -> None:
    bucket = s3.make_bucket()
    output = Path(shutil.copytree(finished, tmp_path / "copy"))
    harm(output / parts(output)[-1])

    failed = bei("export", output, f"s3://{bucket}/{dest}", *per_file(dest))
    assert (failed.code, "is damaged" in failed.err) == (1, True)
    gc.collect()
    assert left_on_s3(s3, bucket) == []


def left_on_s3(s3: S3Server, bucket: str) -> list[Any]:
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [*client.list_objects_v2(Bucket=bucket).get("Contents", []), *uploads]


def test_a_long_upload_is_dropped_when_it_breaks_and_goes_on_when_the_store_fails_once(
    submit: Bei, bei: Bei, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = [os.urandom(20_000).hex() for _ in range(400)]  # 16 MB, half of that as Parquet
    corpus = write_parquet(tmp_path / "c.parquet", 400, row_group=50, text=["a"] * 400, wide=wide)
    assert submit(corpus, "--keep", "wide", "--rows-per-shard", 50).code == 0
    output = tmp_path / "c.embed"
    monkeypatch.setattr("pipeline.store.new_file._MIN_PART_BYTES", 5 << 20)
    monkeypatch.setattr("pipeline.export.rows._CHUNK_BYTES", 1_000_000)
    bucket, failed = s3.make_bucket(), list[str]()

    def once(request: dict[str, Any], answer: Any) -> tuple[str, bytes] | None:
        if "partNumber" not in request["QUERY_STRING"] or failed:
            return None
        failed.append(request["QUERY_STRING"])
        return "500 Internal Server Error", b"<Error><Code>InternalError</Code></Error>"

    s3.fault = once
    done = bei("export", output, f"s3://{bucket}/out.parquet")
    assert (done.code, len(failed)) == (0, 1), done.err
    data = boto3.client("s3", endpoint_url=s3.endpoint).get_object(Bucket=bucket, Key="out.parquet")
    assert pq.read_table(io.BytesIO(data["Body"].read())).num_rows == 400

    harm(output / parts(output)[-1])
    bucket = s3.make_bucket()
    assert bei("export", output, f"s3://{bucket}/out.parquet").code == 1
    gc.collect()
    assert left_on_s3(s3, bucket) == []

    def never_dropped(request: dict[str, Any], answer: Any) -> tuple[str, bytes] | None:
        dropping = request["REQUEST_METHOD"] == "DELETE" and "uploadId" in request["QUERY_STRING"]
        return ("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>") if dropping else None

    s3.fault = never_dropped
    assert bei("export", output, f"s3://{bucket}/out.parquet").code == 1
    gc.collect()
    assert [upload["Key"] for upload in left_on_s3(s3, bucket)] == ["out.parquet"]
    assert "UploadId" in left_on_s3(s3, bucket)[0]


@pytest.mark.parametrize("dest", ["out.npy", "out.lance", "out.delta"])
def test_the_account_of_a_section_is_used_and_never_printed(
    bei: Bei, finished: Path, tmp_path: Path, make_account: MakeAccount,
    stores_file: Callable[..., Path], dest: str,
) -> None:  # fmt: skip
    account = make_account("out")
    uri = f"s3://{account.bucket}/{dest}"
    done = bei("export", finished, uri, "--stores", stores_file(account.section()))
    assert done.code == (3 if dest == "out.npy" else 0), done.err
    assert account.client.list_objects_v2(Bucket=account.bucket)["KeyCount"] >= 1

    wrong = stores_file(account.section(secret="a/wrong+secret/never/to/be/seen", key="AKIAWRONG"))
    refused = bei("export", finished, f"s3://{account.bucket}/two/{dest}", "--stores", wrong)
    assert refused.code == 1
    assert all(
        word not in refused.err for word in ("never/to/be/seen", "AKIAWRONG", account.secret)
    )
    assert len(refused.screen) <= 2

    other = stores_file(account.section(s3_additional_kwargs={"ServerSideEncryption": "AES256"}))
    tried = bei("export", finished, f"s3://{account.bucket}/three/{dest}", "--stores", other)
    if dest in ("out.lance", "out.delta"):
        assert tried.code == 2
        assert "s3_additional_kwargs.ServerSideEncryption" in tried.screen[0]
    else:
        assert tried.code == done.code, tried.err

"""S3 endpoints that each serve one account: another's key is refused, and its buckets are unknown.

moto is imported where it is used, as in `fixtures_s3`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fixtures_s3 import Clock, Fault, S3Server, Wsgi

MakeAccount = Callable[[str], "Account"]


class Account:
    """One account, with an endpoint of its own and one bucket."""

    def __init__(self, name: str) -> None:
        self.key = f"AKIA{name.upper():X<16}"
        self.secret = f"secret/of+the/account/{name}/never+to/be/seen"
        self._server = S3Server()
        self._server.fault = self._guard
        self.endpoint = self._server.endpoint
        self.fault: Fault | None = None
        self.headers: list[dict[str, str]] = []  # of every request that was let in
        self.bucket = f"{name}-{uuid.uuid4().hex[:8]}"
        self.client.create_bucket(Bucket=self.bucket)

    @property
    def client(self) -> Any:
        """A client of this account."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )

    def upload(self, path: Path, name: str) -> str:
        """Upload a file, or all files of a directory; returns the URI."""
        files = [file for file in path.rglob("*") if file.is_file()] or [path]
        for file in files:
            inner = "" if file == path else f"/{file.relative_to(path)}"
            self.client.put_object(Bucket=self.bucket, Key=name + inner, Body=file.read_bytes())
        return f"s3://{self.bucket}/{name}"

    def section(self, prefix: str = "", **options: Any) -> str:
        """A section of a stores file; an option whose value is None is left out."""
        account = {"endpoint_url": self.endpoint, "key": self.key, "secret": self.secret}
        given = {**account, "region": "us-east-1", **options}
        lines = [f"{key} = {_toml(value)}" for key, value in given.items() if value is not None]
        return "\n".join([f'["s3://{prefix or self.bucket}"]', *lines, ""])

    def stop(self) -> None:
        self._server.stop()

    def _guard(self, request: dict[str, Any], answer: Wsgi) -> tuple[str, bytes] | None:
        bucket = request["PATH_INFO"].split("/")[1]
        if f"Credential={self.key}/" not in request.get("HTTP_AUTHORIZATION", ""):
            return _error(request, "403 Forbidden", "InvalidAccessKeyId")
        if bucket != self.bucket:  # moto has one memory for all servers of a process
            return _error(request, "404 Not Found", "NoSuchBucket")
        names = {name: value for name, value in request.items() if name.startswith("HTTP_")}
        self.headers.append({"METHOD": request["REQUEST_METHOD"], "PATH": request["PATH_INFO"]})
        self.headers[-1] |= names
        return self.fault(request, answer) if self.fault else None


def _error(request: dict[str, Any], status: str, code: str) -> tuple[str, bytes]:
    head = request["REQUEST_METHOD"] == "HEAD"
    return status, b"" if head else f"<Error><Code>{code}</Code></Error>".encode()


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


@pytest.fixture
def make_account(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeAccount]:
    """Start an endpoint; the environment names an account and an endpoint that nothing serves."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHEENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    accounts: list[Account] = []
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()  # they keep the endpoint that they were made with

    def make(name: str) -> Account:
        accounts.append(Account(name))
        return accounts[-1]

    yield make
    clients.clear_instance_cache()
    for account in accounts:
        account.stop()


@pytest.fixture
def stores_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a stores file that only its owner may read."""

    def write(*sections: str) -> Path:
        path = tmp_path / "stores.toml"
        path.write_text("\n".join(sections))
        path.chmod(0o600)
        return path

    return write

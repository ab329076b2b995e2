"""Fixtures that every test may use; each kind of service has a file of its own beside this one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import settings

pytest_plugins = ["fixtures_encoder", "fixtures_redis", "fixtures_s3"]

# A loaded machine is no reason to fail: how long an example takes says nothing here.
settings.register_profile("bei-jobs", deadline=None)
settings.load_profile("bei-jobs")


@pytest.fixture(params=["local", "memory", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The root of an empty store; a test that takes it runs once over every backend."""
    name = f"out-{uuid.uuid4().hex[:12]}"
    if request.param == "local":
        yield str(tmp_path / name)
    elif request.param == "memory":
        yield f"memory://{name}"
        memory = fsspec.filesystem("memory")
        if memory.exists(f"/{name}"):
            memory.rm(f"/{name}", recursive=True)
    else:
        yield f"s3://{request.getfixturevalue('s3').make_bucket()}/{name}"

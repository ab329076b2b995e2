"""Settings from the environment, and values that are refused."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pytest
from corpora import ROOT

from pipeline.errors import UsageError
from workers.settings import Settings, load_settings


def test_directories_follow_the_home_directory() -> None:
    settings = load_settings({"HOME": "/home/ada"})
    assert settings.state_dir == Path("/home/ada/.local/state/bei-jobs")
    assert settings.cache_dir == Path("/home/ada/.cache/bei-jobs")


def test_xdg_directories_come_before_the_home_directory() -> None:
    settings = load_settings({"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"})
    assert (settings.state_dir, settings.cache_dir) == (Path("/s/bei-jobs"), Path("/c/bei-jobs"))


def test_own_variables_come_first() -> None:
    settings = load_settings(
        {"XDG_STATE_HOME": "/s", "BEI_JOBS_STATE_DIR": "/own", "BEI_JOBS_CACHE_DIR": "/too"}
    )
    assert (settings.state_dir, settings.cache_dir) == (Path("/own"), Path("/too"))


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}])
def test_a_missing_home_directory_is_no_error(environment: dict[str, str]) -> None:
    settings = load_settings(environment)
    assert settings.state_dir.is_absolute()
    assert settings.state_dir.parent != Path("/")


def test_an_empty_variable_counts_as_unset() -> None:
    settings = load_settings({"BEI_JOBS_BROKER": "", "BEI_JOBS_LEASE_SECONDS": ""})
    assert settings.broker is None
    assert settings.lease_seconds == Settings(state_dir=Path(), cache_dir=Path()).lease_seconds


def test_times_are_read_in_seconds() -> None:
    assert load_settings({"BEI_JOBS_RECONCILE_SECONDS": "0.5"}).reconcile_seconds == 0.5


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan"])
def test_a_time_that_cannot_be_meant_is_refused_by_name(value: str) -> None:
    with pytest.raises(UsageError, match="BEI_JOBS_LEASE_SECONDS"):
        load_settings({"BEI_JOBS_LEASE_SECONDS": value})


def test_infinity_is_a_time_that_can_be_meant() -> None:
    assert load_settings({"BEI_JOBS_RECONCILE_SECONDS": "inf"}).reconcile_seconds == math.inf


def test_tokenizers_1_is_one_version_everywhere() -> None:
    with pytest.raises(UsageError) as refused:
        load_settings({"BEI_JOBS_TOKENIZERS_DIR": "/nowhere"})
    pinned = re.findall(r"want=(\S+) folder", (ROOT / "scripts/_venv.sh").read_text())
    assert [f"tokenizers=={version}" for version in pinned] == [refused.value.hint.split()[-1]]
    assert refused.value.hint.split()[-1] in (ROOT / "docs/operations.md").read_text()


ON_A_GPU = min(4, os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("device", "set_by_user", "count"),
    [("cpu", "", 1), ("cpu", "3", 3), ("cuda:0", "", ON_A_GPU), ("cuda:0", "9", 9)],
)
def test_a_device_has_as_many_tokenizer_processes_as_said(
    tmp_path: Path, device: str, set_by_user: str, count: int
) -> None:
    (tmp_path / "tokenizers").mkdir()
    names = ("BEI_JOBS_TOKENIZERS_DIR", "BEI_JOBS_TOKENIZER_PROCESSES")
    found = load_settings(dict(zip(names, (str(tmp_path), set_by_user), strict=True))).tokenizing
    assert found is not None
    assert (found.library, found.count(device)) == (tmp_path, count)


def test_without_settings_no_process_tokenizes() -> None:
    assert load_settings({}).tokenizing is None

"""Schedules whose files name stores of their own, and those of the command itself."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from commandline import Bei
from corpora import TINY, write_parquet
from fixtures_accounts import Account, MakeAccount

from jobs.schedules.schedule import read_schedules
from jobs.schedules.scheduler import Scheduler
from pipeline.store.sections import Section, Stores, configure, configured
from workers.logs import log_format

NIGHTS = tuple(datetime(2026, 1, day, 12, tzinfo=UTC) for day in (1, 2))


@pytest.fixture(autouse=True)
def no_options_for_the_next_test() -> Iterator[None]:
    yield
    configure(Stores())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "schedules"
    folder.mkdir()
    return folder


def secrets_of(path: Path, key: str) -> Path:
    """A stores file with one section, which all may read."""
    path.write_text(f'["s3://{key}"]\nkey = "{key}"\nsecret = "secret-of-{key}"\n')
    path.chmod(0o644)
    return path


def write(folder: Path, name: str, output: str, *lines: str) -> Path:
    path = folder / f"{name}.toml"
    cron = f'cron = "0 2 * * *"\ninputs = ["/in/"]\noutput = "{output}"\n'
    path.write_text("\n".join([cron, *lines, ""]))
    return path


class Jobs:
    """Stands for the processes of `submit`, which end at once."""

    def __init__(self) -> None:
        self.stores: dict[str, str | None] = {}  # output → stores file of the job

    def __call__(self, job_file: Path, out: Path) -> Jobs:
        options = tomllib.loads(job_file.read_text())
        self.stores[options["output"]] = options.get("stores")
        out.write_text(json.dumps({"job": "0123456789ab"}))
        return self

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def terminate(self) -> None: ...


def run_two_nights(folder: str) -> Jobs:
    jobs = Jobs()
    for night in NIGHTS:
        scheduler = Scheduler(folder, 30, clock=lambda night=night: night, start=jobs)
        for _ in range(3):
            scheduler.look()
            scheduler.runner.join()
    return jobs


def ended(account: Account) -> list[str]:
    """The slots that are recorded as done in the bucket of an account."""
    listing = account.client.list_objects_v2(Bucket=account.bucket)
    names = [item["Key"].rpartition("/")[2] for item in listing.get("Contents", [])]
    return [name for name in names if name.endswith("-done.json")]


def test_reading_schedules_changes_nothing_of_this_process(folder: Path, tmp_path: Path) -> None:
    own = Stores("/own.toml", (Section("s3://own", {"key": "own"}),))
    configure(own)
    logs = log_format()
    for name in ("a", "b"):
        file = secrets_of(tmp_path / f"{name}.stores.toml", name)
        write(folder, name, f"s3://{name}/out", f'stores = "{file}"', 'log-format = "json"')
    write(folder, "c", "s3://own/out")
    a, b, c = read_schedules(str(folder)).schedules
    assert configured() is own
    assert log_format() == logs
    assert a.stores.options("s3://a/out")["key"] == "a"
    assert b.stores.options("s3://b/out")["key"] == "b"
    assert (a.stores.section("s3://b/out"), b.stores.section("s3://a/out")) == (None, None)
    assert c.stores is own


def test_a_file_that_all_may_read_is_warned_of_once(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "pipeline")
    file = secrets_of(tmp_path / "open.stores.toml", "a")
    for name in ("a", "b"):
        write(folder, name, f"s3://a/{name}", f'stores = "{file}"')
    for _ in range(3):
        read_schedules(str(folder))
    assert caplog.text.count(f"{file} holds secrets") == 1


def test_what_the_file_of_a_schedule_says_is_taken_from_the_next_look_on(
    folder: Path, tmp_path: Path
) -> None:
    file = secrets_of(tmp_path / "turned.stores.toml", "a")
    write(folder, "a", "s3://a/out", f'stores = "{file}"')
    (before,) = read_schedules(str(folder)).schedules
    file.write_text(file.read_text().replace("secret-of-a", "another"))
    (after,) = read_schedules(str(folder)).schedules
    assert before.stores.options("s3://a/x")["secret"] == "secret-of-a"
    assert after.stores.options("s3://a/x")["secret"] == "another"


@pytest.mark.integration
def test_each_schedule_is_recorded_with_its_own_account(
    folder: Path, tmp_path: Path, make_account: MakeAccount
) -> None:
    accounts = {name: make_account(name) for name in ("first", "second")}
    expected = {}
    for name, account in accounts.items():
        file = tmp_path / f"{name}.stores.toml"
        file.write_text(account.section())
        write(folder, name, f"s3://{account.bucket}/out", f'stores = "{file}"')
        expected[f"s3://{account.bucket}/out"] = str(file)
    write(folder, "third", str(tmp_path / "third"))  # read last, and it has none
    jobs = run_two_nights(str(folder))
    assert jobs.stores == {**expected, str(tmp_path / "third"): None}
    for account in accounts.values():
        assert ended(account) == ["20260102T0200Z-1-done.json"]


@pytest.mark.integration
def test_the_stores_of_the_command_open_the_bucket_of_the_schedules_and_reach_the_jobs(
    folder: Path,
    make_account: MakeAccount,
    stores_file: Callable[..., Path],
    bei: Bei,
    tmp_path: Path,
) -> None:
    account, other = make_account("ours"), make_account("other")
    for name in ("a", "b", "c"):
        write(folder, name, f"s3://{account.bucket}/{name}")
    file = tmp_path / "other.stores.toml"
    file.write_text(other.section())
    write(folder, "b", f"s3://{other.bucket}/b", f'stores = "{file}"')
    account.upload(folder, "schedules")
    ours = stores_file(account.section())
    schedules = f"s3://{account.bucket}/schedules"
    listed = bei("schedule", "--stores", ours, "list", schedules, "--json")
    assert listed.code == 0, listed.err
    assert [row.get("error") for row in listed.json["schedules"]] == [None] * 3
    jobs = run_two_nights(schedules)  # in this process, where the command has set them
    assert {uri[-1]: stores for uri, stores in jobs.stores.items()} == {
        "a": str(ours), "b": str(file), "c": str(ours),
    }  # fmt: skip
    assert (len(ended(account)), len(ended(other))) == (2, 1)


@pytest.mark.integration
def test_a_job_is_started_with_the_stores_of_the_command_whatever_the_environment_names(
    folder: Path,
    make_account: MakeAccount,
    stores_file: Callable[..., Path],
    bei: Bei,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = make_account("ours")
    monkeypatch.setenv("BEI_JOBS_STORES", str(tmp_path / "no-such.toml"))
    corpus = write_parquet(tmp_path / "corpus.parquet", 10)
    output = f"s3://{account.bucket}/out"
    path = write(folder, "nightly", output, f'model = "{TINY}"', 'device = "cpu"')
    path.write_text(path.read_text().replace("/in/", str(corpus)))
    words = ("backfill", path, "--from", "last", "--stores", stores_file(account.section()))
    done = bei(*words, "--json")
    assert done.code == 0, done.out + done.err
    assert len(ended(account)) == 1

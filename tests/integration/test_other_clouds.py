"""Jobs on Azure and GCS, as far as their emulators are like them, and on a store that is unfit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from commandline import Bei, Outcome, spawn
from corpora import ROOT, TINY, write_parquet
from fixtures_emulators import AZURE_ACCOUNT, AZURE_KEY, connection_string, forget_clients

from pipeline.output.output import Output
from pipeline.store.directory import Directory
from pipeline.store.sections import Stores, configure

pytestmark = pytest.mark.integration

RACERS = 4
# Above 50 MiB gcsfs uploads in pieces, above 64 MiB the SDK of Azure does.
LARGE = 66 << 20

# Creates each of `names` once everyone is ready, and says which it won.
RACE = """
import json, os, sys
from pipeline.store.directory import Directory
uri, names, size = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
directory, own = Directory(uri), os.urandom(16) * (size // 16)
directory.exists("warm-up")
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps({"own": own[:16].hex(), "won": [n for n in names if directory.create(n, own)]}))
"""


@pytest.fixture(params=["azure", "gcs"])
def cloud(request: pytest.FixtureRequest) -> str:
    """The URI of an empty container or bucket."""
    uri: str = request.getfixturevalue(request.param)
    return uri


@pytest.fixture(autouse=True)
def no_options_for_the_next_test() -> Iterator[None]:
    yield
    configure(Stores())


def upload(source: Path, target: str) -> None:
    fs, path = fsspec.url_to_fs(target)
    fs.pipe_file(path, source.read_bytes())


def words(inputs: str, output: str, model: str = TINY) -> tuple[object, ...]:
    options = ("--output", output, "--model", model, "--device", "cpu", "--rows-per-shard", 10)
    return ("submit", inputs, *options)


@pytest.mark.usefixtures("device_in_this_process")
def test_nights_of_a_job_whose_inputs_checkpoint_and_output_are_there(
    bei: Bei, cloud: str, tmp_path: Path
) -> None:
    inputs, output = f"{cloud}/in", f"{cloud}/vectors"
    upload(write_parquet(tmp_path / "a.parquet", 20), f"{inputs}/a.parquet")
    upload(write_parquet(tmp_path / "b.parquet", 10, seed=1), f"{inputs}/sub/b.parquet")
    for file in Path(TINY).rglob("*.*"):
        upload(file, f"{cloud}/tiny/{file.relative_to(TINY)}")
    night = words(inputs, output, f"{cloud}/tiny")

    def computed() -> tuple[int, int, int]:
        done = bei(*night, "--quiet", "--json")
        assert done.code == 0, done.err
        rows = done.json["rows"]
        return rows["computed"], rows["reused"], done.json["rows"]["total"]

    assert computed() == (30, 0, 30)
    assert computed() == (0, 30, 30)
    upload(write_parquet(tmp_path / "c.parquet", 10, seed=2), f"{inputs}/c.parquet")
    assert computed() == (10, 30, 40)
    upload(write_parquet(tmp_path / "c.parquet", 10, seed=3), f"{inputs}/c.parquet")
    assert computed() == (10, 30, 40)
    assert bei("verify", output).code == 0
    history = bei("history", output, "--json").json["runs"]
    assert [run["changes"]["files"]["changed"] for run in history] in ([0, 0, 1], [1, 0, 0])


def sas(hours: int, permissions: str = "rlwcd") -> str:
    """A token for all of Azurite's account that expires in `hours`."""
    from azure.storage.blob import generate_account_sas

    expiry = datetime.now(UTC) + timedelta(hours=hours)
    token: str = generate_account_sas(AZURE_ACCOUNT, AZURE_KEY, "sco", permissions, expiry)
    return token


@pytest.mark.usefixtures("device_in_this_process")
def test_an_account_is_named_in_the_environment_or_in_a_section_and_never_shown(
    bei: Bei, azure: str, azurite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 10)
    assert bei(*words(str(corpus), f"{azure}/out"), "--quiet").code == 0
    at = f"@{AZURE_ACCOUNT}.dfs.core.windows.net"
    names = [azure, azure.replace("az://", "abfs://"), azure.replace("az://", "abfs://") + at]
    good = f"BlobEndpoint={azurite};SharedAccessSignature={sas(1)}"
    wrong = connection_string(azurite, "AAAA" + AZURE_KEY)
    expired = f"BlobEndpoint={azurite};SharedAccessSignature={sas(-1)}"
    file = tmp_path / "stores.toml"

    def verify(uri: str, address: str, *, section: bool) -> Outcome:
        forget_clients("az", "abfs")
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
        monkeypatch.setenv("ADDRESS" if section else "AZURE_STORAGE_CONNECTION_STRING", address)
        file.write_text(f'["{uri}"]\nconnection_string_env = "ADDRESS"\n' if section else "")
        done = bei("verify", f"{uri}/out", "--stores", file)
        printed = done.out + done.err
        for part in (AZURE_KEY, AZURE_KEY[:40], "sig=", "SharedAccess"):
            assert part not in printed
        assert len(done.screen) <= 2, done.err
        return done

    for uri in names:
        for section in (False, True):
            assert verify(uri, good, section=section).code == 0
            for address in (wrong, expired):
                done = verify(uri, address, section=section)
                assert done.code == 1
                assert f"{uri}/out/_bei/runs/: access denied (Auth" in done.err
                where = f'section ["{uri}"]' if section else "AZURE_STORAGE_SAS_TOKEN"
                assert where in done.err
    done = verify(azure, "no-address", section=False)
    assert (done.code, "AZURE_STORAGE_ACCOUNT_NAME" in done.err) == (2, True)


def race(uri: str, racers: int, names: list[str], size: int) -> list[dict[str, Any]]:
    """What processes say that created the same names at the same time."""
    words = [sys.executable, "-c", RACE, uri, ",".join(names), str(size)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(words, cwd=ROOT, **pipes) for _ in range(racers)]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * racers
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in running]


@pytest.mark.parametrize(("racers", "count", "size"), [(RACERS, 25, 16), (2, 1, LARGE)])
def test_of_processes_that_create_one_object_exactly_one_wins(
    cloud: str, racers: int, count: int, size: int
) -> None:
    names = [f"part-{i}" for i in range(count)]
    outcomes = race(cloud, racers, names, size)
    for name in names:
        winners = [outcome["own"] for outcome in outcomes if name in outcome["won"]]
        assert len(winners) == 1, (name, winners)
        assert Directory(cloud).read(name)[:16].hex() == winners[0]


def test_two_submits_of_one_job_at_a_time_commit_each_part_once(
    bei: Bei, cloud: str, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 60)
    output = f"{cloud}/vectors"
    running = [
        spawn(*words(str(corpus), output), "--json", BEI_JOBS_STATE_DIR=str(tmp_path / name))
        for name in ("one", "two")
    ]
    ended = [(process.communicate(), process.returncode) for process in running]
    assert [code for _, code in ended] == [0, 0], ended
    assert sum(json.loads(out)["rows"]["computed"] for (out, _), _ in ended) == 60
    assert bei("verify", output).code == 0
    assert len(list(Output(output).committed())) == 6


@pytest.mark.usefixtures("device_in_this_process")
def test_a_gateway_that_ignores_the_condition_is_refused_before_anything_is_computed(
    bei: Bei, juicefs: str, tmp_path: Path
) -> None:
    corpus = write_parquet(tmp_path / "corpus.parquet", 10)
    done = bei(*words(str(corpus), f"{juicefs}/vectors"), "--quiet")
    assert done.code == 1
    assert f"{juicefs}/vectors: the store overwrites a file" in done.err
    assert "use a store with conditional writes" in done.err
    assert len(done.screen) == 2
    assert list(Directory(juicefs).list(recursive=True)) == []
    # It is fit to read from.
    upload(corpus, f"{juicefs}/in/corpus.parquet")
    done = bei(*words(f"{juicefs}/in", str(tmp_path / "out")), "--quiet", "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == 10

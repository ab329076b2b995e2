"""The reference of commands is what the command line says today."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest
from corpora import ROOT

import bei_jobs


def test_the_page_of_commands_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference"], capture_output=True, text=True, check=True
    )

    assert (ROOT / "docs" / "commands.md").read_text() == made.stdout, (
        "run: python scripts/reference > docs/commands.md"
    )


def made_schema() -> str:
    script = ROOT / "scripts" / "job-file-schema"
    return subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    ).stdout


def test_the_schema_of_job_files_is_up_to_date() -> None:
    assert (ROOT / "docs" / "job-file.schema.json").read_text() == made_schema(), (
        "run: python scripts/job-file-schema > docs/job-file.schema.json"
    )


def test_the_schema_of_job_files_knows_every_option_of_submit() -> None:
    from jobs.cli import cli

    command = cli.get_command(click.Context(cli), "submit")
    assert command is not None
    options = {name for param in command.params for name in param.opts if name.startswith("--")}

    assert {f"--{key}" for key in json.loads(made_schema())["properties"]} == (
        options - {"--job-file", "--bei-config"}
    ) | {"--inputs", "--cron", "--timezone", "--catch-up"}


def schema_errors(file: Path) -> str:
    schema = ROOT / "docs" / "job-file.schema.json"
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema), str(file)]
    checked = subprocess.run(command, capture_output=True, text=True)
    return "" if checked.returncode == 0 else checked.stdout + checked.stderr


@pytest.mark.parametrize("name", ["job.toml", "nightly.toml", "monthly.toml"])
def test_the_examples_follow_the_schema_of_job_files(name: str) -> None:
    assert schema_errors(ROOT / "examples" / name) == ""


def test_the_schema_of_job_files_refuses_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('text-colum = "body"\n')

    assert "text-colum" in schema_errors(tmp_path / "job.toml")


def test_the_readme_names_every_command() -> None:
    from jobs.cli import COMMANDS

    readme = (ROOT / "README.md").read_text()

    assert [
        name for name in COMMANDS if f"`{name}`" not in readme and f"bei-jobs {name}" not in readme
    ] == []


def test_the_table_of_models_and_the_list_that_is_printed_name_the_same() -> None:
    from pipeline.encoder.architecture.tested_models import TESTED_MODELS

    rows = re.findall(
        r"^\| ([\w.-]+/[\w.-]+) \| (\w+) \| ([\w-]+) \|",
        (ROOT / "docs" / "models.md").read_text(),
        flags=re.MULTILINE,
    )

    assert {tuple(known) for known in TESTED_MODELS} == set(rows)


AIRFLOW = """
def dag(function=None, *, schedule=None, catchup=False):
    return lambda function: function


def task(function=None, *, retries=0):
    return function or (lambda function: function)
"""
DAGSTER = """
from types import SimpleNamespace as Made


class AssetSelection:
    @staticmethod
    def assets(*assets):
        return assets


class MaterializeResult:
    def __init__(self, *, metadata):
        assert {type(value) for value in metadata.values()} <= {str, int, list}  # as Dagster does


class AssetCheckResult(MaterializeResult):
    def __init__(self, *, passed, metadata):
        super().__init__(metadata=metadata)
        assert passed, metadata


class RetryPolicy:
    def __init__(self, *, max_retries):
        pass


def asset(*, retry_policy):
    return lambda function: function


def asset_check(*, asset):
    return lambda function: function


def ScheduleDefinition(*, name, target, cron_schedule):
    return Made(target=target)


def Definitions(*, assets, asset_checks, schedules):
    assert [schedule.target for schedule in schedules] == [tuple(assets)]
    for each in [*assets, *asset_checks]:
        each()
"""


@pytest.mark.parametrize(
    ("page", "fence", "outputs"),
    [
        ("README.md", "py", ["corpus.embed"]),
        ("docs/python.md", "python", ["corpus.embed"]),
        ("docs/how-to/airflow.md", "python", ["articles.embed"]),
        ("docs/how-to/dagster.md", "python", ["articles.embed"]),
    ],
)
def test_what_the_pages_show_of_bei_jobs_runs(
    page: str, fence: str, outputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEI_JOBS_STATE_DIR", str(tmp_path / "state"))
    rows = pq.read_table(ROOT / "examples" / "corpus.parquet").slice(0, 20)
    for name in ("corpus.parquet", "articles/one.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(rows, tmp_path / name)
    # Airflow and Dagster themselves take half a gigabyte: what the pages use of them hands the
    # functions on, and they run in turn. By hand: the SDK of Airflow 1.3.2, and Dagster 1.13.29.
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow/sdk.py").write_text(AIRFLOW)
    (tmp_path / "dagster.py").write_text(DAGSTER)
    text = (ROOT / page).read_text().replace("/data/", f"{tmp_path}/")
    for block in re.findall(rf"^```{fence}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert [bei_jobs.verify(output).rows for output in outputs] == [20] * len(outputs)

"""docker-compose.yml is valid Compose, and each service's command is one that its program takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from corpora import ROOT
from fixtures_redis import RedisServer

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
OURS = [name for name, service in SERVICES.items() if "build" in service]


def compose_schema_errors(file: Path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, str(file)], capture_output=True, text=True)
    return "" if checked.returncode == 0 else checked.stdout + checked.stderr


def test_the_file_follows_the_compose_schema() -> None:
    assert compose_schema_errors(ROOT / "docker-compose.yml") == ""


def test_the_schema_check_sees_a_misspelt_key(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(
        (ROOT / "docker-compose.yml").read_text().replace("healthcheck:", "healtcheck:")
    )
    assert "healtcheck" in compose_schema_errors(broken)


def parse(command: list[str]) -> click.Context:
    """Parse as the command line would, options and all, without running anything."""
    from jobs.cli import cli

    name, *arguments = command
    group = click.Context(cli)
    subcommand = cli.get_command(group, name)
    assert subcommand is not None, f"bei-jobs has no command {name}"
    return subcommand.make_context(name, arguments, parent=group)


@pytest.mark.parametrize("service", [name for name in OURS if name != "scheduler"])
def test_the_command_line_takes_what_a_service_runs(service: str) -> None:
    with parse(SERVICES[service]["command"]) as context:
        assert context.params["broker"] == "redis://redis:6379/0"


def test_the_scheduler_reads_the_bucket_and_leaves_jobs_to_the_workers() -> None:
    from jobs.commands.schedule import command

    service = SERVICES["scheduler"]
    group, name, *arguments = service["command"]
    subcommand = command.get_command(click.Context(command), name)
    assert group == command.name
    assert subcommand is not None
    with subcommand.make_context(name, arguments) as context:
        assert context.params == {"directory": "s3://corpora/schedules"}
    assert service["environment"]["BEI_JOBS_BROKER"] == "redis://redis:6379/0"
    assert service["environment"].keys() > SERVICES["worker"]["environment"].keys()


def test_the_command_line_refuses_an_option_that_it_does_not_have() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(["worker", "--brokre", "redis://redis:6379/0"])


def test_the_image_starts_the_console_script() -> None:
    entry_points = [
        json.loads(line.removeprefix("ENTRYPOINT "))
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("ENTRYPOINT ")
    ]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entry_points == [list(scripts)]


def test_the_image_writes_only_where_a_container_has_volumes() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (volumes,) = {tuple(SERVICES[name]["volumes"]) for name in OURS}
    mounted = [volume.partition(":")[2] for volume in volumes]
    variables = {
        name: value
        for line in lines
        if line.startswith("ENV ")
        for name, value in (pair.split("=") for pair in line.split()[1:])
        if value.startswith("/")
    }
    assert set(variables) == {"HF_HOME", "BEI_JOBS_CACHE_DIR", "BEI_JOBS_STATE_DIR"}
    assert {f"/{path.split('/')[1]}" for path in variables.values()} == set(mounted)
    # A new volume gets the owner that its directory has in the image.
    assert any(line.endswith(f"chown bei {' '.join(mounted)}") for line in lines)
    assert "USER bei" in lines


@pytest.mark.parametrize("service", OURS)
def test_a_worker_has_no_rights_that_it_does_not_need(service: str) -> None:
    rights = {key: SERVICES[service].get(key) for key in ("read_only", "cap_drop", "security_opt")}
    assert rights == {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    assert SERVICES[service]["tmpfs"] == ["/tmp"]
    assert not {"privileged", "cap_add", "user"} & SERVICES[service].keys()


def test_the_broker_keeps_its_queue_over_a_restart_and_under_memory_pressure(
    redis_server: Callable[..., RedisServer],
) -> None:
    program, *options = SERVICES["redis"]["command"]
    assert program == "redis-server"
    client = redis_server(*options).client()
    assert client.config_get("appendonly", "appendfsync", "maxmemory-policy") == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }

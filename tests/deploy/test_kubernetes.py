"""deploy/kubernetes is valid Kubernetes and KEDA, and fits the program, its image and Redis."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import redis
import yaml
from commandline import forget_the_user, typed
from corpora import ROOT, TINY, write_parquet

FOLDER = ROOT / "deploy/kubernetes"
KEDA = json.loads(Path(__file__).with_name("keda-scaledobject.schema.json").read_text())
VERSION = "1.37"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
MANIFESTS: list[dict[str, Any]] = [
    each for path in FILES for each in yaml.safe_load_all(path.read_text())
]
#: What KEDA 2.20 asks Redis for each trigger (pkg/scalers/redis_scaler.go).
KEDA_COUNTS = """
local kind = redis.call('type', KEYS[1]).ok
if kind == 'hash' then return redis.call('hlen', KEYS[1]) end
return redis.call('llen', KEYS[1])
"""


def named(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [each for each in MANIFESTS if each["kind"] in kinds]


def wrong(manifest: dict[str, Any]) -> str:
    """What the schema of its kind says against a manifest."""
    try:
        if manifest["kind"] == "ScaledObject":
            jsonschema.validate(manifest, KEDA)
        else:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return str(error.message)
    return ""


def found(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from found(value, key)


def pods() -> list[tuple[str, dict[str, Any]]]:
    """The name and the template of everything that starts pods."""
    kinds = of_kind("Deployment", "StatefulSet", "CronJob")
    return [(named(each), next(found(each, "template"))) for each in kinds]


def ours() -> list[tuple[str, dict[str, Any]]]:
    """The containers that run bei-jobs."""
    every = [(name, c) for name, pod in pods() for c in pod["spec"]["containers"]]
    return [(name, container) for name, container in every if container["image"] == "bei-jobs"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=named)
def test_a_manifest_follows_the_schema_of_its_kind(manifest: dict[str, Any]) -> None:
    assert wrong(manifest) == ""


@pytest.mark.parametrize("manifest", MANIFESTS, ids=named)
def test_the_schema_refuses_a_misspelt_field(manifest: dict[str, Any]) -> None:
    broken = copy.deepcopy(manifest)
    place = broken.get("spec", broken)
    name = "data" if "data" in place else next(iter(place))
    place[f"{name}x"] = place.pop(name)

    assert wrong(broken) != ""


def test_the_schema_refuses_a_wrong_field_deep_within() -> None:
    (worker,) = [each for each in MANIFESTS if named(each) == "Deployment/bei-jobs-worker-gpu"]
    (scaled,) = of_kind("ScaledObject")
    deep, keda = copy.deepcopy(worker), copy.deepcopy(scaled)
    next(found(deep, "livenessProbe"))["periodSecond"] = 5
    next(found(keda, "scalingModifiers"))["formul"] = "waiting"

    assert "periodSecond" in wrong(deep)
    assert "formul" in wrong(keda)


@pytest.mark.parametrize(("name", "container"), ours(), ids=[name for name, _ in ours()])
def test_the_command_line_takes_what_a_container_runs(
    name: str, container: dict[str, Any], tmp_path: Path
) -> None:
    from jobs.cli import cli

    command, *arguments = container["args"]
    for job_file in [word for word in arguments if word.endswith(".toml")]:
        (config,) = [each for each in of_kind("ConfigMap") if Path(job_file).name in each["data"]]
        local = tmp_path / Path(job_file).name
        local.write_text(config["data"][local.name])
        arguments = [str(local) if word == job_file else word for word in arguments]
    group = click.Context(cli)
    subcommand = cli.get_command(group, command)
    assert subcommand is not None
    with subcommand.make_context(command, arguments, parent=group) as context:
        expected = {"metrics_port": 9108} if command == "worker" else {"wait": True}
        assert expected.items() <= context.params.items()


def test_everything_that_is_named_is_there() -> None:
    """ConfigMaps, volumes, ports, targets and labels; the one Secret is the reader's own."""
    configs = {each["metadata"]["name"] for each in of_kind("ConfigMap")}
    labels = [pod["metadata"]["labels"] for _, pod in pods()]
    deployments = {each["metadata"]["name"] for each in of_kind("Deployment")}
    for _, pod in pods():
        spec = pod["spec"]
        claims = {
            claim["metadata"]["name"]
            for each in found(MANIFESTS, "volumeClaimTemplates")
            for claim in each
        }
        volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            ports = {port["name"] for port in container.get("ports", [])}
            probes = [p for name, p in container.items() if name.endswith("Probe")]
            assert set(found([p for p in probes if "httpGet" in p], "port")) <= ports
    for reference in [*found(MANIFESTS, "configMapRef"), *found(MANIFESTS, "configMap")]:
        assert reference["name"] in configs
    for reference in [*found(MANIFESTS, "secretRef"), *found(MANIFESTS, "secretKeyRef")]:
        assert reference["name"] == "bei-jobs"
    for budget in of_kind("PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"] in labels
    for service in of_kind("Service"):
        assert service["spec"]["selector"] in labels
    (scaled,) = of_kind("ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] in deployments


def test_no_manifest_holds_a_secret() -> None:
    assert of_kind("Secret") == []
    values = [value for value in found(MANIFESTS, "value") if isinstance(value, str)]
    brokers = {value for value in values if "redis://" in value}
    assert brokers == {"redis://:$(REDIS_PASSWORD)@bei-jobs-redis:6379/0"}


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[name for name, _ in pods()])
def test_a_pod_has_no_rights_that_it_does_not_need(name: str, pod: dict[str, Any]) -> None:
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    for container in pod["spec"]["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_pods_run_as_the_user_of_the_image_and_mount_what_it_writes() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (user,) = re.findall(r"useradd --uid (\d+)", dockerfile)
    for _, pod in pods():
        spec = pod["spec"]
        for container in [each for each in spec["containers"] if each["image"] == "bei-jobs"]:
            assert spec["securityContext"]["runAsUser"] == int(user)
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/models", "/state", "/tmp"} <= mounts


def test_a_worker_has_the_time_to_stop_that_docker_compose_gives_it() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["worker"]["stop_grace_period"] == "1m"
    for name, pod in pods():
        if "worker" in name:
            assert pod["spec"]["terminationGracePeriodSeconds"] == 60


def test_the_version_of_the_image_is_that_of_the_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (image,) = kustomization["images"]
    assert (image["name"], image["newTag"]) == ("bei-jobs", project["version"])


def test_kustomize_takes_every_file_and_sets_the_image() -> None:
    text = (FOLDER / "kustomization.yaml").read_text()
    offered = re.findall(r"^  (?:# )?- (\S+\.yaml)", text, re.MULTILINE)
    assert sorted(offered) == [path.name for path in FILES]
    if shutil.which("kubectl") is None:  # not a package of Debian, so not everywhere
        return
    command = ["kubectl", "kustomize", str(FOLDER)]
    built = subprocess.run(command, capture_output=True, text=True, check=True)
    every = list(yaml.safe_load_all(built.stdout))
    assert [named(each) for each in every if wrong(each)] == []
    assert set(found(every, "image")) == {"registry.example.com/bei-jobs:0.1.0", "redis:8.4-alpine"}


@pytest.mark.integration
def test_keda_counts_the_spans_that_wait_and_those_that_a_worker_holds(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kombu import Connection

    (scaled,) = of_kind("ScaledObject")
    triggers = {each["name"]: each["metadata"]["listName"] for each in scaled["spec"]["triggers"]}
    client = redis.Redis.from_url(redis_url)

    def counted() -> dict[str, Any]:
        return {name: client.eval(KEDA_COUNTS, 1, key) for name, key in triggers.items()}

    forget_the_user(monkeypatch, tmp_path / "state", tmp_path / "cache")
    for name in "abc":  # a span is of one file
        write_parquet(tmp_path / f"in/{name}.parquet", 4)
    assert counted() == {"waiting": 0, "held": 0}
    words = ("--model", TINY, "--output", tmp_path / "out", "--broker", redis_url, "--quiet")
    done = typed("submit", tmp_path / "in", *words)
    assert done.code == 0, done.err
    assert counted() == {"waiting": 3, "held": 0}
    with Connection(redis_url) as connection, connection.SimpleQueue(triggers["waiting"]) as queue:
        queue.get(timeout=5)
        assert counted() == {"waiting": 2, "held": 1}

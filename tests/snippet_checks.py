"""What can be said of a snippet without running it."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import jsonschema
import yaml
from corpora import ROOT
from cronsim import CronSim
from snippets import Snippet

from pipeline.store.stores_file import read_stores

JOB_FILE = json.loads((ROOT / "docs/job-file.schema.json").read_text())


def commands(shell: str) -> list[list[str]]:
    """The words of each `bei-jobs …` in a text for the shell, up to what ends a command."""
    found = []
    for line in shell.replace("\\\n", " ").splitlines():
        for start in re.finditer(
            r"(?<!namespace )(?<!SETUSER )(?<![\w/=.-])(?:/\S*/)?bei-jobs (?=[a-z])", line
        ):
            words = shlex.split(line[start.end() :].replace("…", "x"), comments=True)
            ends = [n for n, word in enumerate(words) if word in (";", "&", "|", "&&", ">", ">>")]
            found.append(words[: ends[0]] if ends else words)
    return found


def parse(words: list[str]) -> None:
    """Have the command line parse a command, of a group too, without running it.

    Raises:
        click.ClickException: there is no such command or option.
    """
    from jobs.cli import cli

    command: click.Command | None = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, *words = words
        group, command = command, command.get_command(context, name)
        assert command is not None, f"{group.name} has no command {name}"
        context = click.Context(group, parent=context)
    assert command is not None
    with command.make_context(command.name, list(words), parent=context):
        pass


def check_shell(snippet: Snippet, folder: Path) -> None:
    """Its syntax, the options of our commands, and the files that it names."""
    read = subprocess.run(["bash", "-n"], input=snippet.text, capture_output=True, text=True)
    assert read.returncode == 0, f"{snippet.where}: {read.stderr}"
    for words in commands(snippet.text):
        parse(words)
    named = r"(?<![\w./-])(?:scripts|deploy/kubernetes|examples|docs)/?[\w./-]*\w"
    for file in re.findall(named, snippet.text):
        assert (ROOT / file).exists(), f"{snippet.where}: there is no {file}"


def check_toml(snippet: Snippet, folder: Path) -> None:
    """It is a job file, or the sections of stores."""
    document = tomllib.loads(snippet.text)
    if not all("://" in key for key in document):
        jsonschema.validate(document, JOB_FILE)
        return
    file = folder / "stores.toml"
    file.write_text(
        re.sub(r'^token = "/.*"$', f'token = "{file}"', snippet.text, flags=re.MULTILINE)
    )
    file.chmod(0o600)
    read_stores(str(file), dict.fromkeys(re.findall(r'_env = "(\w+)"', snippet.text), "x"))


def check_yaml(snippet: Snippet, folder: Path) -> None:
    """It is Prometheus's configuration, or a part of our manifest for KEDA."""
    document = yaml.safe_load(snippet.text)
    if "triggers" in document:
        scaled = yaml.safe_load((ROOT / "deploy/kubernetes/keda.yaml").read_text())
        assert _is_part_of(document, scaled["spec"]), f"{snippet.where}: not as in keda.yaml"
        return
    assert "scrape_configs" in document, f"{snippet.where}: what is this?"
    if shutil.which("promtool"):  # tests/integration/test_observability.py sees to it in CI
        (folder / "prometheus.yml").write_text(snippet.text)
        shutil.copy(ROOT / "deploy/prometheus/alerts.yml", folder)
        words = ["promtool", "check", "config", str(folder / "prometheus.yml")]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, f"{snippet.where}: {done.stdout}{done.stderr}"


def _is_part_of(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and _is_part_of(part[key], whole[key]) for key in part)
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(_is_part_of, part, whole))
    return bool(part == whole)


def check_cron(snippet: Snippet, folder: Path) -> None:
    """Each line is a time that cron understands, and a command of ours."""
    for line in snippet.text.splitlines():
        *when, command = line.split(None, 5)
        CronSim(" ".join(when), datetime(2026, 11, 28))
        (words,) = commands(command)
        parse(words)


def check_python(snippet: Snippet, folder: Path) -> None:
    """It is Python, and what it imports is there."""
    tree = ast.parse(snippet.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert find_spec(alias.name), f"{snippet.where}: there is no {alias.name}"


#: Language → what checks a snippet that is not run.
CHECKS: dict[str, Callable[[Snippet, Path], None]] = {
    "python": check_python,
    "sh": check_shell,
    "toml": check_toml,
    "yaml": check_yaml,
    "cron": check_cron,
}

"""What version 0.1.0 called the values of each golden: spaces, schema hashes and names of parts.

Two results of one identity may stand in one output, so an identity that moves makes every user's
output foreign. The input lies on an S3 API under a fixed name, where a version is the MD5 of the
bytes: the identities are then the same on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from commandline import Outcome, typed
from corpora import GOLDENS

RECORDED = Path(__file__).parent / "compatibility/recorded"
BUCKET = "bei-jobs-compatibility"
CORPUS = f"s3://{BUCKET}/corpus.jsonl"
ROWS = 6
#: Where the golden lay whose outputs are recorded; the records name it.
MODEL = "/tmp/models/bert_mean"

#: Options of `submit` beyond the task's own defaults, by task.
VARIANTS: dict[str, dict[str, tuple[object, ...]]] = {
    "embed": {
        "default": (),
        "options": (
            "--prompt", "query: ", "--max-length", 24, "--dimensions", 8, "--output-dtype", "int8",
            "--no-normalize", "--precision", "float32", "--keep", "lang,n", "--rows-per-shard", 4,
        ),
    },
    "rerank": {
        "default": (),
        "options": ("--document-column", "document", "--raw-scores", "--keep", "lang"),
    },
    "classify": {"default": (), "options": ("--top-k", 2, "--raw-scores", "--truncate", "left")},
    "tag": {
        "default": (),
        "options": ("--aggregation", "none", "--raw-scores", "--id-column", "n", "--keep", "id"),
    },
}  # fmt: skip


def corpus() -> bytes:
    """A row of every column that a task reads."""
    rows = (
        {
            "id": f"row-{i}",
            "n": i,
            "lang": "en",
            "text": f"the text of row {i}",
            "query": f"the query of row {i}",
            "documents": [f"a document of row {i}", "another one"],
            "document": f"a document of row {i}",
        }
        for i in range(ROWS)
    )
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def layouts() -> dict[str, str]:
    """Golden → its task."""
    cases = {path.parent.name: path for path in sorted(GOLDENS.glob("*/cases.json"))}
    return {name: json.loads(path.read_text())["cases"][0]["task"] for name, path in cases.items()}


def put(server: Any, key: str, data: bytes) -> None:
    """An object in the fixed bucket, which is made where it is missing."""
    import boto3

    client = boto3.client("s3", endpoint_url=server.endpoint)
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key=key, Body=data)


def submit(output: object, model: object, *words: object) -> Outcome:
    """A quiet run of the fixed corpus on the CPU."""
    return typed(
        "submit", CORPUS, "--output", output, "--model", model, "--device", "cpu", "--quiet",
        "--max-failed-rows", "100%", *words,
    )  # fmt: skip


def identity(output: Path, name: str, task: str, variant: str) -> dict[str, Any]:
    """Space, schema hash and parts of one run."""
    done = submit(output, GOLDENS / name, "--task", task, *VARIANTS[task][variant])
    assert done.code in (0, 3), done.err
    claimed = json.loads((output / "_bei/spec.json").read_text())
    return {
        "space": claimed["space"],
        "schema": claimed["schema"],
        "parts": sorted(path.name for path in output.glob("*.arrow")),
    }


def described(name: str, task: str) -> dict[str, Any]:
    """What `models` says of a golden, without where it lies."""
    said = typed("models", GOLDENS / name, "--task", task, "--json")
    assert said.code == 0, said.err
    facts: dict[str, Any] = said.json
    return {key: value for key, value in facts.items() if key not in ("name", "path")}


def options() -> dict[str, dict[str, Any]]:
    """Command → its options and arguments with their defaults."""
    import click

    from jobs.cli import COMMANDS, cli

    context = click.Context(cli)
    found: dict[str, dict[str, Any]] = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found[name] = {
            "/".join(sorted([*param.opts, *param.secondary_opts])): repr(param.default)
            for param in command.params
        }
    return found

"""The errors a caller catches are the tree's own, and come out of the process of a command."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bei_jobs
from pipeline import errors as tree

NAMES = [name for name, kind in vars(tree).items() if isinstance(kind, type)]


def bases(kind: type[Any]) -> list[str]:
    return [base.__name__ for base in kind.__mro__]


@pytest.mark.parametrize("name", NAMES)
def test_each_error_of_the_tree_is_there_under_a_name_of_ours(name: str) -> None:
    ours, theirs = getattr(bei_jobs, name), getattr(tree, name)
    assert bases(ours) == bases(theirs)
    assert (ours.exit_code, ours.transient) == (theirs.exit_code, theirs.transient)
    assert ours is getattr(bei_jobs.errors, name)
    assert ours.__module__ == "bei_jobs.errors"


def test_type_checkers_see_the_same_tree() -> None:
    stub = ast.parse(Path(bei_jobs.errors.__file__).with_suffix(".pyi").read_text())
    kinds = [node for node in stub.body if isinstance(node, ast.ClassDef)]
    drawn = {kind.name: [ast.unparse(base) for base in kind.bases] for kind in kinds}
    assert drawn == {name: [getattr(tree, name).__base__.__name__] for name in NAMES}
    (root,) = [kind for kind in kinds if kind.name == "BeiJobsError"]
    said = {ast.unparse(node.target) for node in root.body if isinstance(node, ast.AnnAssign)}
    error = tree.BeiJobsError("what", hint="next")
    assert said == {name for name in set(dir(error)) - set(dir(Exception())) if name[0] != "_"}


def test_an_error_keeps_its_hint_on_the_way_to_another_process() -> None:
    error = bei_jobs.NotFound("gone", hint="look elsewhere")
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is bei_jobs.NotFound
        assert (str(same), same.hint) == ("gone", "look elsewhere")


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (["status", "nowhere.embed"], "NotFound", 1),
        (["watch", "nowhere.embed"], "NotFound", 1),
        (["submit", "--task", "guess"], "UsageError", 2),
        (["submit", "no-such.parquet", "--model", "TINY"], "InputError", 1),
    ],
)
def test_a_command_with_json_names_the_class_of_its_error(
    words: list[str], kind: str, code: int, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    typed = [str(tiny["model"]) if word == "TINY" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "bei_jobs", *typed, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    said = json.loads(done.stdout)
    assert (said["type"], said["exit_code"], done.returncode) == (kind, code, code)
    assert said["error"]
    assert "hint" in said


def refusals(tiny: dict[str, Any], corpus: Path) -> dict[str, Callable[[], object]]:
    return {
        "InputError": lambda: bei_jobs.submit("no-such.parquet", **tiny),
        "CheckpointError": lambda: bei_jobs.submit(corpus, model="no/such/model"),
        "UsageError": lambda: bei_jobs.submit(corpus, **{**tiny, "task": "guess"}),
        "NotFound": lambda: bei_jobs.job("nowhere.embed"),
        "BrokerError": lambda: bei_jobs.submit(
            corpus, model=tiny["model"], broker="redis://127.0.0.1:1/0"
        ),
    }


@pytest.mark.parametrize(
    "name", ["InputError", "CheckpointError", "UsageError", "NotFound", "BrokerError"]
)
def test_what_a_command_reports_is_raised_in_its_class(
    name: str, tiny: dict[str, Any], corpus: Path
) -> None:
    with pytest.raises(bei_jobs.BeiJobsError) as raised:
        refusals(tiny, corpus)[name]()
    assert type(raised.value).__name__ == name
    assert "Traceback" not in str(raised.value)


def test_a_command_that_dies_without_a_word_to_us_is_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no Python starts from there
    with pytest.raises(bei_jobs.BeiJobsError, match=r"exit code 1(?s:.)*encodings") as raised:
        bei_jobs.job("nowhere.embed")
    assert type(raised.value) is bei_jobs.BeiJobsError
    assert raised.value.hint

"""The options of `bei_jobs.submit` are those of the command line, and mean the same."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import numpy as np
import pytest

import bei_jobs
from bei_jobs.options import submit_words


def command() -> click.Command:
    from jobs.cli import cli

    found = cli.get_command(click.Context(cli), "submit")
    assert found is not None
    return found


#: Given by the package itself, and `Job.wait` in place of --wait.
NOT_OPTIONS = {"inputs", "as_json", "quiet", "wait"}
PARAMETERS = {p.name: p for p in command().params if p.name not in NOT_OPTIONS}
HINTS = get_type_hints(bei_jobs.SubmitOptions)


def kinds(name: str) -> tuple[Any, ...]:
    """The members of an option's type, None left out."""
    hint = HINTS[name]
    members = get_args(hint) if get_origin(hint) in (types.UnionType, None) else (hint,)
    return tuple(kind for kind in get_args(hint) or members if kind is not type(None))


def parse(**options: Any) -> dict[str, Any]:
    """What the command takes the words for."""
    with command().make_context("submit", list(submit_words("in.csv", options))) as context:
        return context.params


def test_there_are_the_options_of_the_command_line_and_no_others() -> None:
    assert set(HINTS) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_option_is_typed_as_the_command_line_takes_it(name: str) -> None:
    parameter = PARAMETERS[name]
    choices = [get_args(kind) for kind in kinds(name) if get_origin(kind) is Literal]
    if name == "task":  # one file per task: its names are not repeated here
        assert kinds(name) == (str,)
    elif isinstance(parameter.type, click.Choice):
        assert choices == [tuple(parameter.type.choices)]
    else:
        assert choices == []
    assert (bool in kinds(name)) == parameter.is_flag
    assert (kinds(name) == (int,)) == isinstance(parameter.type, click.types.IntParamType)


@pytest.mark.parametrize("name", [name for name, p in PARAMETERS.items() if p.is_flag])
def test_a_switch_is_turned_on_off_or_left_alone(name: str) -> None:
    assert parse(**{name: True})[name] is True
    assert parse(**{name: False})[name] is False
    assert parse(**{name: None})[name] == parse()[name]


def test_values_arrive_as_they_were_given() -> None:
    seen = parse(
        model=Path("some/model"),
        prompt="--not an option: ",
        limit=np.int64(7),
        keep=["lang", "date"],
        device=["cuda:0", "cuda:1"],
        max_failed_rows=0,
        revision=None,
    )
    assert seen["model"] == "some/model"
    assert seen["prompt"] == "--not an option: "
    assert seen["limit"] == 7
    assert seen["keep"] == ("lang", "date")
    assert seen["device"] == "cuda:0,cuda:1"
    assert seen["max_failed_rows"] == "0"
    assert seen["revision"] is None


def test_the_password_of_a_broker_is_not_among_the_words() -> None:
    assert "secret" not in " ".join(submit_words("in.csv", {"broker": "redis://:secret@host/0"}))
    assert parse(broker="")["broker"] == ""


def test_an_input_whose_name_looks_like_an_option_is_an_input() -> None:
    words = submit_words(["--json", Path("b.csv")], {})
    with command().make_context("submit", list(words)) as context:
        assert context.params["inputs"] == ("--json", "b.csv")
        assert context.params["as_json"] is False


@pytest.mark.parametrize(
    ("options", "said", "advice"),
    [
        ({"modle": "x"}, "no option 'modle'", "did you mean model?"),
        ({"xyzzy": 1}, "no option 'xyzzy'", "text_column"),
        ({"wait": True}, "no option 'wait'", "call wait()"),
        ({"add": "yes"}, "add is 'yes'", "True or False"),
        ({"prompt": ["a", "b"]}, "prompt is ['a', 'b']", "one value"),
        ({"limit": True}, "limit is True", "one value"),
        ({"dimensions": 2.5}, "dimensions is 2.5", "one value"),
    ],
)
def test_what_no_option_takes_is_refused_at_once(
    options: dict[str, Any], said: str, advice: str
) -> None:
    with pytest.raises(bei_jobs.UsageError) as refused:
        bei_jobs.submit("in.csv", **options)
    assert said in str(refused.value)
    assert advice in refused.value.hint

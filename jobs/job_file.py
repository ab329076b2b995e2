"""TOML job files: the options of `submit` by their names, and when a schedule runs them."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from jobs.placeholders import check_placeholders, has_placeholder
from pipeline.errors import UsageError

#: Keys that no option has: they say when a schedule runs the file.
SCHEDULE_KEYS = ("cron", "timezone", "catch-up")

# Options of `submit` that name the file itself, or another file of defaults.
_NOT_IN_FILES = frozenset({"job_file", "bei_config"})
# Options that name files and directories: relative to the directory of the job file.
_PATHS = frozenset({"inputs", "output", "report", "reuse_from", "stores"})


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a job file sets.

    Attributes:
        where: path or URI of the file, as messages name it.
        options: name of an option's parameter → value; paths are no longer relative.
        schedule: of SCHEDULE_KEYS, those that are set.
        relative_paths: whether any path was relative.
    """

    where: str
    options: dict[str, Any]
    schedule: dict[str, Any]
    relative_paths: bool

    @property
    def has_placeholders(self) -> bool:
        """Whether its options depend on the slot."""
        return any(map(has_placeholder, self.options.values()))


def load_toml(text: str, where: str) -> dict[str, Any]:
    """The keys and values of a job file.

    Raises:
        UsageError: it is not TOML, or it is nested too deeply or has a number of too many digits.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        from pipeline.store.stores_file import toml_problem  # stores take a moment to import

        problem = toml_problem(error)
        raise UsageError(
            f"the job file {where} cannot be read: {problem}",
            hint="repair it: it is TOML, with an option on each line, such as max-length = 256",
        ) from error


def parse_job_file(
    settings: dict[str, Any], where: str, params: Sequence[click.Parameter]
) -> JobFile:
    """Check the keys of a job file, and resolve its paths.

    Args:
        settings: from `load_toml`.
        where: path or URI of the file.
        params: of `submit`.

    Raises:
        UsageError: a key or a value that no option takes; the message names the file and the key.
    """
    known = keys_of(params)
    names = {**known, **{param.name or "": param for param in known.values()}}
    schedule = {key: settings[key] for key in SCHEDULE_KEYS if key in settings}
    options: dict[str, Any] = {}
    for key, value in settings.items():
        if key in schedule:
            continue
        param = names.get(key.replace("_", "-"), names.get(key.replace("-", "_")))
        if param is None or param.name is None:
            raise UsageError(
                f"{where} sets {key}, which `submit` does not have",
                hint=_advice(key, [*known, *SCHEDULE_KEYS]),
            )
        options[param.name] = _checked(value, key, where, takes_list(param))
    placed = _with_paths(options, where)
    return JobFile(where, placed, schedule, relative_paths=placed != options)


def keys_of(params: Sequence[click.Parameter]) -> dict[str, click.Parameter]:
    """Key of a job file → the parameter of `submit` that it sets."""
    keys = {}
    for param in params:
        long_names = [name for name in param.opts if name.startswith("--")]
        if param.name and param.name not in _NOT_IN_FILES:
            keys[long_names[0].removeprefix("--") if long_names else param.name] = param
    return keys


def takes_list(param: click.Parameter) -> bool:
    """Whether a parameter takes several values."""
    return param.nargs == -1 or (isinstance(param, click.Option) and param.multiple)


def _advice(key: str, known: list[str]) -> str:
    if close := difflib.get_close_matches(key.replace("_", "-"), known, n=1):
        return f"did you mean {close[0]}?"
    return f"give one of {', '.join(sorted(known))}"


def _checked(value: Any, key: str, where: str, takes_list: bool) -> Any:
    """The value, as a list where the option takes one."""
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float | bool) for item in items) or (
        isinstance(value, list) and not takes_list
    ):
        wanted = (
            "a list of strings"
            if takes_list
            else "one value, not a list or a table; several, where the option takes them, in one "
            'string such as "a,b"'
        )
        raise UsageError(f"{where} sets {key} to {value!r}", hint=f"give {wanted}")
    for item in items:
        if isinstance(item, str):
            try:
                check_placeholders(item)
            except UsageError as error:
                raise UsageError(
                    f"{where} sets {key} to {error.message}", hint=error.hint
                ) from error
    return items if takes_list else value


def _with_paths(options: dict[str, Any], where: str) -> dict[str, Any]:
    base = where.rpartition("/")[0] or ("/" if where.startswith("/") else ".")

    def placed(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [placed(name, each) for each in value]
        if not isinstance(value, str):
            return value
        if name in _PATHS or (name == "model" and _is_path(value, base)):
            return _beside(value, base, where, name)
        return value

    return {name: placed(name, value) for name, value in options.items()}


def _is_path(model: str, base: str) -> bool:
    """Whether a model is a directory beside the job file, and not a name on the hub."""
    return model.startswith(("./", "../")) or os.path.isdir(os.path.join(base, model))


def _beside(path: str, base: str, where: str, name: str) -> str:
    """A path of the job file, from the directory of the file."""
    if not path or "://" in path or "::" in path or path.startswith("/"):
        return path
    if "://" in base:
        return f"{base}/{path.removeprefix('./')}"
    placed = os.path.abspath(os.path.join(base, path))
    here = os.path.abspath(path)
    # Before 0.2 these paths were relative to the working directory.
    explicit = path.startswith(("./", "../"))
    if here != placed and not explicit and os.path.exists(here) and not os.path.exists(placed):
        raise UsageError(
            f"{where} sets {name.replace('_', '-')} to {path!r}, which is relative to the file: "
            f"{placed} does not exist, but {here} does",
            hint=f'write "{here}" for that one, or "./{path}" for the one beside the file',
        )
    return placed

"""Options that several commands share, and the ways to set them: line, environment, job file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from pipeline.errors import UsageError

#: Options of which a job file may give several values.
_LISTS = ("inputs", "keep")

Function = TypeVar("Function", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[Function], Function]:
    """A click option that BEI_JOBS_<OPTION> in the environment sets too."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "BEI_JOBS_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **settings)


def choice(kind: Any) -> click.Choice[str]:
    """The values of a Literal type."""
    return click.Choice(get_args(kind))


broker_option = option("--broker", metavar="URL", help="Redis of the fleet, redis://host:6379/0.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else there."
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
job_argument = click.argument("job", metavar="JOB")


def read_job_file(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    """Make a TOML job file the defaults of the command; line and environment win over it.

    Keys are the options' names without dashes in front; `inputs` lists the INPUT arguments.

    Raises:
        UsageError: the file cannot be read or names an option that does not exist.
    """
    if value is None:
        return None
    try:
        settings = tomllib.loads(value.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the job file {value} cannot be read: {error}") from error
    known = {param.name for param in ctx.command.params} - {"job_file", "bei_config"}
    defaults = {key.replace("-", "_"): setting for key, setting in settings.items()}
    for key, setting in defaults.items():
        items = setting if isinstance(setting, list) else [setting]
        if not all(isinstance(item, str | int | float | bool) for item in items) or (
            isinstance(setting, list) and key not in _LISTS
        ):
            raise UsageError(
                f"{value} sets {key.replace('_', '-')} to {setting!r}",
                hint="give one value; inputs and keep take lists of strings",
            )
    if unknown := sorted(set(defaults) - known):
        options = ", ".join(sorted(name.replace("_", "-") for name in known if name))
        raise UsageError(
            f"{value} sets {', '.join(unknown)}, which `{ctx.command.name}` does not have",
            hint=f"it has {options}",
        )
    ctx.default_map = layered(defaults, ctx.default_map or {})
    return value


def layered(over: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of two files. A revision belongs to the model beside it: where `over` names
    another model, the revision of `under` is left out.
    """
    kept = dict(under)
    if over.get("model", under.get("model")) != under.get("model"):
        kept.pop("revision", None)
    return {**kept, **over}


def own_revision(ctx: click.Context, model: str, revision: str | None) -> str | None:
    """A command's revision; None where a file gives it to another model than was asked for."""
    of_file = ctx.get_parameter_source("revision") is ParameterSource.DEFAULT_MAP
    beside = (ctx.default_map or {}).get("model", model)
    return None if of_file and beside != model else revision

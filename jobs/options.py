"""Options that several commands share, set on the command line, in the environment or a file."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from pipeline.errors import UsageError
from workers.logs import LogFormat, start_logging

# Options for which a job file may give several values.
_LISTS = ("inputs", "keep", "notify")

Function = TypeVar("Function", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[Function], Function]:
    """A click option that BEI_JOBS_<OPTION> in the environment sets too."""
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "BEI_JOBS_" + long_name.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **settings)


def choice(kind: Any) -> click.Choice[str]:
    """The values of a Literal type."""
    return click.Choice(get_args(kind))


broker_option = option(
    "--broker", metavar="URL", help="Redis of the fleet, such as redis://host:6379/0."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object to stdout, nothing else."
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print nothing when all is well.")


def _check_urls(_: click.Context, __: click.Parameter, urls: tuple[str, ...]) -> tuple[str, ...]:
    from jobs.webhooks import check_url  # http.client takes a moment to import

    for url in urls:
        check_url(url)
    return urls


notify_option = option(
    "--notify",
    multiple=True,
    metavar="URL",
    callback=_check_urls,
    help="POST a JSON object at start, done and failed; hc-ping.com gets /start and /fail.",
)
metrics_option = option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Serve Prometheus metrics on this port while work is done.",
)


def _start_logging(_: click.Context, __: click.Parameter, chosen: LogFormat) -> LogFormat:
    if chosen == "json":
        start_logging(chosen, {"jobs": logging.INFO})
    return chosen


log_option = option(
    "--log-format",
    type=choice(LogFormat),
    default="text",
    show_default=True,
    is_eager=True,
    callback=_start_logging,
    help="What is said on stderr: lines, or one JSON object each.",
)
job_argument = click.argument("job", metavar="JOB")


def _use_stores(_: click.Context, __: click.Parameter, value: str | None) -> None:
    from pipeline.store.sections import Stores, configure
    from workers.settings import load_stores

    configure(load_stores(value) if value else Stores())


#: Of every command: `jobs.cli` adds it.
stores_option = click.Option(
    ["--stores"],
    metavar="FILE",
    envvar="BEI_JOBS_STORES",
    show_envvar=True,
    expose_value=False,
    callback=_use_stores,
    help="TOML file with the options of stores by URI prefix.",
)


def read_job_file(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    """Use a TOML job file as defaults; the command line and the environment override it.

    Keys are option names without leading dashes; `inputs` lists the INPUT arguments.

    Raises:
        UsageError: the file cannot be read or names an option that does not exist.
    """
    if value is None:
        return None
    try:
        settings = tomllib.loads(value.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the job file {value} cannot be read: {error}") from error
    option_names = {param.name for param in ctx.command.params} - {"job_file", "bei_config"}
    defaults = {key.replace("-", "_"): setting for key, setting in settings.items()}
    if isinstance(defaults.get("notify"), str):
        defaults["notify"] = [defaults["notify"]]
    # Set before it is checked: where something else is wrong, its --notify is told.
    ctx.default_map = merge_defaults(ctx.default_map or {}, defaults)
    for key, setting in defaults.items():
        items = setting if isinstance(setting, list) else [setting]
        if not all(isinstance(item, str | int | float | bool) for item in items) or (
            isinstance(setting, list) and key not in _LISTS
        ):
            raise UsageError(
                f"{value} sets {key.replace('_', '-')} to {setting!r}",
                hint="give one value; only inputs, keep and notify take lists of strings",
            )
    if unknown := sorted(set(defaults) - option_names):
        options = ", ".join(sorted(name.replace("_", "-") for name in option_names if name))
        raise UsageError(
            f"{value} sets {', '.join(unknown)}, which `{ctx.command.name}` does not have",
            hint=f"give one of {options}",
        )
    return value


def merge_defaults(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the defaults of two files.

    A revision belongs to the model of its own file: where `override` names another model, the
    revision of `base` is dropped.
    """
    kept = dict(base)
    if override.get("model", base.get("model")) != base.get("model"):
        kept.pop("revision", None)
    return {**kept, **override}


def own_revision(ctx: click.Context, model: str, revision: str | None) -> str | None:
    """The revision to use; None where a file sets it for another model than the command's."""
    from_file = ctx.get_parameter_source("revision") is ParameterSource.DEFAULT_MAP
    model_of_file = (ctx.default_map or {}).get("model", model)
    return None if from_file and model_of_file != model else revision

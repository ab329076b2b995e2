"""Options that several commands share, set on the command line, in the environment or a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from jobs.job_file import load_toml, parse_job_file
from pipeline.errors import UsageError
from workers.logs import LogFormat, start_logging

Function = TypeVar("Function", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[Function], Function]:
    """A click option that BEI_JOBS_<OPTION> in the environment sets too."""
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "BEI_JOBS_" + long_name.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **settings)


def choice(kind: Any) -> click.Choice[str]:
    """The values of a Literal type."""
    return click.Choice(get_args(kind))


class JobFileOnly:
    """The object of a context that checks a job file for another process to run.

    What the file sets is none of this process's business: its options have no effects here.
    """


class Several(click.ParamType[tuple[Any, ...]]):
    """Values of one kind, separated by commas; a single one is given as it is.

    Args:
        kind: of each value.
    """

    name = "text"

    def __init__(self, kind: click.ParamType[Any]) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """The values."""
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        return tuple(self.kind.convert(word.strip(), param, ctx) for word in words)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """What the value after the last comma may become."""
        before, comma, begun = incomplete.rpartition(",")
        items = self.kind.shell_complete(ctx, param, begun)
        return [CompletionItem(f"{before}{comma}{item.value}") for item in items]


broker_option = option(
    "--broker", metavar="URL", help="Redis of the fleet, such as redis://host:6379/0."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object to stdout, nothing else."
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print nothing when all is well.")


def _check_urls(_: click.Context, __: click.Parameter, urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        from jobs.webhooks import check_url  # http.client takes a moment to import

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


def _start_logging(ctx: click.Context, _: click.Parameter, chosen: LogFormat) -> LogFormat:
    from_file = ctx.get_parameter_source("log_format") is ParameterSource.DEFAULT_MAP
    if chosen == "json" and not (from_file and isinstance(ctx.obj, JobFileOnly)):
        start_logging(chosen, {"jobs": logging.INFO})
    return chosen


log_option = option(
    "--log-format",
    type=choice(LogFormat),
    default="text",
    show_default=True,
    is_eager=True,
    callback=_start_logging,
    help="Format of stderr: plain lines, or one JSON object per line.",
)
job_argument = click.argument("job", metavar="JOB")


def _use_stores(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if isinstance(ctx.obj, JobFileOnly):
        return
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
        UsageError: the file cannot be read, names an option that does not exist, or waits for the
            slot of a schedule.
    """
    if value is None:
        return None
    try:
        text = value.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the job file {value} cannot be read: {error}") from error
    settings = load_toml(text, str(value))
    if settings.get("json") is True:
        ctx.ensure_object(dict)["json"] = True  # errors are printed outside of any context
    if urls := _urls(settings.get("notify")):
        # Set before the file is checked: where something is wrong, they are told.
        ctx.default_map = merge_defaults(ctx.default_map or {}, {"notify": urls})
    job_file = parse_job_file(settings, str(value), ctx.command.params)
    if job_file.has_placeholders:
        raise UsageError(
            f"{value} holds {{slot}}, the time that a schedule runs it for",
            hint=f"run it with `bei-jobs backfill {value} --from last`, or as a schedule",
        )
    ctx.default_map = merge_defaults(ctx.default_map or {}, job_file.options)
    return value


def _urls(value: object) -> list[str]:
    """The URLs of --notify in a job file that may be wrong in any way."""
    urls = value if isinstance(value, list) else [value]
    return [url for url in urls if isinstance(url, str)]


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

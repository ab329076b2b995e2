"""Schedules: the job files of a directory that have a `cron`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast, get_args

import click
from click.core import ParameterSource

from jobs.cli import cli
from jobs.job_file import JobFile, load_toml, parse_job_file
from jobs.options import JobFileOnly
from jobs.placeholders import fill, has_placeholder
from jobs.schedules.cron import Cron
from jobs.usage_errors import explained
from pipeline.errors import BeiJobsError, NotFound, UsageError
from pipeline.planning.default_output import default_output
from pipeline.spec import digest
from pipeline.store.directory import Directory
from pipeline.store.sections import Stores, configured
from pipeline.store.uris import absolute, detail, is_local, refuse_credentials
from workers.settings import load_stores

logger = logging.getLogger(__name__)

CatchUp = Literal["last", "all"]

_SUFFIX = ".toml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH_CHARS = 8


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job file that runs by itself.

    Attributes:
        name: the name of its file, without the suffix.
        where: path or URI of the file.
        text: of the file.
        cron: when it is due.
        catch_up: which missed slots run: the last one, or all.
        options: of `submit`, with placeholders.
        output: URI, with placeholders.
        broker: where it runs, from the file or the environment; None for this machine.
        stores: what its slots, and their records, open stores with.
        relative_paths: whether the file names paths from where it lies.
    """

    name: str
    where: str
    text: str
    cron: Cron
    catch_up: CatchUp
    options: Mapping[str, Any]
    output: str
    broker: str | None
    stores: Stores
    relative_paths: bool

    @property
    def one_output(self) -> bool:
        """Whether all slots have the same output."""
        return not has_placeholder(self.output)

    @property
    def depends_on_slot(self) -> bool:
        """Whether a run needs to know its slot."""
        return any(map(has_placeholder, self.options.values())) or not self.one_output

    @property
    def home(self) -> tuple[Directory, str]:
        """Where its slots are recorded: a directory, and the prefix of their names.

        In the output. Where every slot has its own, beside them, under a name that no input has;
        other outputs, other records.
        """
        if self.one_output:
            return Directory(self.output), f"_bei/slots/{self.name}/"
        parent = self.output.partition("{slot")[0].rpartition("/")[0]
        own = digest(self.output[len(parent) :])[:_HASH_CHARS]
        return Directory(f"{parent or '/'}/_slots"), f"{self.name}-{own}/"

    def job_of(self, slot: datetime) -> dict[str, Any]:
        """The options of one slot's `submit`, its output and its stores file among them."""
        options = {**self.options, "output": self.output}
        options.pop("stores", None)
        filled = fill(options, slot.astimezone(self.cron.zone))
        return {**filled, "stores": self.stores.file} if self.stores.file else filled


@dataclass(frozen=True, slots=True)
class Listing:
    """What a directory of schedules holds.

    Attributes:
        schedules: in the order of their names.
        refused: name of a file → why it is no valid schedule.
        plain: files without `cron`: nothing runs them by itself.
    """

    schedules: tuple[Schedule, ...]
    refused: Mapping[str, BeiJobsError]
    plain: tuple[str, ...]


def read_schedules(directory: str) -> Listing:
    """Read the job files in a directory of any store; a bad file does not stop the others.

    Raises:
        StorageError: the directory cannot be listed, or is not there.
        UsageError: its URI holds a password.
    """
    refuse_credentials(directory)
    folder = Directory(directory)
    if is_local(folder.uri) and not os.path.isdir(folder.uri):
        raise NotFound(f"{folder.uri} is not a directory", hint="give the one that holds job files")
    schedules, plain = [], []
    refused: dict[str, BeiJobsError] = {}
    for item in folder.list():
        if not item.name.endswith(_SUFFIX) or item.name.startswith((".", "_")):
            continue
        try:
            schedule = read_schedule(folder.uri_of(item.name))
        except BeiJobsError as error:
            refused[item.name] = error
            continue
        except Exception as error:
            # A fault of this program over one file: that, too, is no reason to stop the others.
            logger.debug("%s", item.name, exc_info=True)
            refused[item.name] = UsageError(
                f"{item.name} cannot be read: {type(error).__name__}: {detail(error, folder.uri)}",
                hint="this is an error of bei-jobs itself; other files are not affected",
            )
            continue
        if schedule is None:
            plain.append(item.name)
        else:
            schedules.append(schedule)
    return Listing(tuple(schedules), refused, tuple(plain))


def read_schedule(file: str) -> Schedule | None:
    """Read and check one job file of any store; None if it has no `cron`.

    Raises:
        UsageError: a key or a value is wrong; the message names the file.
        StorageError: it cannot be read.
    """
    where = absolute(file)
    folder, _, name = where.rpartition("/")
    data = Directory(folder or "/").read(name)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the job file {where} cannot be read: {error}") from error
    submit = cli.get_command(click.Context(cli), "submit")
    assert submit is not None
    job_file = parse_job_file(load_toml(text, where), where, submit.params)
    if "cron" not in job_file.schedule:
        return None
    try:
        return _schedule(name.removesuffix(_SUFFIX), job_file, text, submit)
    except click.UsageError as error:
        usage = explained(error)
        raise UsageError(f"{where}: {usage.message}", hint=usage.hint) from error
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from error


def _schedule(name: str, job_file: JobFile, text: str, submit: click.Command) -> Schedule:
    if not _NAME.fullmatch(name):
        raise UsageError(
            "the name of a schedule's file becomes part of other names",
            hint="use letters, digits, dots, dashes and underscores, 64 at most",
        )
    settings = {"timezone": "UTC", "catch-up": "last", **job_file.schedule}
    for key, value in settings.items():
        if not isinstance(value, str):
            raise UsageError(f"{key} is {value!r}", hint="give a text in quotes")
    if settings["catch-up"] not in get_args(CatchUp):
        raise UsageError(f"catch-up is {settings['catch-up']!r}", hint='give "last" or "all"')
    # As `submit` itself reads them: environment, types and defaults included.
    given = dict(job_file.options)
    with submit.make_context("submit", [], default_map=given, obj=JobFileOnly()) as context:
        params = context.params
        own_stores = context.get_parameter_source("stores") is ParameterSource.DEFAULT_MAP
    if not params["inputs"]:
        raise UsageError("it names no inputs", hint='such as inputs = ["s3://bucket/articles/"]')
    output = params["output"] or default_output(params["inputs"], params["task"])
    refuse_credentials(output)
    if "/" not in output.partition("{slot")[0].partition("://")[2] and "://" in output:
        raise UsageError(
            f"output {output!r} has no directory before its slot",
            hint="the slots are recorded there: s3://bucket/articles/{slot:%F}",
        )
    return Schedule(
        name=name,
        where=job_file.where,
        text=text,
        cron=Cron(settings["cron"], settings["timezone"]),
        catch_up=cast(CatchUp, settings["catch-up"]),
        options=job_file.options,
        output=absolute(output),
        broker=params["broker"] or None,
        stores=load_stores(str(given["stores"])) if own_stores else configured(),
        relative_paths=job_file.relative_paths,
    )

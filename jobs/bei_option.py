"""`--bei-config`: a deployment's config.yaml as defaults; `jobs.bei_config` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from jobs.options import merge_defaults
from pipeline.choice import Choices

if TYPE_CHECKING:
    from jobs.bei_config import BeiConfig

_META = "jobs.bei_config"


def read_bei_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    """Use a deployment's config.yaml as defaults; every other source of options overrides it."""
    if value is not None:
        from jobs.bei_config import load_bei_config  # yaml and the tasks take a moment to import

        config = ctx.meta[_META] = load_bei_config(value)
        ctx.default_map = merge_defaults(config.options, ctx.default_map or {})
    return value


def bei_config_choices(ctx: click.Context) -> Choices:
    """What the user is told of the config.yaml of a command, if it has one.

    Raises:
        UsageError: its checkpoint is where bei-jobs cannot read it, and no --model was given.
    """
    config: BeiConfig | None = ctx.meta.get(_META)
    if config is None:
        return {}
    if ctx.get_parameter_source("model") is ParameterSource.DEFAULT:
        raise config.needs_model()
    return config.choices

"""`bei-jobs plan`: what a submit would do and cost, before it is spent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from jobs.bei_option import bei_config_choices
from jobs.options import option
from jobs.pages.words import size
from jobs.submit_options import make_request, submit_options
from pipeline.store.uris import redact

if TYPE_CHECKING:
    from jobs.display import Display
    from pipeline.choice import Choices
    from pipeline.planning.draft import Draft
    from pipeline.planning.estimate import Estimate
    from workers.rates import Rate
    from workers.settings import Settings

# A progress bar is worth it from so many rows on.
_BAR_ROWS = 50_000
_BAR_CHARS = 30


@click.command(name="plan")
@submit_options
@click.option("--exact", is_flag=True, help="Tokenize every text, however many there are.")
@option("--price-per-hour", type=click.FloatRange(min=0), metavar="AMOUNT", help="Of this machine.")
def command(
    inputs: tuple[str, ...],
    broker: str | None,
    wait: bool,
    device: str | None,
    notify: tuple[str, ...],
    metrics_port: int | None,
    report: str | None,
    log_format: str,
    as_json: bool,
    quiet: bool,
    exact: bool,
    price_per_hour: float | None,
    **options: Any,
) -> int:
    """Say what `submit` with the same options would do and cost. Nothing is written but the cache.

    Rows and tokens are those that the run will report. The time is that of this machine, whether a
    broker is named or not: it comes from the last run of the same model and options here, or from a
    measurement of a few seconds, which is kept.
    """
    from jobs.display import Display, downloads_said
    from jobs.progress_bar import ProgressBar
    from jobs.record import files_json, tables_json
    from jobs.summary import choices_json
    from pipeline.planning.draft import draft
    from pipeline.planning.estimate import estimate
    from workers.devices import device_choices, find_devices
    from workers.settings import load_settings

    display = Display(as_json=as_json, quiet=quiet)
    display.show_choices(bei_config_choices(click.get_current_context()))
    settings, devices = load_settings(), find_devices(device)
    with downloads_said(display.say):
        drafted = draft(make_request(inputs, options), settings.cache_dir)
    display.show_choices({**drafted.choices, **device_choices(devices)})
    display.show_skipped(drafted.planned.skipped)
    display.show_ignored(drafted.planned.ignored)
    if broker and not quiet:
        click.echo("the time is that of this machine: no worker of the broker is asked", err=True)
    spec = drafted.spec
    kept = drafted.kept_precision()
    precision = kept.value if kept else spec.precision
    rows = drafted.plan.rows
    with ProgressBar(rows, quiet=quiet or rows < _BAR_ROWS) as bar:
        found = estimate(drafted, precision, exact=exact, on_rows=bar.add)
    rate = None
    if found.tokens_computed:
        rate, choices = _rate(drafted, found, devices.names, settings, precision, display)
        display.show_choices({**choices, **({"precision": kept} if kept else {})})
    seconds = _seconds(found, rate)
    price = None
    if price_per_hour is not None and seconds is not None:
        price = seconds / 3600 * price_per_hour
    if as_json:
        answer = _report(found, rate, seconds, price)
        answer["files"] |= files_json(drafted.planned.skipped, drafted.planned.ignored)
        if drafted.planned.tables:
            answer["files"]["tables"] = tables_json(drafted.planned.tables)
        click.echo(json.dumps({**answer, "choices": choices_json(display.choices or {})}))
    else:
        click.echo(f"plan  {spec.task} with {redact(spec.model.name)}")
        for line in _page(found, rate, seconds, price):
            click.echo(f"  {line}")
        click.echo(f"  output    {redact(drafted.output.uri)}, nothing is written yet")
    return 0


def _rate(
    drafted: Draft,
    found: Estimate,
    devices: tuple[str, ...],
    settings: Settings,
    precision: str,
    display: Display,
) -> tuple[Rate | None, Choices]:
    """How fast this machine would be, and what an engine chose if one had to be loaded."""
    from jobs.speed import calibrated
    from pipeline.planning.choices import not_set_by_user
    from pipeline.planning.estimate import sample_rows
    from workers.rates import Rates

    if (known := Rates(settings.state_dir).find(drafted.spec.space, devices)) is not None:
        return known, {}
    mean_tokens = found.tokens_computed / max(1, found.computed)
    rate, choices = calibrated(
        drafted.spec.computed_in(precision),
        drafted.card,
        mean_tokens,
        devices,
        settings,
        lambda rows: sample_rows(drafted, found, rows),
        display,
    )
    return rate, not_set_by_user(choices, drafted.spec)


def _seconds(found: Estimate, rate: Rate | None) -> float | None:
    """How long the run would take; None if it cannot be told."""
    if not found.tokens_computed:
        return 0.0
    if rate is None:
        return None
    return rate.loading_seconds + found.tokens_computed / rate.tokens_per_second


def _report(
    found: Estimate, rate: Rate | None, seconds: float | None, price: float | None
) -> dict[str, Any]:
    """The JSON object; of `rows` and `tokens`, what the run would report."""
    from pipeline.output.record import KINDS

    return {
        "files": {
            "total": found.files,
            **{kind: getattr(found.changes, kind) for kind in KINDS},
            "unchanged": found.unchanged,
        },
        "rows": {
            "total": found.rows,
            "computed": found.computed,
            "reused": found.reused,
            "deduplicated": found.deduplicated,
            "failed": found.failed,
        },
        "tokens": {
            "total": found.tokens,
            "computed": found.tokens_computed,
            "low": found.tokens_low,
            "high": found.tokens_high,
            "exact": found.exact,
        },
        "lengths": [{"up_to": most, "rows": rows} for most, rows in found.lengths],
        "truncated": found.truncated,
        **({"tokens_cut": found.cut} if found.truncated and found.cut is not None else {}),
        **({"chunks": found.chunks} if found.chunks else {}),
        "blank": found.blank,
        "shards": found.shards,
        "bytes": found.bytes,
        "seconds": None if seconds is None else round(seconds, 3),
        "rate": None if rate is None else asdict(rate),
        "price": None if price is None else round(price, 4),
    }


def _page(
    found: Estimate, rate: Rate | None, seconds: float | None, price: float | None
) -> Iterator[str]:
    """The lines that a person reads."""
    changes = found.changes
    renamed = f"{changes.renamed:,} renamed, " if changes.renamed else ""
    yield (
        f"files     {found.files:,}: {changes.new:,} new, {changes.changed:,} changed, {renamed}"
        f"{found.unchanged:,} unchanged; {changes.gone:,} gone"
    )
    yield (
        f"rows      {found.rows:,}: {found.computed:,} to compute, {found.reused:,} reused, "
        f"{found.deduplicated:,} duplicates, {found.failed:,} without a result"
    )
    if not found.missing:
        yield "nothing to do: every row of these inputs is already computed"
        return
    if found.exact:
        yield f"tokens    {found.tokens:,}, {found.tokens_computed:,} to compute"
    else:
        yield (
            f"tokens    about {found.tokens:,} ({found.tokens_low:,} to {found.tokens_high:,}), "
            f"about {found.tokens_computed:,} to compute; --exact counts them all"
        )
    yield from _bars(found.lengths)
    yield (
        f"texts     {_share(found.truncated, found.rows)} truncated; of {found.read:,} in new and "
        f"changed files {_share(found.blank, found.read)} blank, "
        f"{_share(found.deduplicated, found.read)} duplicates"
    )
    about = "" if found.exact else "about "
    if found.truncated and found.cut:
        yield f"cut off   {about}{found.cut:,} tokens of {found.truncated:,} truncated texts"
    if found.chunks:
        yield f"chunks    {about}{found.chunks:,} rows in the output"
    yield f"shards    {found.shards:,}, {found.missing:,} to write; {size(found.bytes)} in all"
    if rate is not None and seconds is not None:
        yield (
            f"time      {_duration(seconds)}: {rate.tokens_per_second:,.0f} tokens/s "
            f"({rate.source}), and {rate.loading_seconds:.1f} s to load the model"
        )
    elif seconds == 0:
        yield "time      no model is needed: rows are copied"
    if price is not None:
        yield f"price     {price:,.2f}"


def _bars(lengths: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """A line for each length of the rows to compute."""
    most = max((rows for _, rows in lengths), default=0)
    for number, (up_to, rows) in enumerate(lengths):
        head = "" if number else "lengths"
        bar = "█" * round(rows / most * _BAR_CHARS)
        yield f"{head:<10}up to {up_to:>7,} tokens {rows:>13,}  {bar}".rstrip()


def _share(rows: int, total: int) -> str:
    return f"{rows / total:.1%}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

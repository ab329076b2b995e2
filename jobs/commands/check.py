"""`bei-jobs check`: trust in a precision, before a week of GPU time."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import resources
from typing import Any

import click

from jobs.options import choice, json_option, option
from pipeline.spec import Precision
from pipeline.tasks import TASKS


@click.command(name="check")
@click.argument("model", metavar="MODEL")
@option("--task", type=click.Choice(list(TASKS)), help="Default: what the model can do.")
@option("--revision", help="Branch, tag or commit of a model on the hub.")
@click.option("--sample", metavar="FILE", help="Texts of your own; default: a hundred of ours.")
@option("--text-column", default="text", show_default=True)
@option("--precision", type=choice(Precision), default="auto", show_default=True)
@option("--max-length", type=click.IntRange(min=1), help="Tokens. Default: the model's.")
@option("--device", metavar="NAME", help="cpu, cuda or cuda:N. Default: the first CUDA, or cpu.")
@click.option("--rows", type=click.IntRange(min=1), default=500, show_default=True)
@json_option
def command(
    model: str,
    sample: str | None,
    text_column: str,
    device: str | None,
    rows: int,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a sample through MODEL in the job's precision and in float32, and compare."""
    from pipeline.compare_precision import compare_precision
    from pipeline.encoder.card import open_card
    from pipeline.planning.make_spec import sample_spec
    from pipeline.tasks import task_of
    from workers.devices import find_devices
    from workers.settings import load_settings

    texts = _texts(sample, text_column, rows)
    card = open_card(model, options.pop("revision"), cache_dir=load_settings().cache_dir)
    spec = sample_spec(card, task_of(card, options.pop("task")).name, **options)
    found = compare_precision(card, spec, texts, find_devices(device).names[0])
    if as_json:
        click.echo(json.dumps({"model": model, "task": spec.task, **asdict(found)}))
    else:
        click.echo(f"{model}: {spec.task} in {found.precision} on {found.device}, beside float32")
        click.echo(f"  {found.rows} outputs, {found.tokens:,} tokens")
        for name, value in found.cosine.items():
            click.echo(f"  cosine {name:<7}{value:.6f}")
        if found.width == 1:
            click.echo("  outputs are one logit each, which has no cosine")
            for name, value in found.difference.items():
                click.echo(f"  difference {name:<7}{value:.2e}")
        else:
            click.echo(f"  largest difference {found.largest_difference:.2e}")
        click.echo(f"  not finite {found.not_finite}")
    return 1 if found.not_finite else 0


def _texts(sample: str | None, column: str, rows: int) -> list[str]:
    """The first rows of a file of any format that jobs read, or our own hundred texts."""
    if sample is None:
        lines = resources.files("jobs.commands").joinpath("sample.jsonl").read_text().splitlines()
        return [json.loads(line)["text"] for line in lines][:rows]
    from pipeline.errors import InputError
    from pipeline.input.cutting import plan_inputs
    from pipeline.input.reading import read
    from pipeline.store.uris import redact
    from pipeline.tokenize.texts import text_values

    planned = plan_inputs([sample], columns=(), text_columns=(column,), output_columns=())
    texts: list[str] = []
    for file, cuts in planned.files:
        for _, batch in read(file, cuts, planned.schema, 1024):
            texts += [text for text in text_values(batch.column(column))[0] if text]
            if len(texts) >= rows:
                return texts[:rows]
    if not texts:
        raise InputError(f"no text in {redact(sample)}", hint="give a file with texts in it")
    return texts

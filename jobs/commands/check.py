"""`bei-jobs check`: prove on a sample what a job will compute, before a week of GPU time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, Any

import click

from jobs.options import choice, json_option, option
from pipeline.request import TASK_NAMES
from pipeline.spec import Precision

if TYPE_CHECKING:
    from pipeline.check.precision import PrecisionComparison
    from pipeline.output.certificate import Proof


@click.command(name="check")
@click.argument("model", metavar="MODEL")
@option("--task", type=click.Choice(TASK_NAMES), help="Default: the task of the model's head.")
@option("--revision", help="Branch, tag or commit of a model on the hub.")
@click.option("--sample", metavar="FILE", help="Your own texts. Default: 100 built-in ones.")
@option("--text-column", default="text", show_default=True)
@option("--precision", type=choice(Precision), default="auto", show_default=True)
@option("--max-length", type=click.IntRange(min=1), help="Maximum tokens. Default: the model's.")
@option("--device", metavar="NAME", help="cpu, cuda or cuda:N. Default: the first GPU, or cpu.")
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
    """Prove on a sample what a job with MODEL will compute.

    The job's precision is compared with float32; a row's values are the same alone, among others,
    in another order and at another token budget; tokens and values are those of transformers and
    sentence-transformers. The certificate is kept, and `submit` records it with its runs.
    """
    from jobs.cli import say
    from jobs.display import downloads_said
    from jobs.record import certificate_json
    from pipeline.check.prove import check_model
    from pipeline.encoder.card import open_card
    from pipeline.output.certificate import write_certificate
    from pipeline.planning.make_spec import sample_spec
    from pipeline.tasks import task_of
    from workers.devices import find_devices
    from workers.settings import load_settings

    texts = _texts(sample, text_column, rows)
    cache_dir = load_settings().cache_dir
    with downloads_said(say):
        card = open_card(model, options.pop("revision"), cache_dir=cache_dir)
    spec = sample_spec(card, task_of(card, options.pop("task")).name, **options)
    name = find_devices(device).names[0]
    count = f"{len(texts):,} text{'s' * (len(texts) > 1)}"
    say(f"{'comparing':<16} {count} in {spec.precision} and in float32 on {name} …")
    checked = check_model(card, spec, texts, name, cache_dir)
    comparison, certificate = checked.comparison, checked.certificate
    write_certificate(cache_dir, certificate)
    if as_json:
        about = {"model": model, "task": spec.task, "certificate": certificate_json(certificate)}
        click.echo(json.dumps({**about, **asdict(comparison)}))
    else:
        click.echo(
            f"{model}: {spec.task} on {comparison.device}, {comparison.precision} against float32"
        )
        for line in (*_distribution(comparison), *map(_in_words, certificate.proofs)):
            click.echo(f"  {line}")
        click.echo(f"  certificate {certificate.digest}")
    return 0 if certificate.passed else 1


def _distribution(comparison: PrecisionComparison) -> Iterator[str]:
    yield f"{comparison.rows} outputs, {comparison.tokens:,} tokens"
    for name, value in comparison.cosine.items():
        yield f"cosine {name:<7}{value:.6f}"
    if comparison.width == 1:
        yield "outputs are one logit each, so there is no cosine"
        for name, value in comparison.difference.items():
            yield f"difference {name:<7}{value:.2e}"
    else:
        yield f"largest difference {comparison.largest_difference:.2e}"
    yield f"not finite {comparison.not_finite}"


def _in_words(proof: Proof) -> str:
    outcome = {True: "holds", False: "FAILS", None: "not tried"}[proof.passed]
    on = f" on {proof.rows} rows" if proof.rows else ""
    words = [proof.note] if proof.note else []
    words += [f"{name} {value:.7g}" for name, value in proof.measured.items()]
    return f"{proof.name}: {outcome}{on}" + (f" ({', '.join(words)})" if words else "")


def _texts(sample: str | None, column: str, rows: int) -> list[str]:
    """The first texts of a file in any input format, or of the 100 built-in ones."""
    if sample is None:
        lines = resources.files("jobs.commands").joinpath("sample.jsonl").read_text().splitlines()
        return [json.loads(line)["text"] for line in lines][:rows]
    from pipeline.errors import InputError
    from pipeline.input.cutting import plan_inputs
    from pipeline.input.reading import read
    from pipeline.input.wanted import Wanted
    from pipeline.store.uris import redact
    from pipeline.tokenize.texts import text_values

    wanted = Wanted(columns=(), text_columns=(column,), output_columns=())
    planned = plan_inputs([sample], wanted)
    texts: list[str] = []
    for file, cuts in planned.files:
        for _, batch in read(file, cuts, planned.schema, 1024):
            texts += [text for text in text_values(batch.column(column))[0] if text]
            if len(texts) >= rows:
                return texts[:rows]
    if not texts:
        raise InputError(f"no text in {redact(sample)}", hint="give a file that contains texts")
    return texts

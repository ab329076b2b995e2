"""`bei-jobs models`: list the tested models, or describe a checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from jobs.options import json_option, option
from pipeline.request import TASK_NAMES

if TYPE_CHECKING:
    from pipeline.encoder.architecture.encoder_config import EncoderConfig
    from pipeline.encoder.architecture.sparse_head import SparseHead
    from pipeline.encoder.card import ModelCard
    from pipeline.encoder.checkpoint.modules import TextReading

# Keys of the JSON that the text shows in a form of their own.
_SHOWN_APART = ("encoder", "modules", "prompts", "labels", "tensors", "unused_tensors")


@click.command(name="models")
@click.argument("model", metavar="[MODEL]", required=False)
@option("--task", type=click.Choice(TASK_NAMES), help="Default: the task of the model's head.")
@option("--revision", help="Branch, tag or commit of a model on the hub.")
@json_option
def command(model: str | None, task: str | None, revision: str | None, as_json: bool) -> None:
    """List the tested checkpoints, or describe MODEL (a hub name, directory or URI)."""
    if model is None:
        _list(as_json)
        return
    from jobs.cli import say
    from jobs.display import downloads_said
    from jobs.summary import choices_json
    from pipeline.encoder.card import open_card
    from pipeline.tasks import task_of
    from workers.devices import local_choices
    from workers.settings import load_settings

    cache_dir = load_settings().cache_dir
    with downloads_said(say):
        card = open_card(model, revision, cache_dir=cache_dir)
    chosen = task_of(card, task)
    description = card.to_json(chosen.name) | chosen.identity(card)
    choices = local_choices(card, revision=revision, cache_dir=cache_dir)
    if as_json:
        click.echo(json.dumps(description | {"choices": choices_json(choices)}))
        return
    for key, value in description.items():
        if key not in _SHOWN_APART:
            click.echo(f"{key:<20} {_text(value)}")
    for key, value in _shape(card):
        click.echo(f"{key:<20} {value}")
    for name, prompt in card.modules.prompts.items():
        click.echo(f"{'prompt ' + name:<20} {prompt!r}")
    if card.labels:
        click.echo(f"{'labels':<20} {', '.join(card.labels)}")
    if card.unused_tensors:
        click.echo(f"{'unused tensors':<20} {', '.join(card.unused_tensors)}")
    for name, choice in choices.items():
        click.echo(f"{name:<20} {choice.value}: {choice.reason}")


def _shape(card: ModelCard) -> Iterator[tuple[str, str]]:
    """The encoder in words; of one that transformers computes, only what its config says."""
    config = card.config
    if config.static:
        yield "table", f"{config.vocab_size:,} tokens of {config.hidden_size:,} values"
    else:
        yield "layers", str(config.layers)
        yield "hidden size", f"{config.hidden_size:,}"
        keys = "" if config.kv_heads == config.heads else f", {config.kv_heads} for keys"
        yield "heads", f"{config.heads}{keys}"
    if card.matched is None or config.static:
        yield "tensors", f"{card.tensors:,}"
    else:
        yield from _experts(config)
        yield "attention", "causal" if config.causal else "bidirectional"
        yield from _windows(config)
        yield "positions", _positions(config)
        unused = len(card.unused_tensors)
        yield "tensors", f"{card.tensors - unused:,} matched, {unused:,} unused"
    if "dense" in card.vectors:
        yield "after pooling", ", ".join(card.modules.step_names) or "nothing"
    if card.sparse is not None:
        yield "sparse", _sparse(card.sparse, config.vocab_size)
    if card.multi is not None:
        from pipeline.tasks.maxsim_options import maxsim_in_words

        yield "multi", f"{card.multi.dimensions:,} values for each token"
        if card.multi.tells_apart:
            yield "query", _reading(card.multi.query)
            yield "document", _reading(card.multi.document)
        yield "rerank", maxsim_in_words(card)


def _sparse(head: SparseHead, terms: int) -> str:
    """How the weights of terms are computed, in words."""
    if head.kind == "table":
        return f"a table of the weights of {terms:,} terms"
    if head.kind == "tokens":
        return f"the largest weight among a term's tokens, of {terms:,} terms"
    logarithms = "log(1 + " * (2 if head.activation == "log1p_relu" else 1)
    formula = f"{logarithms}relu(logit){')' * logarithms.count('(')}"
    return f"{head.pooling} over tokens of {formula}, of {terms:,} terms"


def _reading(reading: TextReading) -> str:
    """How a text becomes vectors of its tokens, in words."""
    expansion = reading.expansion
    words = [] if reading.length is None else [f"at most {reading.length:,} tokens"]
    if expansion is not None:
        seen = "which its tokens see" if expansion.attended else "which its tokens do not see"
        fill = f"filled up to {expansion.length:,} with {expansion.token or 'masks'}, {seen}"
        words = [fill] if expansion.fixed else [*words, fill]
    if reading.skipped:
        words.append(f"no vector for {len(reading.skipped)} tokens such as {reading.skipped[0]}")
    return "; ".join(words) or "every token"


def _windows(config: EncoderConfig) -> Iterator[tuple[str, str]]:
    """How far layers with an attention window see; one line per distance."""
    side = "back" if config.causal else "on either side"
    for distance, layers in Counter(config.windows).items():
        if distance is not None:
            yield "window", f"{distance:,} tokens {side} in {layers} of {config.layers} layers"


def _experts(config: EncoderConfig) -> Iterator[tuple[str, str]]:
    if (experts := config.experts) is not None:
        layers = sum(config.has_experts(layer) for layer in range(config.layers))
        yield (
            "experts",
            f"{experts.active} of {experts.count} per token in {layers} of {config.layers} layers",
        )


def _positions(config: EncoderConfig) -> str:
    kinds = [f"rotary of base {theta:,.0f}" for theta in {rope.theta: 0 for rope in config.ropes}]
    if rows := config.position_table:
        kinds.append(f"learned, {rows:,}")
    if buckets := config.relative_buckets:
        kinds.append(f"relative bias of {buckets} buckets")
    if config.alibi:
        kinds.append("ALiBi")
    return " and ".join(kinds)


def _list(as_json: bool) -> None:
    from pipeline.encoder.architecture.tested_models import TESTED_MODELS

    if as_json:
        click.echo(
            json.dumps(
                {
                    "models": [
                        {"name": model.name, "task": model.task, "family": model.family}
                        for model in TESTED_MODELS
                    ]
                }
            )
        )
        return
    for model in TESTED_MODELS:
        click.echo(f"{model.task:<9} {model.family:<14} {model.name}")
    click.echo(
        "\nThese are tested. Other checkpoints of a family load as well, or fail with a reason."
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

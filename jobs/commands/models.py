"""`bei-jobs models`: what runs, and what a checkpoint resolves to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from jobs.options import choice, json_option, option
from pipeline.spec import TaskName

_LEFT_OUT = ("encoder", "modules", "prompts", "labels", "tensors", "unused_tensors")


@click.command(name="models")
@click.argument("model", metavar="[MODEL]", required=False)
@option("--task", type=choice(TaskName), help="Default: what the model can do.")
@option("--revision", help="Branch, tag or commit of a model on the hub.")
@json_option
def command(model: str | None, task: str | None, revision: str | None, as_json: bool) -> None:
    """The checkpoints known to work; of MODEL (a name, directory or URI), what it resolves to."""
    if model is None:
        _list(as_json)
        return
    from pipeline.planning.resolve_model import resolve_model
    from workers.settings import load_settings

    checkpoint, facts = resolve_model(model, revision, task, load_settings().cache_dir)
    facts["path"] = str(checkpoint.path)
    if as_json:
        click.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        if key not in _LEFT_OUT:
            click.echo(f"{key:<20} {_text(value)}")
    for key, value in _shape(facts):
        click.echo(f"{key:<20} {value}")
    for name, prompt in (facts.get("prompts") or {}).items():
        click.echo(f"{'prompt ' + name:<20} {prompt!r}")
    if labels := facts.get("labels"):
        click.echo(f"{'labels':<20} {', '.join(labels)}")
    if unused := facts.get("unused_tensors"):
        click.echo(f"{'unused tensors':<20} {', '.join(unused)}")


def _shape(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the encoder is, in words; of one that transformers computes, what is known here."""
    encoder = facts["encoder"]
    yield "layers", str(encoder["layers"])
    yield "hidden size", f"{encoder['hidden_size']:,}"
    keys = "" if encoder["kv_heads"] == encoder["heads"] else f", {encoder['kv_heads']} of keys"
    yield "heads", f"{encoder['heads']}{keys}"
    if facts["family"].startswith("transformers/"):
        yield "tensors", f"{facts['tensors']:,}"
    else:
        yield "attention", "causal" if encoder["causal"] else "bidirectional"
        yield from _windows(encoder)
        yield "positions", _positions(encoder)
        unused = len(facts["unused_tensors"])
        yield "tensors", f"{facts['tensors'] - unused:,} matched, {unused:,} unused"
    if "modules" in facts:
        yield "after pooling", ", ".join(facts["modules"]) or "nothing"


def _windows(encoder: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How far windowed layers see; one line a distance."""
    side = "back" if encoder["causal"] else "either side"
    for distance, layers in Counter(encoder["windows"]).items():
        if distance is not None:
            yield "window", f"{distance:,} tokens {side} in {layers} of {encoder['layers']} layers"


def _positions(encoder: dict[str, Any]) -> str:
    kinds = [f"rotary of base {theta:,.0f}" for theta in {r["theta"]: 0 for r in encoder["ropes"]}]
    if rows := encoder["position_table"]:
        kinds.append(f"learned, {rows:,}")
    if buckets := encoder["relative_buckets"]:
        kinds.append(f"relative bias of {buckets} buckets")
    if encoder["alibi"]:
        kinds.append("ALiBi")
    return " and ".join(kinds)


def _list(as_json: bool) -> None:
    from pipeline.encoder.architecture.tested_models import TESTED_MODELS

    if as_json:
        click.echo(
            json.dumps(
                {
                    "models": [
                        {"name": k.name, "task": k.task, "family": k.family} for k in TESTED_MODELS
                    ]
                }
            )
        )
        return
    for known in TESTED_MODELS:
        click.echo(f"{known.task:<9} {known.family:<14} {known.name}")
    click.echo(
        "\nThese layouts are tested; other checkpoints of a family load too, or say why not."
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

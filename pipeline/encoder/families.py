"""Published families as data: how to recognise one, its settings, its tensors.

A family reads `config.json` (old and new keys) and the names of the tensors, never the weights.
To add one: a layout in `layouts.py` if its names are new, a function in `bert_families.py` or
`llama_families.py`, a line in FAMILIES, and a golden in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.encoder import layouts
from pipeline.encoder.bert_families import bert, gte, modernbert, mpnet, nomic
from pipeline.encoder.checkpoint import Checkpoint
from pipeline.encoder.config import EncoderConfig
from pipeline.encoder.family import Config, Family, Tensors
from pipeline.encoder.llama_families import gemma3, llama
from pipeline.encoder.tensors import (
    UNUSED,
    UNUSED_POOLER,
    UNUSED_PREDICTION,
    Matched,
    match,
    read_tensors,
)
from pipeline.errors import CheckpointError

#: model_type of config.json → its family.
FAMILIES: dict[str, Callable[[Config, Tensors], Family | None]] = {
    "bert": bert,
    "roberta": bert,
    "xlm-roberta": bert,
    "camembert": bert,
    "mpnet": mpnet,
    "nomic_bert": nomic,
    "gte": gte,
    "new": gte,
    "modernbert": modernbert,
    "gemma3_text": gemma3,
    "llama": llama,
    "llama_bidirec": llama,
    "qwen2": llama,
    "qwen3": llama,
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A recognised checkpoint whose tensors all have a place."""

    encoder: EncoderConfig
    matched: Matched


def recognise(checkpoint: Checkpoint) -> EncoderConfig | None:
    """Settings of a checkpoint of a known family; None where the family is not one of ours.

    Raises:
        CheckpointError: the family is ours but a setting is not supported, or a tensor is missing
            or left over.
    """
    loaded = load_family(checkpoint)
    return loaded.encoder if loaded else None


def load_family(checkpoint: Checkpoint) -> Loaded | None:
    """The settings and the tensors of a checkpoint; raises as `recognise` does."""
    build = FAMILIES.get(str(checkpoint.config.get("model_type", "")))
    if build is None:
        return None
    tensors = read_tensors(checkpoint.folder)
    try:
        family = build(checkpoint.config, tensors)
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'} lacks {error}, which a "
            f"{checkpoint.config['model_type']} needs"
        ) from error
    if family is None:
        return None
    return Loaded(family.encoder, _match(family, tensors, str(checkpoint.folder)))


def _match(family: Family, tensors: Tensors, where: str) -> Matched:
    anchor = family.layout.once["tokens"]
    prefix = next((p for p in family.layout.prefixes if f"{p}{anchor}" in tensors), "")
    names = layouts.expand(
        family.layout, family.encoder.layers, prefix, family.head_names, family.skip
    )
    unused = [pattern for pattern, _ in UNUSED]
    if "head_dense.weight" not in names or family.encoder.head != "pooler":
        unused.append(UNUSED_POOLER)
    if family.encoder.family == "modernbert" and family.encoder.head == "none":
        unused.append(UNUSED_PREDICTION)
    matched = match(names, tensors, unused, where)
    _check_shapes(family.encoder, matched, where)
    return matched


def _check_shapes(encoder: EncoderConfig, matched: Matched, where: str) -> None:
    """Sizes of the config against the tensors', where a mismatch would still compute."""
    qkv = (encoder.heads + 2 * encoder.kv_heads) * encoder.head_dim
    inner = encoder.intermediate_size
    rows = {
        "tokens.weight": encoder.vocab_size,
        "positions.weight": encoder.position_table,
        "types.weight": encoder.token_types,
        "layers.0.qkv.weight": qkv,
        "layers.0.up.weight": inner,
        "layers.0.gate_up.weight": 2 * inner,
        "classifier.weight": len(encoder.labels),
    }
    for name, expected in rows.items():
        sources = matched.sources.get(name, ())
        found = sum(source.shape[0] for source in sources)
        if sources and found != expected:
            raise CheckpointError(
                f"{where}: {' + '.join(s.name for s in sources)} has {found} rows where "
                f"config.json says {expected}",
                hint="config.json does not belong to these weights.",
            )

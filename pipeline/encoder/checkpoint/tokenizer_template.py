"""The special tokens that a post-processor puts around one text and two, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.encoder.checkpoint.tokenizer_outline import Step

# A special token's id, or "A" or "B" for a text; and its token type.
Piece = tuple[int | str, int]


@dataclass(frozen=True, slots=True)
class Template:
    """What surrounds a text, and two texts; how offsets of bytes are trimmed."""

    single: tuple[Piece, ...] = (("A", 0),)
    pair: tuple[Piece, ...] = (("A", 0), ("B", 1))
    trims: tuple[bool, bool] | None = None  # trim_offsets and add_prefix_space

    @classmethod
    def bert(cls, first: int, last: int) -> Template:
        """`[CLS] A [SEP]`, with the second text and its end of type 1."""
        single: tuple[Piece, ...] = ((first, 0), ("A", 0), (last, 0))
        return cls(single, (*single, ("B", 1), (last, 1)))

    @classmethod
    def roberta(cls, first: int, last: int, trims: tuple[bool, bool] | None = None) -> Template:
        """`<s> A </s>`, with a second `</s>` before the second text and all types 0."""
        single: tuple[Piece, ...] = ((first, 0), ("A", 0), (last, 0))
        return cls(single, (*single, (last, 0), ("B", 0), (last, 0)), trims)


def template(steps: Sequence[Step]) -> Template | None:
    """The template of a post-processor; None if it is none that is understood."""
    found, trims = list[Template](), None
    for step in steps:
        kind = step.get("type")
        if kind in ("ByteLevel", "RobertaProcessing"):
            default = kind == "ByteLevel"  # of add_prefix_space
            trims = (
                bool(step.get("trim_offsets", True)),
                bool(step.get("add_prefix_space", default)),
            )
        try:
            if kind == "TemplateProcessing":
                found.append(_of_template(step))
            elif kind == "BertProcessing":
                found.append(Template.bert(step["cls"][1], step["sep"][1]))
            elif kind == "RobertaProcessing":
                found.append(Template.roberta(step["cls"][1], step["sep"][1]))
            elif kind != "ByteLevel":
                return None
        except (KeyError, TypeError, IndexError, ValueError):
            return None
    if len(found) > 1:
        return None
    plain = found[0] if found else Template()
    return Template(plain.single, plain.pair, trims)


def _of_template(step: Step) -> Template:
    tokens: Mapping[str, Any] = step["special_tokens"]
    single, pair = (
        tuple(_piece(part, tokens) for part in step[stage]) for stage in ("single", "pair")
    )
    return Template(single, pair)


def _piece(part: Mapping[str, Any], tokens: Mapping[str, Any]) -> Piece:
    """Raise ValueError for a special token that stands for several."""
    if "Sequence" in part:
        return str(part["Sequence"]["id"]), int(part["Sequence"]["type_id"])
    special = part["SpecialToken"]
    (number,) = tokens[special["id"]]["ids"]
    return int(number), int(special["type_id"])

"""A rehearsal as the JSON object of --json, which the page is made of, too."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jobs.pages.words import shortened
from jobs.rehearse.costs import Costs
from jobs.rehearse.overlap import Overlap
from jobs.rehearse.results import Rehearsal, Retrieval, Tried
from jobs.rehearse.sample import SEED
from jobs.rehearse.verdict import verdict
from jobs.summary import choices_json
from pipeline.store.uris import redact

# Neighbours of a row that are shown, and characters of a text.
_NEIGHBOURS, _CHARACTERS = 5, 300


def report(found: Rehearsal) -> dict[str, Any]:
    """The JSON object."""
    sample = found.sample
    return {
        "inputs": [redact(uri) for uri in found.inputs],
        "sample": {
            "rows": len(sample),
            "compared": len(found.rows),
            "corpus_rows": sample.corpus_rows,
            "duplicates": sample.duplicates,
            "judged": sample.judged,
            "without_vector": len(sample) - len(found.rows),
            "reasons": dict(found.reasons),
            "seed": SEED,
        },
        "from": _side(found, found.first),
        "to": _side(found, found.second),
        "neighbours": [_overlap(one) for one in found.overlaps],
        "changed": [_changed(found, int(place)) for place in found.changed],
        "retrieval": found.retrieval and _retrieval(found.retrieval),
        "verdict": verdict(found),
    }


def _side(found: Rehearsal, tried: Tried) -> dict[str, Any]:
    spec, column = tried.documents.run.spec, tried.planned.column
    return {
        "name": tried.planned.side.label,
        "short": tried.planned.side.short,
        "model": {
            "name": redact(spec.model.name),
            "revision": spec.model.revision,
            "sha256": spec.model.sha256,
        },
        "space": spec.space,
        "prompt": spec.prompt,
        "precision": list(tried.documents.manifest.precisions),
        "vectors": {
            "column": column.name,
            "dimensions": column.width or None,
            "compared_by": column.rule,
            "of_sample": tried.costs.vectors,
        },
        **_costs(tried.costs),
        "reused": tried.documents.manifest.reused,
        "choices": choices_json(tried.documents.choices),
        "submit": shlex.join(
            ["bei-jobs", "submit", *map(redact, found.inputs), *tried.planned.side.words]
        ),
    }


def _costs(costs: Costs) -> dict[str, Any]:
    seconds, price = costs.seconds, costs.price
    return {
        "max_length": costs.max_length,
        "tokens": {
            "sample": costs.tokens,
            "mean": round(costs.tokens / costs.texts, 2),
            "quantiles": {str(key): value for key, value in costs.lengths.items()},
            "longest": costs.longest,
            "corpus": costs.corpus_tokens,
            "low": costs.tokens_low,
            "high": costs.tokens_high,
        },
        "truncated": {
            "texts": costs.truncated,
            "share": round(costs.truncated / costs.texts, 6),
            "tokens_cut": costs.cut,
        },
        "rate": None if costs.rate is None else asdict(costs.rate),
        "seconds": None if seconds is None else round(seconds, 3),
        "price": None if price is None else round(price, 4),
        "bytes": {
            "vector": round(costs.vector_bytes, 2),
            "vectors": round(costs.vector_bytes * costs.corpus_rows),
            "output": costs.output_bytes,
        },
    }


def _overlap(one: Overlap) -> dict[str, Any]:
    return {
        "k": one.k,
        "mean": round(one.mean, 6),
        "quantiles": {str(key): round(value, 6) for key, value in one.quantiles.items()},
        "unchanged": round(one.unchanged, 6),
        "rows_by_kept": list(one.counts),
    }


def _changed(found: Rehearsal, place: int) -> dict[str, Any]:
    """A row, and its nearest neighbours on both sides."""

    def row(at: int) -> dict[str, Any]:
        number = int(found.rows[at])
        text = found.sample.texts[number] or ""
        return {"id": found.sample.ids[number], "text": shortened(text, _CHARACTERS)}

    def neighbours(tried: Tried, other: Tried) -> list[dict[str, Any]]:
        theirs = set(other.near.rows[place].tolist())
        near = zip(tried.near.rows[place].tolist(), tried.near.scores[place].tolist(), strict=True)
        return [
            {**row(at), "score": _score(score, tried), "on_both_sides": at in theirs}
            for at, score in list(near)[:_NEIGHBOURS]
        ]

    k = max(one.k for one in found.overlaps if one.k <= 10)
    first, second = (set(one.near.rows[place, :k].tolist()) for one in (found.first, found.second))
    return {
        **row(place),
        "kept": len(first & second),
        "of": k,
        "from": neighbours(found.first, found.second),
        "to": neighbours(found.second, found.first),
    }


def _score(score: float, tried: Tried) -> float:
    """How near a neighbour is; of bits, how many differ."""
    column = tried.planned.column
    return (column.width - score) / 2 if column.rule == "hamming" else round(score, 4)


def _retrieval(found: Retrieval) -> dict[str, Any]:
    return {
        "queries": found.queries,
        "left_out": found.left_out,
        "documents": found.documents,
        "metrics": {
            one.metric: {
                "from": _rounded(asdict(one.first)),
                "to": _rounded(asdict(one.second)),
                "difference": _rounded(asdict(one.difference)),
                "better": one.better,
                "worse": one.worse,
            }
            for one in found.metrics
        },
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in values.items()}

"""What a rehearsal found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.rehearse.compute import Computed
from jobs.rehearse.costs import Costs
from jobs.rehearse.overlap import Overlap
from jobs.rehearse.plan_sides import Planned
from jobs.rehearse.retrieval import Comparison
from jobs.rehearse.sample import Sample
from jobs.rehearse.search import Ranking
from pipeline.packing import Int64Array


@dataclass(frozen=True, slots=True)
class Tried:
    """One side, and what it gave."""

    planned: Planned
    documents: Computed
    near: Ranking  # the neighbours of `Rehearsal.rows`, as places there
    costs: Costs


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How both sides find relevant documents."""

    queries: int
    left_out: int  # without a relevant document, or without a vector
    documents: int  # that were searched
    metrics: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a change would do."""

    inputs: tuple[str, ...]
    sample: Sample
    rows: Int64Array  # numbers of the sample, of which both sides have vectors
    reasons: Mapping[str, int]  # why a text has none → how many, on either side
    first: Tried
    second: Tried
    overlaps: tuple[Overlap, ...]
    changed: Int64Array  # those that change most, as places in `rows`
    retrieval: Retrieval | None

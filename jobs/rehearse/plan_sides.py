"""What both sides will compute: the sample, and a run on it for each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import pyarrow as pa

from jobs.display import Display
from jobs.progress_bar import ProgressBar
from jobs.rehearse.compute import Computer, plain
from jobs.rehearse.sample import Sample, draw
from jobs.rehearse.sides import Side
from jobs.rehearse.vectors import VectorColumn, vector_column
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import InputError, UsageError
from pipeline.planning.draft import Draft, draft
from pipeline.planning.make_spec import resolve_model
from pipeline.request import Request
from pipeline.tasks import make_task

#: A text, and two others: fewer have no neighbours to compare.
LEAST_ROWS = 3
# Rows that are read are shown as a bar from so large a corpus on.
_BAR_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Planned:
    """One side before it is computed."""

    name: str  # of its files: from or to
    side: Side
    request: Request
    drafted: Draft  # of its run on the sample
    column: VectorColumn


def draw_sample(
    first: Request,
    second: Request,
    rows: int,
    judged: Collection[str],
    computer: Computer,
    display: Display,
) -> Sample:
    """The sample that both requests are tried on.

    Args:
        first: says what is read.
        second: its model is looked for, so that its absence is told at once.
        rows: how many are wanted.
        judged: ids of rows that are in the sample in any case.
        computer: of the sample.
        display: what the user sees.

    Raises:
        InputError: the corpus cannot be read, or is too small.
        BeiJobsError: as of `plan`.
    """
    cache_dir = computer.settings.cache_dir
    resolve_model(second, cache_dir)
    nowhere = str(computer.folder / "corpus")
    corpus = draft(replace(plain(first), output=nowhere), cache_dir)
    display.show_skipped(corpus.planned.skipped)
    display.show_ignored(corpus.planned.ignored)
    _column(corpus, "--from")
    total = corpus.plan.rows
    wanted = min(total, max(rows, len(judged)))
    named = f", among them {len(judged):,} that --qrels names" if judged else ""
    display.say(f"reading {wanted:,} of {total:,} rows{named}")
    with ProgressBar(wanted, quiet=display.quiet or total < _BAR_ROWS) as bar:
        sample = draw(corpus, rows, judged, lambda count: bar.add(count, 0))
    if len(sample) < LEAST_ROWS:
        raise InputError(
            f"the sample has too few different texts to have neighbours: {len(sample)}",
            hint=f"give more of the corpus as INPUT, and --rows of at least {LEAST_ROWS}",
        )
    return sample


def plan_sides(
    sides: tuple[Side, Side], requests: tuple[Request, Request], sample: Sample, computer: Computer
) -> tuple[Planned, Planned]:
    """Both runs on the sample.

    Raises:
        UsageError: they compute the same, or a side has no vectors to compare.
    """
    first = _planned("from", sides[0], requests[0], sample, computer)
    second = _planned("to", sides[1], requests[1], sample, computer)
    if first.drafted.spec.space == second.drafted.spec.space:
        raise UsageError(
            f"--from and --to compute the same values: {second.side.label}",
            hint='name another model, or what should differ, such as --to "dimensions=128"',
        )
    return first, second


def _planned(
    name: str, side: Side, request: Request, sample: Sample, computer: Computer
) -> Planned:
    request = replace(request, reuse_from=side.reuse_from or None)
    on_sample = computer.sample_request(name, request, sample.texts)
    drafted = draft(on_sample, computer.settings.cache_dir)
    return Planned(name, side, request, drafted, _column(drafted, side.option))


def _column(drafted: Draft, option: str) -> VectorColumn:
    card = drafted.card
    task = make_task(drafted.spec, card, load_tokenizer(card))
    files = card.checkpoint.files
    general = files.json(files.path / "config_sentence_transformers.json") or {}
    dot = general.get("similarity_fn_name") == "dot"
    fields = task.fields()
    if drafted.spec.has_chunk_rows:  # a list for the chunks of a text, which a part unfolds
        fields = [pa.field(each.name, each.type.value_type) for each in fields]
    return vector_column(fields, dot=dot, side=option)

"""The main path of a rehearsal: draw a sample, compute it on both sides, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.display import Display
from jobs.rehearse.comparing import Answer, common_rows, fitting_ks, near, retrieval
from jobs.rehearse.compute import Computer
from jobs.rehearse.costs import costs_of, rates_of
from jobs.rehearse.judgements import Judgements, check_options, read_judgements
from jobs.rehearse.overlap import most_changed, overlaps
from jobs.rehearse.plan_sides import Planned, draw_sample, plan_sides
from jobs.rehearse.queries import query_request, warn_of_prompts
from jobs.rehearse.results import Rehearsal, Tried
from jobs.rehearse.retrieval import load_measures
from jobs.rehearse.sample import Sample
from jobs.rehearse.sides import Side, check_alike, parse_sides
from pipeline.errors import UsageError
from pipeline.request import Request
from workers.devices import device_choices, find_devices
from workers.open_devices import open_devices
from workers.settings import Settings
from workers.stop_signals import ended_as_by_ctrl_c

# Rows whose neighbourhood changes most, which are shown.
_CHANGED = 10


@dataclass(frozen=True, slots=True)
class Options:
    """What the user typed."""

    inputs: tuple[str, ...]
    start: str
    end: str
    rows: int
    queries: str | None
    qrels: str | None
    shared: tuple[str, ...]  # words of `submit` that both sides have
    device: str | None
    price_per_hour: float | None


def rehearse(options: Options, settings: Settings, display: Display) -> Rehearsal:
    """Compute a sample on both sides, and compare.

    Raises:
        UsageError: the sides are no sides, or compute the same.
        InputError: the corpus, the queries or the judgements cannot be read, or do not fit.
        Interrupted: stopped by a signal.
        BeiJobsError: as of `submit`.
    """
    check_options(options.queries, options.qrels)
    judgements = None
    if options.queries and options.qrels:
        load_measures()
        judgements = read_judgements(options.queries, options.qrels)
    sides = parse_sides(options.start, options.end)
    requests = _requests(sides, options)
    devices = find_devices(options.device)
    display.show_choices(device_choices(devices))
    with (
        ended_as_by_ctrl_c(),
        TemporaryDirectory(prefix="bei-jobs-rehearse-") as folder,
        open_devices(devices.names, requests[0].inputs, settings) as opened,
    ):
        computer = Computer(Path(folder), settings, opened, display.quiet)
        judged = judgements.documents if judgements else ()
        sample = draw_sample(*requests, options.rows, judged, computer, display)
        planned = plan_sides(sides, requests, sample, computer)
        answers = [_answer(one, sample, judgements, computer, display) for one in planned]
    return _compare(options, sample, answers, judgements, settings, display)


def _requests(sides: tuple[Side, Side], options: Options) -> tuple[Request, Request]:
    """Those of `submit`; where no INPUT is given, both read that of the job file of --from."""
    first, second = sides
    before = first.request(options.inputs, options.shared)
    if not before.inputs:
        raise UsageError("no INPUT", hint="name the corpus, or a job file with --from")
    after = second.request(before.inputs, options.shared)
    check_alike(before, after)
    return before, after


def _answer(
    planned: Planned,
    sample: Sample,
    judgements: Judgements | None,
    computer: Computer,
    display: Display,
) -> Answer:
    side, request, card = planned.side, planned.request, planned.drafted.card
    display.say(f"{planned.name:<16} {side.label}")
    warn_of_prompts(side, request, card, display, queries=judgements is not None)
    documents = computer.compute(planned.name, request, sample.texts)
    if judgements is None:
        return Answer(planned, documents, None)
    texts = list(judgements.texts.values())
    display.say(f"{planned.name:<16} {len(texts):,} queries")
    name = f"{planned.name}-queries"
    asked = query_request(side, request, card)
    return Answer(planned, documents, computer.compute(name, asked, texts, documents.choices))


def _compare(
    options: Options,
    sample: Sample,
    answers: Sequence[Answer],
    judgements: Judgements | None,
    settings: Settings,
    display: Display,
) -> Rehearsal:
    first, second = answers
    rows, reasons = common_rows(first, second)
    ks = fitting_ks(len(rows), display)
    rates = rates_of(
        first.documents,
        second.documents,
        find_devices(options.device).names,
        settings,
        display,
    )
    tried = [
        Tried(
            one.planned,
            one.documents,
            near(one, rows, max(ks), display),
            costs_of(
                one.documents, one.planned.column, sample.corpus_rows, rate, options.price_per_hour
            ),
        )
        for one, rate in zip(answers, rates, strict=True)
    ]
    before, after = tried
    return Rehearsal(
        before.planned.request.inputs,
        sample,
        rows,
        reasons,
        before,
        after,
        tuple(overlaps(before.near, after.near, ks)),
        most_changed(before.near, after.near, ks, _CHANGED),
        retrieval(first, second, rows, sample, judgements) if judgements else None,
    )

"""How fast this machine computes, where no run has told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from jobs.display import Display
from pipeline.choice import Choices
from pipeline.encoder.card import ModelCard
from pipeline.spec import JobSpec
from workers.rates import Rate, Rates, kind_of_work
from workers.settings import Settings


def calibrated(
    spec: JobSpec,
    card: ModelCard,
    mean_tokens: float,
    devices: Sequence[str],
    settings: Settings,
    sample: Callable[[int], pa.RecordBatch],
    display: Display,
) -> tuple[Rate | None, Choices]:
    """The rate of an earlier calibration, or of one now, and what an engine chose if it was loaded.

    Args:
        spec: of the job, in the precision that it computes in.
        card: of its model.
        mean_tokens: of a row.
        devices: that compute, all alike.
        settings: of this machine.
        sample: up to so many rows of the job.
        display: what the user sees.
    """
    kind = kind_of_work(spec, spec.precision, mean_tokens)
    calibrations = Rates(settings.cache_dir, "earlier calibration")
    if (known := calibrations.find(kind, devices)) is not None:
        return known, {}
    display.say("measuring how fast this machine computes such rows, for a few seconds")
    from workers.calibrate import SAMPLE_ROWS, calibrate

    measured = calibrate(spec, card, devices[0], sample(SAMPLE_ROWS), settings.cache_dir)
    rate = measured.rate and measured.rate.times(len(devices))
    if measured.steady:  # else a busy machine would be taken for a slow one from now on
        calibrations.remember(kind, devices, rate)
    return rate, measured.choices

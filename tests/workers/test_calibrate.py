"""How long a calibration measures: until one pace is certain."""

from __future__ import annotations

from itertools import accumulate

import pytest

from workers.calibrate import WARM_UP_SECONDS, _steady


@pytest.mark.parametrize(
    ("seconds", "steady"),
    [
        ([1.1, 0.5, 0.51, 0.5], True),
        ([1.1, 0.5, 0.51, 0.6], False),  # not one pace
        ([1.1, 0.1, 0.1, 0.1], False),  # too short
        ([1.1, 0.5, 0.5], False),  # too few blocks
        ([0.5, 0.5, 0.5, 0.5], False),  # the first of them still warmed up
        ([1.1, 0.3, 0.5, 0.5, 0.5], True),  # the last ones count
    ],
)
def test_it_ends_where_the_last_blocks_had_one_pace(seconds: list[float], steady: bool) -> None:
    assert WARM_UP_SECONDS == 1.0
    ends = [(end, 1000) for end in accumulate(seconds)]
    assert _steady(ends, 0.0) is steady

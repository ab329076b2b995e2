"""The bar on stderr: rows, rows/s, tokens/s and the time left, from the last half minute."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

#: Rates are taken over this much of the recent past.
_RATE_SECONDS = 30.0
#: Where nobody watches, a line now and then is enough.
_LOG_SECONDS = 30.0
_FORMAT = "{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} rows{postfix}"


class ProgressBar:
    """A tqdm bar whose rates and time left come from the last half minute alone.

    Args:
        total: rows of the job.
        done: rows that were there before.
        quiet: show nothing.
    """

    def __init__(self, total: int, done: int = 0, *, quiet: bool = False) -> None:
        tqdm.monitor_interval = 0  # its thread only adjusts intervals that are set here
        interactive = sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=total,
            initial=done,
            disable=quiet,
            file=sys.stderr,
            bar_format=_FORMAT,
            dynamic_ncols=interactive,
            mininterval=0.2 if interactive else _LOG_SECONDS,
            unit_scale=False,
        )
        self._rows, self._tokens = done, 0
        self._seen: deque[tuple[float, int, int]] = deque([(time.monotonic(), done, 0)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.refresh()
        self._bar.close()

    def add(self, rows: int, tokens: int) -> None:
        """Rows and tokens that just came back."""
        self.show(self._rows + rows, self._tokens + tokens)

    def show(self, rows: int, tokens: int) -> None:
        """All rows and tokens so far."""
        moved, self._rows, self._tokens = rows - self._rows, rows, tokens
        now = time.monotonic()
        self._seen.append((now, rows, tokens))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()
        self._bar.set_postfix_str(self._rates(), refresh=False)
        self._bar.update(moved)

    def _rates(self) -> str:
        then, rows, tokens = self._seen[0]
        seconds = self._seen[-1][0] - then
        if seconds <= 0:
            return ""
        row_rate = (self._rows - rows) / seconds
        token_rate = (self._tokens - tokens) / seconds
        left = (self._bar.total or 0) - self._rows
        eta = tqdm.format_interval(left / row_rate) if row_rate > 0 else "?"
        return f"{row_rate:,.0f} rows/s, {token_rate:,.0f} tokens/s, {eta} left"

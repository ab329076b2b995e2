"""The progress on stderr: rows, rows/s, tokens/s and the time left, as a bar or as log events."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from workers.logs import log_format

logger = logging.getLogger(__name__)

# Rates are taken over this much of the recent past.
_RATE_SECONDS = 30.0
# Without a terminal or as JSON, print a line only this often.
_LOG_SECONDS = 30.0
_FORMAT = "{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} rows{postfix}"


class ProgressBar:
    """A tqdm bar whose rates and time left come from the last half minute only.

    Args:
        total: rows of the job.
        done: rows that were computed before.
        tokens: likewise; neither counts for the rates.
        quiet: show nothing.
    """

    def __init__(self, total: int, done: int = 0, tokens: int = 0, *, quiet: bool = False) -> None:
        tqdm.monitor_interval = 0  # no monitor thread: the intervals below are fixed
        interactive = sys.stderr.isatty()
        self._logged = log_format() == "json" and not quiet
        self._last_logged = time.monotonic()
        self._bar: Any = tqdm(
            total=total,
            initial=done,
            disable=quiet or self._logged,
            file=sys.stderr,
            bar_format=_FORMAT,
            dynamic_ncols=interactive,
            mininterval=0.2 if interactive else _LOG_SECONDS,
            unit_scale=False,
        )
        self._rows, self._tokens, self._total = done, tokens, total
        self._samples: deque[tuple[float, int, int]] = deque([(time.monotonic(), done, tokens)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if self._logged:
            logger.info("%s", line)
        else:
            tqdm.write(line, file=sys.stderr)

    def aside(self) -> AbstractContextManager[None]:
        """What is printed in it leaves the bar whole."""
        return tqdm.external_write_mode(file=sys.stderr)

    def close(self) -> None:
        """Draw the bar one last time and leave it on the screen."""
        self._bar.refresh()
        self._bar.close()

    def add(self, rows: int, tokens: int) -> None:
        """Add rows and tokens that were just computed."""
        self.show(self._rows + rows, self._tokens + tokens)

    def show(self, rows: int, tokens: int) -> None:
        """Show the total of rows and tokens so far."""
        new_rows, self._rows, self._tokens = rows - self._rows, rows, tokens
        now = time.monotonic()
        self._samples.append((now, rows, tokens))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        if self._logged and now - self._last_logged > _LOG_SECONDS:
            self._last_logged = now
            counts = {"rows": rows, "tokens": tokens, "total": self._total}
            logger.info("%d of %d rows, %s", rows, self._total, self._rates(), extra=counts)
        self._bar.set_postfix_str(self._rates(), refresh=False)
        self._bar.update(new_rows)

    def _rates(self) -> str:
        start, rows, tokens = self._samples[0]
        seconds = self._samples[-1][0] - start
        if seconds <= 0:
            return ""
        row_rate = (self._rows - rows) / seconds
        token_rate = (self._tokens - tokens) / seconds
        remaining = self._total - self._rows
        eta = tqdm.format_interval(remaining / row_rate) if row_rate > 0 else "?"
        return f"{row_rate:,.0f} rows/s, {token_rate:,.0f} tokens/s, {eta} left"

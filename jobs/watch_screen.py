"""`bei-jobs watch` on a terminal: a screen that is drawn anew as jobs go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from jobs import watch_words as words
from jobs.live import Live, Worker
from pipeline.output.status import BEGUN, DONE, FAILED
from pipeline.store.uris import redact

# From this width on, in characters, a column has room.
_COLUMNS = {"model": 100, "tokens/s": 66, "fill": 66}
_MAX_STRIP = 100
# Marks of the strip, on a terminal with and without Unicode.
_CELLS = {"done": "█#", "partly": "▓+", "begun": "▒~", "open": "░.", "failed": "xx"}
_STYLES = {"done": "green", "partly": "green", "begun": "yellow", "open": "dim", "failed": "red"}
_STATE_STYLES = {
    "computing": "green", "loading": "yellow", "stepped back": "red",
    "done": "green", "failed": "red", "cancelled": "red", "running": "green",
}  # fmt: skip


class WatchScreen:
    """The whole terminal while the context is open; then the terminal is as it was before.

    Args:
        console: of the terminal; None for that of stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._screen = Screen(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    @property
    def usable(self) -> bool:
        """Whether the terminal can move its cursor."""
        return not self._console.is_dumb_terminal

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._on_sigterm)
        self._screen.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._screen.stop()
        signal.signal(signal.SIGTERM, self._before)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._screen.stop()  # or the shell would get its terminal back in disorder
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def show(self, lives: Sequence[Live]) -> None:
        """Draw how some jobs stand."""
        self._screen.update(draw(lives, self._console), refresh=True)


def draw(lives: Sequence[Live], console: Console) -> RenderableType:
    """How some jobs stand, in the room that a terminal has."""
    width, height = console.size
    plain = not console.encoding.lower().startswith("utf")
    painter = _Painter(width, plain, console.encoding)
    rest = [painter.note("Ctrl-C stops watching; the job goes on")]
    heads = [list(painter.head(live)) for live in lives]
    tails = [list(painter.tail(live)) for live in lives]
    options = console.options
    used = sum(
        len(console.render_lines(one, options))
        for one in [*rest, *(line for lines in (*heads, *tails) for line in lines)]
    )
    room = max(0, height - used) // len(lives)
    blocks = []
    for live, head, tail in zip(lives, heads, tails, strict=True):
        blocks += [*head, *painter.workers(live, room), *tail]
    return Group(*blocks, *rest)


class _Painter:
    """Draws for a terminal of one width and encoding."""

    def __init__(self, width: int, plain: bool, encoding: str) -> None:
        self._width = width
        self._plain = plain
        self._encoding = encoding

    def note(self, line: str, style: str = "dim") -> Text:
        return Text(words.clean(line, self._encoding), style=style)

    def head(self, live: Live) -> Iterator[RenderableType]:
        """Job, progress and speed."""
        spec, state = live.run.spec, live.status.state
        line = Text.assemble(
            (f"job {live.run.job}  ", "bold"),
            (state, _STATE_STYLES.get(state, "bold")),
            "  ",
            self.note(f"{spec.task} with {redact(spec.model.name)}", ""),
        )
        yield line
        yield self.note(redact(live.run.output))
        if live.trouble:
            yield self.note(f"{live.trouble}; trying again", "bold red")
        yield self._strip(live)
        yield self.note(
            f"{words.percent(live)}  {live.rows:,} of {live.status.rows:,} rows", "bold"
        )
        yield self.note(words.shards(live), "")
        if live.rows_per_second and not live.over:
            yield self.note(f"{words.rates(live)}, {words.time_left(live)}", "")
        yield Text()

    def _strip(self, live: Live) -> Text:
        """A cell for one shard, or for some shards of which there are too many."""
        strip = live.strip or DONE * live.status.shards
        count = max(1, min(self._width, _MAX_STRIP, len(strip)))
        ends = [len(strip) * cell // count for cell in range(count + 1)]
        line = Text(overflow="crop", no_wrap=True)
        for begin, end in pairwise(ends):
            kind = _kind(strip[begin:end])
            line.append(_CELLS[kind][self._plain], _STYLES[kind])
        return line

    def workers(self, live: Live, room: int) -> Iterator[RenderableType]:
        """A line for each device, as far as there is room."""
        if reason := words.nobody(live):
            yield self.note(reason, "yellow")
        if not live.workers:
            return
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        overflow = "crop" if self._plain else "ellipsis"
        columns = [name for name in _ALL if self._width >= _COLUMNS.get(name, 0)]
        for name in columns:
            right = name in ("rows/s", "tokens/s", "fill")
            table.add_column(
                name,
                justify="right" if right else "left",
                no_wrap=True,
                overflow=overflow,  # type: ignore[arg-type]
                min_width=len(name) if right else None,
            )
        shown = live.workers if len(live.workers) < room else live.workers[: max(0, room - 2)]
        for worker in shown:
            cells = self._cells(worker, live.run.job)
            table.add_row(*(cells[name] for name in columns))
        yield table
        if left := len(live.workers) - len(shown):
            yield self.note(f"and {left:,} more devices")

    def _cells(self, worker: Worker, job: str) -> dict[str, Text]:
        report, state = worker.report, words.state(worker, job)
        texts = dict.fromkeys(_ALL, "-")
        texts |= {"worker": f"{worker.host}:{worker.pid}", "device": worker.device or "-"}
        texts["state"] = state
        if report is not None and report.model:
            texts["model"] = words.model(report.model)
        if report is not None and report.rows_per_second:  # also between two spans
            texts["rows/s"] = words.number(report.rows_per_second)
            texts["tokens/s"] = words.number(report.tokens_per_second)
            if report.batch_fill is not None:
                texts["fill"] = f"{100 * report.batch_fill:.0f} %"
        cells = {name: self.note(text, "") for name, text in texts.items()}
        cells["state"].stylize(_STATE_STYLES.get(state, "dim"))
        return cells

    def tail(self, live: Live) -> Iterator[RenderableType]:
        """The last errors."""
        if live.errors:
            yield Text()
        for line in live.errors:
            yield self.note(line, "red")
        yield Text()


_ALL = ("worker", "device", "model", "state", "rows/s", "tokens/s", "fill")


def _kind(marks: bytes) -> str:
    """What a cell that stands for some shards shows."""
    if FAILED in marks:
        return "failed"
    if (done := marks.count(DONE)) == len(marks):
        return "done"
    return "partly" if done else "begun" if BEGUN in marks else "open"

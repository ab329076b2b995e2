"""Run an iterator ahead of its consumer in a thread; map with several threads, in order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()


@contextmanager
def prefetch(items: Iterator[Item], depth: int) -> Iterator[Iterator[Item]]:
    """Yield an iterator over `items` that is computed up to `depth` items ahead.

    An exception in the producer is raised in place of its item. Leaving the context stops the
    producer at its next item and waits for it, so that no thread outlives its job.
    """
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if stopped.is_set():
                    return
                ready.put((item, None))
        except BaseException as caught:
            error = caught
        finally:
            ready.put((_END, error))

    def consume() -> Iterator[Item]:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        while thread.is_alive():  # a producer that waits on a full queue needs room to stop
            try:
                ready.get(timeout=0.05)
            except queue.Empty:
                thread.join(timeout=0.05)


def map_in_order(
    function: Callable[[Item], Result], items: Iterator[Item], threads: int
) -> Iterator[Result]:
    """`map` with `threads` calls at once; results come in the order of the items.

    At most `threads` items are taken ahead of the results. An exception is raised in place of its
    result.
    """
    if threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="map") as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

"""Run an iterator ahead of its consumer in a thread; map with several threads, in order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()


class BytesQueue(queue.Queue[Item]):
    """A queue that is full with `depth` items, or when those in it have `limit` bytes or more.

    Args:
        depth: at least 1.
        limit: of the bytes.
        size: the bytes of an item.
    """

    def __init__(self, depth: int, limit: int, size: Callable[[Item], int]) -> None:
        super().__init__(depth)
        self._limit = limit
        self._size = size
        self._bytes = 0

    def _qsize(self) -> int:
        full = self._bytes > 0 and self._bytes >= self._limit
        return max(super()._qsize(), self.maxsize if full else 0)

    def _put(self, item: Item) -> None:
        self._bytes += self._size(item)
        super()._put(item)

    def _get(self) -> Item:
        item = super()._get()
        self._bytes -= self._size(item)
        return item


@contextmanager
def prefetch(
    items: Iterator[Item],
    depth: int,
    limit: int = 0,
    size: Callable[[Item], int] | None = None,
) -> Iterator[Iterator[Item]]:
    """Yield an iterator over `items` that is computed up to `depth` items ahead.

    With `size`, fewer where those that wait have `limit` bytes or more.

    An exception in the producer is raised in place of its item. Leaving the context stops the
    producer at its next item and waits for it, so that no thread outlives its job.
    """
    ready: queue.Queue[tuple[object, BaseException | None]] = BytesQueue(
        depth, limit, lambda pair: size(cast(Item, pair[0])) if size and pair[0] is not _END else 0
    )
    stopped = threading.Event()

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if stopped.is_set():
                    return
                ready.put((item, None))
                del item  # not held while the next one is made
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
            del item

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

"""Reading ahead: in order, bounded, loud, and without a thread left behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from pipeline.prefetch import BytesQueue, map_in_order, prefetch


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_items_come_in_order() -> None:
    with prefetch(iter(range(100)), 2) as items:
        assert list(items) == list(range(100))


def test_it_runs_ahead_but_never_further_than_asked() -> None:
    made: list[int] = []
    ahead = threading.Event()

    def produce() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 3:
                ahead.set()
            yield number

    with prefetch(produce(), 2) as items:
        assert next(items) == 0
        assert ahead.wait(60)  # 1 and 2 wait in the queue, 3 in the producer's hand
        assert len(made) <= 4
        for taken in range(1, 50):
            assert next(items) == taken
            assert len(made) <= taken + 4


def test_an_exception_is_raised_where_its_item_would_have_come() -> None:
    def produce() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    with prefetch(produce(), 1) as items:
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)


def test_leaving_early_ends_an_endless_producer() -> None:
    def produce() -> Iterator[int]:
        number = 0
        while True:
            yield (number := number + 1)

    with prefetch(produce(), 3) as items:
        assert next(items) == 1


def test_an_error_of_the_consumer_is_not_hidden_by_one_of_the_producer() -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise OSError("too late to matter")

    def consume() -> None:
        with prefetch(produce(), 1) as items:
            next(items)
            raise KeyError("of the consumer")

    with pytest.raises(KeyError):
        consume()


def test_a_queue_is_full_by_bytes_before_it_is_by_items() -> None:
    waiting = BytesQueue[bytes](3, 10, len)
    waiting.put(b"123456789", block=False)
    waiting.put(b"1", block=False)  # there were fewer bytes than the limit
    with pytest.raises(queue.Full):
        waiting.put(b"", block=False)
    assert waiting.get(block=False) == b"123456789"
    waiting.put(b"a larger one than the limit", block=False)
    with pytest.raises(queue.Full):
        waiting.put(b"", block=False)
    assert [waiting.get(block=False), waiting.get(block=False)] == [
        b"1", b"a larger one than the limit",
    ]  # fmt: skip
    for item in (b"", b"", b""):
        waiting.put(item, block=False)
    with pytest.raises(queue.Full):
        waiting.put(b"", block=False)


def test_fewer_large_items_than_small_ones_are_made_ahead() -> None:
    made: list[int] = []
    two_are_made = threading.Event()

    def produce() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == 2:
                two_are_made.set()
            yield number

    with prefetch(produce(), 5, 8, lambda number: 8) as items:
        assert next(items) == 0
        assert two_are_made.wait(60)  # one waits, and the next one is made
        assert next(items) == 1
        assert len(made) <= 4


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_their_items(threads: int) -> None:
    assert list(map_in_order(str, iter(range(50)), threads)) == [str(n) for n in range(50)]


def test_as_many_calls_run_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(2, timeout=60)

    def meet(number: int) -> int:
        together.wait()  # breaks, and raises, where a call runs alone
        return number

    assert list(map_in_order(meet, iter(range(6)), 2)) == list(range(6))


def test_no_more_items_are_taken_ahead_than_there_are_threads() -> None:
    taken: list[int] = []

    def produce() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_in_order(str, produce(), 3)
    next(results)
    assert len(taken) == 3
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 3


def test_a_call_that_fails_raises_where_its_result_would_have_come() -> None:
    results = map_in_order(lambda n: 6 // n, iter([3, 2, 0, 1]), 2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)

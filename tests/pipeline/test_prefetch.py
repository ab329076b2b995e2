"""Reading ahead: in order, bounded, loud, and without a thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.prefetch import prefetch


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
        assert ahead.wait(10)  # 1 and 2 wait in the queue, 3 in the producer's hand
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

"""Batches made ahead by a thread: order, errors, and a thread that goes when nobody wants more."""

import threading
import time
from collections.abc import Iterator

import pytest

from training.data.batches import Prefetched


def test_all_come_once_in_order() -> None:
    with Prefetched(range(50)) as numbers:
        assert list(numbers) == list(range(50))


def test_an_error_comes_where_the_next_item_would_have() -> None:
    def broken() -> Iterator[int]:
        yield from range(10)
        raise KeyError("the tenth")

    with Prefetched(broken()) as numbers:
        assert [next(numbers) for _ in range(10)] == list(range(10))
        with pytest.raises(KeyError, match="the tenth"):
            next(numbers)


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    asked = []

    def counted() -> Iterator[int]:
        for number in range(1000):
            asked.append(number)
            yield number

    with Prefetched(counted()) as numbers:
        assert next(numbers) == 0
    assert threading.active_count() == before
    assert len(asked) < 10


def test_time_is_told_that_was_spent_waiting() -> None:
    def slow() -> Iterator[int]:
        time.sleep(0.2)
        yield 1

    prefetched = Prefetched(slow())
    with prefetched as numbers:
        assert next(numbers) == 1
        assert prefetched.waited_s > 0.05

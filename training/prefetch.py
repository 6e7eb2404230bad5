"""Batches made ahead in a thread, while the model trains on those before, and the time spent waiting for them."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 3  # batches; more only take memory
_LOOK_S = 0.1  # how often the thread looks whether anybody still wants its batches


class Prefetched(Generic[T]):
    """Goes through `items` once, in their order, made by a thread; leave the context to let the thread go.

    Args:
        items: an error that they raise is raised where the next item would have come.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(AHEAD)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._make, name="batches", daemon=True)
        self.waited_s = 0.0

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _taken(self) -> Iterator[T]:
        while True:
            started = time.monotonic()
            item, error = self._ready.get()
            self.waited_s += time.monotonic() - started
            if error is not None:
                raise error
            if item is None:
                return
            yield item

    def _make(self) -> None:
        try:
            for item in self._items:
                self._put((item, None))
                if self._left.is_set():
                    return
            self._put((None, None))
        except BaseException as error:  # noqa: BLE001 -- raised in the thread that asks for the item
            self._put((None, error))

    def _put(self, entry: tuple[T | None, BaseException | None]) -> None:
        while not self._left.is_set():
            try:
                self._ready.put(entry, timeout=_LOOK_S)
            except queue.Full:
                continue
            return

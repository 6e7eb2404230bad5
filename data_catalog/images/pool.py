"""Idle child processes, lent to one job at a time."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from data_catalog.errors import ShardError
from data_catalog.images.process import Child

logger = logging.getLogger(__name__)


CLOSED = "images: the child processes have been ended; open new ImageWorkers"


class ChildPool:
    """Children by kind and memory limit: started when none is idle, reused after a job that went well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, int], list[Child]] = {}
        self._lent: set[Child] = set()
        self._closed = False

    @contextmanager
    def lend(self, kind: str, memory_bytes: int = 0) -> Iterator[Child]:
        """A child for one job; killed if the job fails in any way. Raises `ShardError` after `close`."""
        child = self._take(kind, memory_bytes)
        try:
            yield child
        except BaseException:
            child.kill()
            logger.debug("the child process printed: %s", child.tail())
            child.close()
            raise
        else:
            self._give_back(child, kind, memory_bytes)
        finally:
            with self._lock:
                self._lent.discard(child)

    def start(self, kind: str, memory_bytes: int = 0, *, count: int) -> None:
        """Start idle children ahead of their first jobs, without waiting for them."""
        for _ in range(count):
            self._give_back(Child(kind, memory_bytes), kind, memory_bytes)

    def close(self) -> None:
        """End all children; those still at work are killed, and no other is started."""
        with self._lock:
            self._closed = True
            for child in self._lent:
                child.kill()
        self.end_idle()

    def end_idle(self) -> None:
        """End the children that are at no work."""
        with self._lock:
            idle = [child for children in self._idle.values() for child in children]
            self._idle.clear()
        for child in idle:
            child.close()

    def _take(self, kind: str, memory_bytes: int) -> Child:
        with self._lock:
            if self._closed:
                raise ShardError(CLOSED)
            idle = self._idle.get((kind, memory_bytes), [])
            child = idle.pop() if idle else None
        if child is None or not child.alive:
            if child is not None:
                child.close()
            child = Child(kind, memory_bytes)
        with self._lock:
            if not self._closed:
                self._lent.add(child)
                return child
        child.kill()
        child.close()
        raise ShardError(CLOSED)

    def _give_back(self, child: Child, kind: str, memory_bytes: int) -> None:
        with self._lock:
            if not self._closed:
                self._idle.setdefault((kind, memory_bytes), []).append(child)
                return
        child.close()

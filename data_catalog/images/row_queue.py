"""Which row of a shard is asked next: any whose host may be asked now, so that no thread waits for a busy host."""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_catalog.images.hosts import HostClock, Lease

_BEAT_S = 5.0


@dataclass(frozen=True, slots=True)
class Turn:
    """A row that may be asked now, and the lease on its host."""

    row: int
    lease: Lease


class RowQueue:
    """The rows that wait, by host; for many threads, each of which takes a row, asks, and says when it has finished.

    Args:
        groups: of each row, the group of its host.
        clock: when which group may be asked.
        stuck_s: a request that takes longer than this hangs.
        on_wait: called now and then while threads wait and no request hangs.
    """

    def __init__(self, groups: Sequence[str], clock: HostClock, *, stuck_s: float, on_wait: Callable[[], None]) -> None:
        self._clock = clock
        self._stuck_s = stuck_s
        self._on_wait = on_wait
        self._groups = groups
        self._changed = threading.Condition()
        self._waiting: dict[str, list[tuple[float, int]]] = {}
        self._ready: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._running: dict[int, float] = {}
        self._next_beat = time.monotonic() + _BEAT_S
        for row, group in enumerate(groups):
            self._waiting.setdefault(group, []).append((0.0, row))
        with self._changed:
            for group in self._waiting:
                self._announce(group, 0.0)

    def take(self) -> Turn:
        """The next row that may be asked; waits until there is one. There must be as many turns as rows and repeats."""
        while True:
            group = self._next_group()
            lease = self._clock.try_start(group)
            with self._changed:
                if isinstance(lease, float):
                    self._announce(group, time.monotonic() + lease)
                    continue
                waiting = self._waiting[group]
                if waiting and waiting[0][0] <= time.monotonic():
                    _, row = heapq.heappop(waiting)
                    self._announce(group, 0.0)
                    self._running[row] = time.monotonic()
                    return Turn(row, lease)
                self._announce(group, 0.0)
            self._clock.ledger.end(lease)  # another thread was faster

    def put_back(self, row: int, wait_s: float) -> None:
        """Let a row be taken again, after some seconds. To be called before `finish`."""
        group = self._groups[row]
        with self._changed:
            heapq.heappush(self._waiting[group], (time.monotonic() + wait_s, row))
            self._announce(group, 0.0)

    def finish(self, turn: Turn) -> None:
        """Give the lease back: others may ask the host."""
        self._clock.ledger.end(turn.lease)
        with self._changed:
            del self._running[turn.row]
            self._announce(self._groups[turn.row], 0.0)

    def _announce(self, group: str, ready_at: float) -> None:
        """Say when a group is worth a try, at the earliest; entries of the heap that say otherwise are void."""
        if not self._waiting[group]:
            self._ready.pop(group, None)
            return
        ready_at = max(ready_at, self._waiting[group][0][0])
        self._ready[group] = ready_at
        heapq.heappush(self._heap, (ready_at, group))
        self._changed.notify()

    def _next_group(self) -> str:
        with self._changed:
            while True:
                while self._heap and self._ready.get(self._heap[0][1]) != self._heap[0][0]:
                    heapq.heappop(self._heap)
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    group = heapq.heappop(self._heap)[1]
                    del self._ready[group]
                    return group
                wait_s = self._heap[0][0] - now if self._heap else _BEAT_S
                self._changed.wait(min(wait_s, _BEAT_S))
                self._beat()

    def _beat(self) -> None:
        now = time.monotonic()
        hangs = any(now - started > self._stuck_s for started in self._running.values())
        if now >= self._next_beat and not hangs:
            self._next_beat = now + _BEAT_S
            self._on_wait()

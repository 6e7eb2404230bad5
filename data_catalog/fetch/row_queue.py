"""Which row of a shard is asked next: any whose host may be asked now, so that no thread waits for a busy host."""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_catalog.fetch.hosts import HostClock
from data_catalog.fetch.ledger import Lease

_BEAT_S = 5.0


class StoppedError(Exception):
    """The queue gives no more rows."""


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
        self._stopped = False
        self._prepared: deque[Turn] = deque()
        self._waiting: dict[str, list[tuple[float, int]]] = {}
        self._ready: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._running: dict[Turn, float] = {}
        self._left: set[Turn] = set()
        self._next_beat = time.monotonic() + _BEAT_S
        for row, group in enumerate(groups):
            self._waiting.setdefault(group, []).append((0.0, row))
        with self._changed:
            for group in self._waiting:
                self._announce(group, 0.0)

    def take(self) -> Turn:
        """The next row that may be asked; waits until there is one. There must be as many turns as rows and repeats.

        Raises:
            StoppedError: by `stop`, before or meanwhile.
            OSError: the clock's ledger can't be kept; the queue is of no use any more.
        """
        while True:
            found = self._next()
            if isinstance(found, Turn):
                return found
            lease = self._clock.try_start(found)
            with self._changed:
                if isinstance(lease, float):
                    self._announce(found, time.monotonic() + lease)
                    continue
                row = self._pop_row(found)
                self._announce(found, 0.0)
                if row is not None:
                    return self._begun(Turn(row, lease))
            self._clock.ledger.end(lease)  # another thread was faster

    def put_back(self, row: int, wait_s: float) -> None:
        """Let a row be taken again, after some seconds. To be called after `finish`."""
        group = self._groups[row]
        with self._changed:
            heapq.heappush(self._waiting[group], (time.monotonic() + wait_s, row))
            self._announce(group, 0.0)

    def finish(self, turn: Turn) -> None:
        """Let others ask the host. Raises `OSError` as `take` does."""
        if turn not in self._left:
            self._give_lease(turn)
        with self._changed:
            self._left.discard(turn)
            del self._running[turn]
            self._announce(self._groups[turn.row], 0.0)

    def leave(self, turn: Turn) -> None:
        """Let others ask the host while the row goes on elsewhere; once, before `finish`. Raises as `finish` does."""
        self._give_lease(turn)
        with self._changed:
            self._left.add(turn)
            self._announce(self._groups[turn.row], 0.0)

    def _give_lease(self, turn: Turn) -> None:
        if not self._hand_over(turn):
            self._clock.ledger.end(turn.lease)

    def _hand_over(self, turn: Turn) -> bool:
        """Leave the lease to the next row of the host: the ledger, in a file, is the costliest part of a request."""
        group = self._groups[turn.row]
        if not self._clock.may_go_on(group):
            return False
        with self._changed:
            row = self._pop_row(group)
            if row is not None:
                self._prepared.append(Turn(row, turn.lease))
                self._changed.notify()
            return row is not None

    def _pop_row(self, group: str) -> int | None:
        waiting = self._waiting[group]
        return heapq.heappop(waiting)[1] if waiting and waiting[0][0] <= time.monotonic() else None

    def _begun(self, turn: Turn) -> Turn:
        self._running[turn] = time.monotonic()
        return turn

    def stop(self) -> None:
        """Let all who wait, and all who come, go away without a row."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _announce(self, group: str, ready_at: float) -> None:
        """Say when a group is worth a try, at the earliest; entries of the heap that say otherwise are void."""
        if not self._waiting[group]:
            self._ready.pop(group, None)
            return
        ready_at = max(ready_at, self._waiting[group][0][0])
        self._ready[group] = ready_at
        heapq.heappush(self._heap, (ready_at, group))
        self._changed.notify()

    def _next(self) -> Turn | str:
        """A turn that is prepared, or a group that is worth a try."""
        with self._changed:
            while not self._stopped:
                if self._prepared:
                    return self._begun(self._prepared.popleft())
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
            raise StoppedError

    def _beat(self) -> None:
        now = time.monotonic()
        hangs = any(now - started > self._stuck_s for started in self._running.values())
        if now >= self._next_beat and not hangs:
            self._next_beat = now + _BEAT_S
            self._on_wait()

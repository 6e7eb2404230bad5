"""The hosts of a fetching process: queues, pace, concurrency and pauses. No thread waits for a host.

Each request, for a robots.txt or after a redirect too, takes one turn of its host, handed out by `Frontier.next`.
Times are of the monotonic clock.
"""

import heapq
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from data_catalog.fetch.config import HostPace, group_of
from data_catalog.fetch.urls import FetchError

# Factor of intervals. A host counts requests when they arrive, and their travel times differ by up to 50 ms.
_MARGIN = 1.05
SLOWEST_DELAY_S = 60.0  # that a Crawl-delay can ask for
_MANY_HOSTS = 20_000
# Longest pause. Longer values of Retry-After, such as a year, are usually mistakes.
LONGEST_PAUSE_S = 30 * 24 * 3600.0


class Request(Protocol):
    """A request that waits for a turn. `order` decides among those for a host; 0: it has not waited yet."""

    order: int


@dataclass(slots=True, eq=False)
class Host:
    """A host, or a domain whose hosts share their limits."""

    name: str
    concurrency: int
    interval_s: float  # between the starts of two requests
    waiting: list[tuple[float, int, Any]] = field(default_factory=list)  # heap: due, order, request
    active: int = 0
    begun_at: float = -math.inf  # start of the last request; it may be a moment ahead
    sending: threading.Lock = field(default_factory=threading.Lock)
    sent_at: float = -math.inf  # when the last request was sent, after its connection was made
    next_at: float = -math.inf  # when the next turn may be handed out
    paused_until: float = -math.inf
    paused_by: FetchError | None = None
    is_slowed: bool = False  # by a Crawl-delay
    listed: float = math.inf  # due of its valid entry among the turns

    def note_start(self, at: float) -> None:
        """Take into account that a request began."""
        self.begun_at = max(self.begun_at, at)
        self.next_at = max(self.next_at, self.begun_at + self.interval_s)

    def due(self, longest_until: float) -> float:
        """Return when its next turn is due: at once if its pause is too long, since the request is then refused."""
        pause = self.paused_until if self.paused_until <= longest_until else -math.inf
        return max(self.next_at, pause, self.waiting[0][0])


@dataclass(slots=True)
class Turn:
    """A turn of a host."""

    host: Host
    has_begun: bool = False


class Frontier:
    """Requests that wait for the turn of their host; hosts take turns.

    Those for a host that is paused for longer than `max_wait_s` are handed out at once, to be refused.
    """

    def __init__(self, named: Mapping[str, HostPace], default: HostPace, max_wait_s: float) -> None:
        self._named, self._default, self._max_wait_s = named, default, max_wait_s
        self._hosts: dict[str, Host] = {}
        self._sweep_at = _MANY_HOSTS
        self._turns: list[tuple[float, int, Host]] = []  # heap: due, order, host
        self._order = count(1)
        self._lock = threading.RLock()
        # One thread, the first, waits for the next due time; the others wait to become the first.
        self._first, self._others = threading.Condition(self._lock), threading.Condition(self._lock)
        self._is_watched = False

    def host_of(self, name: str) -> Host:
        """Return a host, or the group that it belongs to."""
        group = group_of(name, self._named)
        with self._lock:
            if group not in self._hosts:
                if len(self._hosts) >= self._sweep_at:
                    self._forget_idle()
                pace = self._named.get(group, self._default)
                self._hosts[group] = Host(group, pace.concurrency, _MARGIN * pace.interval_s)
            return self._hosts[group]

    def _forget_idle(self) -> None:
        """Forget hosts of which nothing has to be known: a run may have millions."""
        now = time.monotonic()
        self._hosts = {
            name: host
            for name, host in self._hosts.items()
            if host.waiting or host.active or host.is_slowed or max(host.next_at, host.paused_until) > now
        }
        self._sweep_at = max(_MANY_HOSTS, 2 * len(self._hosts))

    def add(self, request: Request, name: str, *, wait_s: float = 0.0) -> None:
        """Queue a request for a host, after some seconds. One that has waited before keeps its place."""
        with self._lock:
            host = self.host_of(name)
            request.order = request.order or next(self._order)
            due = time.monotonic() + wait_s if wait_s else -math.inf
            heapq.heappush(host.waiting, (due, request.order, request))
            self._list(host)

    def next(self) -> tuple[Any, Turn]:
        """Wait for a request whose turn has come, and take it."""
        with self._lock:
            while (found := self._take()) is None:
                if self._is_watched:
                    self._others.wait()
                    continue
                self._is_watched = True
                self._first.wait(max(0.0, self._turns[0][0] - time.monotonic()) if self._turns else None)
                self._is_watched = False
            self._others.notify()
            return found

    def _take(self) -> tuple[Any, Turn] | None:
        while self._turns and self._turns[0][0] <= (now := time.monotonic()):
            due, _, host = heapq.heappop(self._turns)
            if due != host.listed:
                continue  # another entry has replaced it
            host.listed = math.inf
            if host.due(now + self._max_wait_s) > now:  # it was paused or slowed down since
                self._list(host)
                continue
            _, _, request = heapq.heappop(host.waiting)
            host.active += 1
            host.next_at = now + host.interval_s
            self._list(host)
            return request, Turn(host)
        return None

    def begin(self, turn: Turn) -> float:
        """Return the seconds until the turn's request may begin, usually 0. Call it right before the request.

        A look-up that took long may have brought requests of several turns together.
        """
        with self._lock:
            host, now = turn.host, time.monotonic()
            turn.has_begun = True
            host.note_start(max(now, host.begun_at + host.interval_s) if host.interval_s else now)
            return host.begun_at - now

    @contextmanager
    def sending(self, turn: Turn) -> Iterator[None]:
        """Send the turn's request in here, which waits until the host's last one was sent long enough ago.

        One connects more slowly than another, and a busy machine may stop the process between `begin` and sending.
        """
        with turn.host.sending:
            time.sleep(max(0.0, turn.host.sent_at + turn.host.interval_s / _MARGIN - time.monotonic()))
            yield
            turn.host.sent_at = time.monotonic()

    def end(self, turn: Turn) -> None:
        """Give a turn back. One without a request counts for nothing."""
        with self._lock:
            host = turn.host
            host.active -= 1
            if not turn.has_begun:  # `begin` keeps those apart that it brings together
                host.next_at = host.begun_at + host.interval_s
            self._list(host)

    def pause(self, name: str, failure: FetchError, seconds: float) -> None:
        """Pause a host because of a failure; a shorter pause changes nothing."""
        with self._lock:
            host = self.host_of(name)
            until = time.monotonic() + min(seconds, LONGEST_PAUSE_S)
            if until > host.paused_until:
                host.paused_until, host.paused_by = until, failure
                self._list(host)

    def slow_down(self, name: str, delay_s: float) -> None:
        """Set the least seconds between requests, from a Crawl-delay."""
        with self._lock:
            host = self.host_of(name)
            interval_s = _MARGIN * min(delay_s, SLOWEST_DELAY_S)
            if interval_s > host.interval_s:
                host.interval_s, host.is_slowed = interval_s, True
                host.note_start(host.begun_at)

    def note_start(self, name: str, ago_s: float) -> None:
        """Take into account a request that another process began some seconds ago."""
        with self._lock:
            self.host_of(name).note_start(time.monotonic() - max(0.0, ago_s))

    def _list(self, host: Host) -> None:
        if host.waiting and host.active < host.concurrency:
            due = host.due(time.monotonic() + self._max_wait_s)
            if due < host.listed:
                host.listed = due
                heapq.heappush(self._turns, (due, next(self._order), host))
                self._first.notify()

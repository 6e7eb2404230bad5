"""Limits by host, kept by all processes of a build: how many ask at once, when the next may begin, who wants to rest.

A slot on a host is a byte of one file that a process has locked: what a killed process held is free at once, since no
lock outlives its process. When a host was last asked, and until when it wants to be left alone, stands in SQLite.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from data_catalog.errors import ShardError
from data_catalog.fetch.client import Deadline
from data_catalog.fetch.config import MAX_REQUESTS_PER_S, HostPace, group_of
from data_catalog.fetch.urls import FetchError, Target
from data_catalog.storage.disk_errors import raise_if_disk_fails

HOSTS_FILE, SLOTS_FILE = "hosts.sqlite", "slots"
# A row of which nothing has been asked yet is asked later rather than let its thread wait for longer.
WAIT_S = 10.0
# In one try, for its turn on all hosts, beside its deadline; more than the longest Crawl-delay that is heeded.
PATIENCE_S = 90.0
_LONGEST_REST_IN_THREAD_S = 1.0
# Intervals are so much longer: a host counts requests when they come, and some are 50 ms longer on the way than others.
_MARGIN = 1.05
# How often a thread looks whether another process has given up a slot; one's own threads are told at once.
_POLL_S = 0.05
# A server that says a year means its operator's slip, or never; somebody may ask it again after a month.
_LONGEST_REST_S = 30 * 24 * 3600.0
_TABLES = (
    "CREATE TABLE IF NOT EXISTS hosts (name TEXT PRIMARY KEY, last REAL, until REAL, "
    "reason TEXT, detail TEXT, status INTEGER)",
    "CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, time REAL, body TEXT)",
)


class LaterError(Exception):
    """A row is to be asked later, after `wait_s` seconds: nothing of it is lost."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("later")
        self.wait_s = wait_s


@dataclass(slots=True)
class _Line:
    """The threads of this process that want a host, in the order in which they came, and the slots that it holds."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[object] = field(default_factory=deque)
    taken: set[int] = field(default_factory=set)


class Hosts:
    """The limits of all hosts, as one process keeps them together with all others that share a folder.

    Safe to use from several threads. Moments are of the clock on the wall, the only one that outlives a restart.

    Args:
        folder: made if it is not there.
        named: limits by host or domain.
        default: limits of every other host.

    Raises:
        ShardError: here and in every method: the folder cannot be used.
    """

    def __init__(self, folder: Path, named: Mapping[str, HostPace], default: HostPace) -> None:
        self._path = folder / HOSTS_FILE
        self._named = named
        self._default = default
        self._delays: dict[str, float] = {}
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._slots = os.open(folder / SLOTS_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        with self._usable():
            self._connection = sqlite3.connect(self._path, timeout=60.0, isolation_level=None, check_same_thread=False)
            # What is lost where the machine, and not only the process, stops is not missed.
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute("PRAGMA journal_mode = WAL")
            for table in _TABLES:
                self._connection.execute(table)

    def close(self) -> None:
        """Give all slots back."""
        with self._lock:
            self._connection.close()
            os.close(self._slots)

    def group_of(self, host: str) -> str:
        """Return the group whose limits hold for a host."""
        return group_of(host, self._named)

    def pace_of(self, group: str) -> HostPace:
        """Return the limits of a group; a robots.txt may have made them stricter."""
        limits = self._named.get(group, self._default)
        delay_s = self._delays.get(group, 0.0)
        if delay_s <= limits.interval_s:
            return limits
        return HostPace(concurrency=limits.concurrency, requests_per_s=min(MAX_REQUESTS_PER_S, 1 / delay_s))

    def slow_down(self, group: str, delay_s: float) -> None:
        """Keep at least so many seconds between two requests, as a Crawl-delay asks.

        Other processes, and later shards, come to know it before their first request as this one did: `RobotsCache`.
        """
        with self._lock:
            self._delays[group] = max(delay_s, self._delays.get(group, 0.0))

    def take_slot(self, group: str, longest_s: float) -> int | None:
        """Wait for the right to be one of those that ask a host, first come, first served.

        Returns:
            The number of the slot, for `give_slot`; None if that takes longer than `longest_s`.
        """
        end = time.monotonic() + longest_s
        with self._lock:
            line = self._lines.setdefault(group, _Line())
        ticket = object()
        with line.changed:
            line.waiting.append(ticket)
            try:
                while line.waiting[0] is not ticket or (slot := self._free_slot(group, line)) is None:
                    left = end - time.monotonic()
                    if left <= 0:
                        return None
                    others = line.waiting[0] is ticket and len(line.taken) < self.pace_of(group).concurrency
                    line.changed.wait(min(left, _POLL_S) if others else left)
                return slot
            finally:
                line.waiting.remove(ticket)
                line.changed.notify_all()

    def give_slot(self, group: str, slot: int) -> None:
        """Let others ask the host."""
        line = self._lines[group]
        with line.changed:
            fcntl.lockf(self._slots, fcntl.LOCK_UN, 1, _byte_of(group, slot))
            line.taken.discard(slot)
            line.changed.notify_all()

    def wait_to_begin(
        self, group: str, longest_s: float, *, longest_rest_s: float | None = None, sets_rate: bool = False
    ) -> float:
        """Wait for the moment of a request to a host one has a slot on; to be called right before the request.

        Args:
            group: the host's.
            longest_s: nothing is reserved if it takes longer.
            longest_rest_s: nothing is reserved if the host wants to be left alone for longer; None: as `longest_s`.
            sets_rate: its answer may give a rate to a host that has none, and then counts as a request before.

        Returns:
            Seconds that it took.

        Raises:
            LaterError: it would take longer.
        """
        interval_s = _MARGIN * self.pace_of(group).interval_s
        longest_rest_s = longest_s if longest_rest_s is None else min(longest_s, longest_rest_s)
        waited_s = 0.0
        while True:
            if (rest_s := self._rest_s(group)) > longest_rest_s - waited_s:
                raise LaterError(rest_s)
            counts = sets_rate or interval_s > 0
            wait_s = self._reserve(group, interval_s, longest_s - waited_s) if counts else max(0.0, rest_s)
            if not wait_s:
                return waited_s
            time.sleep(wait_s)
            waited_s += wait_s
            if self._rest_s(group) <= 0:  # others may have been told to wait meanwhile
                return waited_s

    def _reserve(self, group: str, interval_s: float, longest_s: float) -> float:
        """Return the seconds until the next moment that is an interval after the last request, and in no pause."""
        with self._usable(), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            now = time.time()
            row = connection.execute("SELECT last, until FROM hosts WHERE name = ?", (group,)).fetchone()
            last, until = row or (0.0, 0.0)
            if last > now + PATIENCE_S + interval_s:
                last = 0.0  # the clock was set back: nobody reserves that long before
            start = max(now, until, last + interval_s)
            if start - now > longest_s:
                raise LaterError(start - now)
            query = (
                "INSERT INTO hosts (name, last, until) VALUES (?1, ?2, 0) ON CONFLICT (name) DO UPDATE SET last = ?2"
            )
            connection.execute(query, (group, start))
            return float(start - now)

    def rest(self, group: str, failure: FetchError, seconds: float) -> None:
        """Let nobody ask a host for some time, a month at most: it said so, in the failure of a row."""
        query = """
            INSERT INTO hosts (name, last, until, reason, detail, status) VALUES (?1, 0, ?2, ?3, ?4, ?5)
            ON CONFLICT (name) DO UPDATE SET until = ?2, reason = ?3, detail = ?4, status = ?5 WHERE until < ?2
        """
        until = time.time() + min(seconds, _LONGEST_REST_S)
        with self._usable():
            self._connection.execute(query, (group, until, failure.reason, failure.detail, failure.http_status))

    def raise_if_resting(self, group: str, longest_s: float) -> None:
        """Raise what a host said that wants to be left alone for longer than `longest_s`, as a failure of one more row.

        Raises:
            FetchError: it does.
        """
        row = self._row(group)
        if row is not None and row[0] > time.time() + longest_s:
            raise FetchError(row[1], row[2], http_status=row[3])

    def _rest_s(self, group: str) -> float:
        """Return for how many more seconds a host wants to be left alone."""
        row = self._row(group)
        return row[0] - time.time() if row is not None else 0.0

    def _row(self, group: str) -> Any:
        query = "SELECT until, reason, detail, status FROM hosts WHERE name = ?"
        with self._usable():
            return self._connection.execute(query, (group,)).fetchone()

    def robots(self, origin: str, max_age_s: float) -> str | None:
        """Return the robots.txt of an origin that came not longer ago than `max_age_s`, or None."""
        query = "SELECT body FROM robots WHERE origin = ? AND time > ?"
        with self._usable():
            row = self._connection.execute(query, (origin, time.time() - max_age_s)).fetchone()
        return None if row is None else str(row[0])

    def keep_robots(self, origin: str, body: str) -> None:
        """Remember the robots.txt of an origin, for other processes and later runs."""
        with self._usable():
            self._connection.execute("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", (origin, time.time(), body))

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Use the database alone among this process's threads; its own locks keep processes apart."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise_if_disk_fails(error, self._path)
                raise ShardError(
                    f"images: {self._path} can't be used ({error}); mend the disk, or delete it"
                ) from error

    def _free_slot(self, group: str, line: _Line) -> int | None:
        """Take a slot that neither a thread of this process nor another process has."""
        for slot in range(self.pace_of(group).concurrency):
            if slot not in line.taken:
                try:
                    fcntl.lockf(self._slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte_of(group, slot))
                except (BlockingIOError, PermissionError):
                    continue
                line.taken.add(slot)
                return slot
        return None


def _byte_of(group: str, slot: int) -> int:
    """Return the byte that stands for a slot; locks may lie behind the end of a file, so that it stays empty."""
    return int.from_bytes(blake2b(group.encode(), digest_size=6).digest()) * 256 + slot


class Visit:
    """Where one try of a row is: the slot that it has, on one host at a time, and how long it has waited.

    Time that it waits for its turn is not taken off its deadline. To be closed when the try ends.
    """

    def __init__(self, hosts: Hosts, deadline: Deadline) -> None:
        self.waited_s = 0.0
        self._hosts = hosts
        self.deadline = deadline
        self._held: tuple[str, int] | None = None
        self.has_begun = False
        self._may_go_back = True

    def go_to(self, target: Target) -> None:
        """Have a slot on the target's group, and on no other: none is held while another is waited for.

        Raises:
            LaterError: there is none, and nothing has been asked that would have to be asked again.
            FetchError: `timeout`, there is none.
        """
        self._may_go_back = not self.has_begun
        self._go_to(target)

    def follow(self, target: Target) -> None:
        """`go_to` on a redirect of a robots.txt, from which there is no way back but to ask for that again."""
        self._may_go_back = False
        self._go_to(target)

    def wait_for_robots(self, target: Target) -> None:
        """Wait for the moment of a request for a robots.txt; to be called right before that. Raises as `begin`."""
        self._wait(target, sets_rate=True)

    def begin(self, target: Target) -> None:
        """Wait for the moment of a request for the image; to be called right before it is made.

        Raises:
            LaterError: it does not come soon, and this is the row's first request.
            FetchError: `timeout`, it does not come in time.
        """
        self._wait(target, sets_rate=False)
        self.has_begun = True
        self._may_go_back = False

    def close(self) -> None:
        """Give up the slot."""
        if self._held is not None:
            held, self._held = self._held, None
            self._hosts.give_slot(*held)

    def _go_to(self, target: Target) -> None:
        group = self._hosts.group_of(target.host)
        if self._held is not None and self._held[0] == group:
            return
        self.close()
        started = time.monotonic()
        slot = self._hosts.take_slot(group, self._patience_s)
        self._leave_out(time.monotonic() - started)
        if slot is None:
            self._give_up(target, 0.0)
        else:
            self._held = group, slot

    def _wait(self, target: Target, *, sets_rate: bool) -> None:
        group = self._hosts.group_of(target.host)
        try:
            # Its time is known: meanwhile the thread can ask others.
            rest_s = _LONGEST_REST_IN_THREAD_S if self._may_go_back else None
            waited_s = self._hosts.wait_to_begin(group, self._patience_s, longest_rest_s=rest_s, sets_rate=sets_rate)
            self._leave_out(waited_s)
        except LaterError as later:
            self._give_up(target, later.wait_s)

    @property
    def _patience_s(self) -> float:
        return max(0.0, (WAIT_S if self._may_go_back else PATIENCE_S) - self.waited_s)

    def _give_up(self, target: Target, wait_s: float) -> None:
        if self._may_go_back:
            raise LaterError(wait_s)
        error = FetchError("timeout", "the host may not be asked in time")
        error.url = target.url
        raise error

    def _leave_out(self, seconds: float) -> None:
        self.waited_s += seconds
        self.deadline.extend(seconds)

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
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError
from data_catalog.fetch.client import Deadline
from data_catalog.fetch.config import MAX_REQUESTS_PER_S, HostPace, group_of
from data_catalog.fetch.urls import FetchError, Target
from data_catalog.storage.disk_errors import raise_if_disk_fails

HOSTS_FILE, SLOTS_FILE = "hosts.sqlite", "slots"
# A thread waits so long for a slot on a host, or for its moment; then the URL is asked later.
WAIT_S = 10.0
# For its moment, if something has been asked that would have to be asked again, or if the thread is the host's own;
# more than the longest Crawl-delay that is heeded.
PATIENCE_S = 90.0
# Where a host wants to be left alone for longer, the thread can ask others meanwhile.
_LONGEST_REST_S = 1.0
# Intervals are so much longer: a host counts requests when they come, and some are 50 ms longer on the way than others.
_MARGIN = 1.05
# How often a thread looks whether another process has given up a slot, waits for one, or was told that a host wants to
# be left alone; one's own threads are told at once.
_POLL_S = 0.05
# A server that says a year means its operator's slip, or never; somebody may ask it again after a month.
_A_MONTH_S = 30 * 24 * 3600.0
# Bytes of the file of locks that are no slots: held while tables are made; by a process that waits for a host.
_MAKING_TABLES = 2**62
_WAITING = 255
_TABLES = (
    "CREATE TABLE IF NOT EXISTS hosts (name TEXT PRIMARY KEY, last REAL, until REAL, noted REAL, "
    "reason TEXT, detail TEXT, status INTEGER)",
    "CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, time REAL, body TEXT)",
)


class LaterError(Exception):
    """A URL is to be asked later, after `wait_s` seconds, since a host cannot be asked now: nothing of it is lost."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("later")
        self.wait_s = wait_s
        self.target: Target | None = None  # what is waited for, where a visit was turned away


@dataclass(slots=True)
class _Line:
    """The threads of this process that want a host, in the order in which they came, and the slots that it holds."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[object] = field(default_factory=deque)
    taken: set[int] = field(default_factory=set)
    left: dict[int, float] = field(default_factory=dict)  # slots that other processes may have first, until when
    looked_at: float = 0.0  # when it was looked for other processes that wait


class Hosts:
    """The limits of all hosts, as one process keeps them together with all others that share a folder.

    Safe to use from several threads. Moments are of the clock on the wall, the only one that outlives a restart.

    Args:
        folder: made if it is not there.
        named: limits by host or domain.
        default: limits of every other host.

    Raises:
        DamagedError, DiskError: here and in every method: the folder cannot be used.
    """

    def __init__(self, folder: Path, named: Mapping[str, HostPace], default: HostPace) -> None:
        self._path = folder / HOSTS_FILE
        self._named = named
        self._default = default
        self._groups: dict[str, str] = {}
        self._delays: dict[str, float] = {}
        self._lines: dict[str, _Line] = {}
        self._known: dict[str, tuple[float, Any]] = {}  # what `_said` found, and until when it may be taken for true
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._slots = os.open(folder / SLOTS_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        with self._usable():
            self._connection = sqlite3.connect(self._path, timeout=60.0, isolation_level=None, check_same_thread=False)
            fcntl.lockf(self._slots, fcntl.LOCK_EX, 1, _MAKING_TABLES)  # SQLite waits for nobody at a change to WAL
            # What is lost where the machine, and not only the process, stops is not missed.
            for statement in ("PRAGMA synchronous = OFF", "PRAGMA journal_mode = WAL", *_TABLES):
                self._connection.execute(statement)
            fcntl.lockf(self._slots, fcntl.LOCK_UN, 1, _MAKING_TABLES)

    def close(self) -> None:
        """Give all slots back."""
        with self._lock:
            self._connection.close()
            os.close(self._slots)

    def group_of(self, host: str) -> str:
        """Return the group whose limits hold for a host."""
        if host not in self._groups:
            self._groups[host] = group_of(host, self._named)
        return self._groups[host]

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
                    has_turn = line.waiting[0] is ticket and len(line.taken) < self.pace_of(group).concurrency
                    if has_turn:
                        fcntl.lockf(self._slots, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _byte_of(group, _WAITING))
                    line.changed.wait(min(left, _POLL_S) if has_turn else left)
                return slot
            finally:
                line.waiting.remove(ticket)
                if not line.waiting:
                    fcntl.lockf(self._slots, fcntl.LOCK_UN, 1, _byte_of(group, _WAITING))
                line.changed.notify_all()

    def give_slot(self, group: str, slot: int) -> None:
        """Let others ask the host: threads of this process, unless another process waits for it."""
        line = self._lines[group]
        with line.changed:
            fcntl.lockf(self._slots, fcntl.LOCK_UN, 1, _byte_of(group, slot))
            line.taken.discard(slot)
            now = time.monotonic()
            if now > line.looked_at + _POLL_S:
                line.looked_at = now
                if self._others_wait(group, line):
                    line.left[slot] = now + 2 * _POLL_S
            line.changed.notify_all()

    def _others_wait(self, group: str, line: _Line) -> bool:
        """Tell whether another process waits for a host."""
        byte = _byte_of(group, _WAITING)
        try:
            fcntl.lockf(self._slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return True
        fcntl.lockf(self._slots, fcntl.LOCK_SH if line.waiting else fcntl.LOCK_UN, 1, byte)
        return False

    def wait_to_begin(self, group: str, longest_s: float, *, sets_rate: bool = False) -> float:
        """Wait for the moment of a request to a host one has a slot on; to be called right before the request.

        Args:
            group: the host's.
            longest_s: nothing is reserved if it takes longer, or if the host wants to be left alone for a while.
            sets_rate: its answer may give a rate to a host that has none, and then counts as a request before.

        Returns:
            Seconds that it took.

        Raises:
            LaterError: it would take longer.
        """
        interval_s = _MARGIN * self.pace_of(group).interval_s
        waited_s = 0.0
        while True:
            if (rest_s := self._rest_s(group)) > _LONGEST_REST_S:
                raise LaterError(rest_s)
            wait_s = max(0.0, rest_s)
            if sets_rate or interval_s > 0:
                wait_s = self._reserve(group, interval_s, wait_s, longest_s - waited_s)
            if not wait_s:
                return waited_s
            time.sleep(wait_s)
            waited_s += wait_s
            if self._rest_s(group) <= 0:  # others may have been told to wait meanwhile
                return waited_s

    def _reserve(self, group: str, interval_s: float, rest_s: float, longest_s: float) -> float:
        """Return the seconds until the next moment that is an interval after the last request, and after a rest."""
        with self._usable(), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            now = time.time()
            row = connection.execute("SELECT last FROM hosts WHERE name = ?", (group,)).fetchone()
            last = row[0] if row else 0.0
            if last > now + PATIENCE_S + interval_s:
                last = 0.0  # the clock was set back: nobody reserves that long before
            start = max(now + rest_s, last + interval_s)
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
            INSERT INTO hosts (name, last, until, noted, reason, detail, status) VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (name) DO UPDATE SET until = ?2, noted = ?3, reason = ?4, detail = ?5, status = ?6
            WHERE until < ?2 OR noted > ?3
        """
        now = time.time()
        values = (group, now + min(seconds, _A_MONTH_S), now, failure.reason, failure.detail, failure.http_status)
        with self._usable():
            self._connection.execute(query, values)
            self._known.pop(group, None)

    def raise_if_resting(self, group: str, longest_s: float) -> None:
        """Raise what a host said that wants to be left alone for longer than `longest_s`, as a failure of one more row.

        Raises:
            FetchError: it does.
        """
        row = self._said(group)
        if row is not None and row[0] > time.time() + longest_s:
            raise FetchError(row[1], row[2], http_status=row[3])

    def _rest_s(self, group: str) -> float:
        """Return for how many more seconds a host wants to be left alone."""
        row = self._said(group)
        return row[0] - time.time() if row is not None else 0.0

    def _said(self, group: str) -> Any:
        """Return until when a host wants to be left alone, and what it said; None if it does not.

        What was noted in the future was noted before the clock was set back.
        """
        now = time.monotonic()
        known_until, row = self._known.get(group, (0.0, None))
        if now < known_until:
            return row
        query = "SELECT until, reason, detail, status FROM hosts WHERE name = ? AND noted < ?"
        with self._usable():
            row = self._connection.execute(query, (group, time.time() + PATIENCE_S)).fetchone()
            self._known[group] = now + _POLL_S, row
        return row

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
                raise DamagedError(
                    f"images: {self._path} can't be used ({error}); mend the disk, or delete it"
                ) from error

    def _free_slot(self, group: str, line: _Line) -> int | None:
        """Take a slot that neither a thread of this process nor another process has."""
        now = time.monotonic()
        for slot in range(self.pace_of(group).concurrency):
            if slot not in line.taken and line.left.get(slot, 0.0) <= now:
                try:
                    fcntl.lockf(self._slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte_of(group, slot))
                except (BlockingIOError, PermissionError):
                    continue
                line.taken.add(slot)
                return slot
        return None


@lru_cache(maxsize=4096)
def _byte_of(group: str, slot: int) -> int:
    """Return the byte that stands for a slot; locks may lie behind the end of a file, so that it stays empty."""
    return int.from_bytes(blake2b(group.encode(), digest_size=6).digest()) * 256 + slot


class Visit:
    """Tracks one try of a URL: the slot that it holds, on one host at a time, and how long it has waited.

    Time that it waits for its turn is not taken off its deadline. To be closed when the try ends.

    Args:
        hosts: keeps the limits.
        deadline: of the try.
        is_patient: no other host's URL waits for the thread.
    """

    def __init__(self, hosts: Hosts, deadline: Deadline, *, is_patient: bool = False) -> None:
        self.waited_s = 0.0
        self.deadline = deadline
        self.has_begun = False  # the image has been asked for
        self._hosts = hosts
        self._is_patient = is_patient
        self._held: tuple[str, int] | None = None

    def go_to(self, target: Target) -> None:
        """Have a slot on the target's group, and on no other: none is held while another is waited for.

        Raises:
            LaterError: there is none in time.
        """
        group = self._hosts.group_of(target.host)
        if self._held is not None and self._held[0] == group:
            return
        self.close()
        started = time.monotonic()
        slot = self._hosts.take_slot(group, WAIT_S)
        self._leave_out(time.monotonic() - started)
        if slot is None:
            later = LaterError(0.0)
            later.target = target
            raise later
        self._held = group, slot

    def wait_for_robots(self, target: Target) -> None:
        """Wait for the moment of a request for a robots.txt; to be called right before that. Raises as `begin`."""
        self._wait(target, sets_rate=True)

    def begin(self, target: Target) -> None:
        """Wait for the moment of a request for the image; to be called right before it is made.

        Raises:
            LaterError: it does not come in time.
        """
        self._wait(target, sets_rate=False)
        self.has_begun = True

    def close(self) -> None:
        """Give up the slot."""
        if self._held is not None:
            held, self._held = self._held, None
            self._hosts.give_slot(*held)

    def _wait(self, target: Target, *, sets_rate: bool) -> None:
        group = self._hosts.group_of(target.host)
        longest_s = PATIENCE_S if self._is_patient or self.has_begun else max(0.0, WAIT_S - self.waited_s)
        try:
            self._leave_out(self._hosts.wait_to_begin(group, longest_s, sets_rate=sets_rate))
        except LaterError as later:
            later.target = target
            raise

    def _leave_out(self, seconds: float) -> None:
        self.waited_s += seconds
        self.deadline.extend(seconds)

"""Limits by host, shared by all processes of a build: concurrent requests, request rates, and pauses.

A slot on a host is a byte of a file that a process has locked. The slots of a killed process are free at once, since a
lock ends with its process. SQLite has the time of each host's last request, and the end of its pause.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
# Longest wait of a thread for a slot on a host, or for the time of its request. After it the URL is requested later.
SHORT_WAIT_S = 10.0
# Longest wait for the time of a request if a request was made that would have to be repeated, or if the thread belongs
# to the host's own pool. It is more than the longest Crawl-delay that is applied.
LONG_WAIT_S = 90.0
# If the pause of a host is longer, the thread serves other hosts meanwhile.
_LONGEST_PAUSE_S = 1.0
# Factor of intervals. A host counts requests when they arrive, and their travel times differ by up to 50 ms.
_MARGIN = 1.05
# Interval in which a thread checks for changes by other processes: a free slot, a waiting process, a pause. Threads of
# its own process notify it at once.
_POLL_S = 0.05
# Longest pause. Longer values of Retry-After, such as a year, are usually mistakes.
_A_MONTH_S = 30 * 24 * 3600.0
# Bytes of the lock file that are no slots: one is locked while tables are made, one by a process that waits for a host.
_MAKING_TABLES = 2**62
_WAITING, _BYTES_A_GROUP = 256, 512
_TABLES = (
    "CREATE TABLE IF NOT EXISTS hosts (name TEXT PRIMARY KEY, last REAL, until REAL, noted REAL, "
    "reason TEXT, detail TEXT, status INTEGER)",
    "CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, time REAL, body TEXT)",
)


class LaterError(Exception):
    """A URL that is to be requested after `wait_s` seconds, since its host has no free slot or is paused."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("later")
        self.wait_s = wait_s
        self.target: Target | None = None  # whose host was busy; set by `Visit`


@dataclass(slots=True)
class _HostQueue:
    """The queue of this process's threads that wait for a host, and the slots that this process holds on it."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[object] = field(default_factory=deque)
    taken: set[int] = field(default_factory=set)
    left: dict[int, float] = field(default_factory=dict)  # slots left to other processes, until that time
    looked_at: float = 0.0  # time of the last check for waiting processes


class Hosts:
    """The limits of all hosts, shared with other processes through a folder.

    It is safe to use from several threads. Times are of the system clock, since the monotonic clock does not survive a
    restart.

    Args:
        folder: made if it does not exist.
        named: limits by host or domain.
        default: limits of every other host.

    Raises:
        DamagedError, DiskError: the folder cannot be used. Every method may raise them.
    """

    def __init__(self, folder: Path, named: Mapping[str, HostPace], default: HostPace) -> None:
        self._path = folder / HOSTS_FILE
        self._named = named
        self._default = default
        self._groups: dict[str, str] = {}
        self._delays: dict[str, float] = {}
        self._lines: dict[str, _HostQueue] = {}
        self._known: dict[str, tuple[float, Any]] = {}  # cache of `_pause_of`: until when it is valid, and the result
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._slots = os.open(folder / SLOTS_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        with self._usable():
            self._connection = sqlite3.connect(self._path, timeout=60.0, isolation_level=None, check_same_thread=False)
            fcntl.lockf(self._slots, fcntl.LOCK_EX, 1, _MAKING_TABLES)  # SQLite does not wait when it changes to WAL
            # Without syncs, a crash of the whole machine may lose entries; they are not needed.
            for statement in ("PRAGMA synchronous = OFF", "PRAGMA journal_mode = WAL", *_TABLES):
                self._connection.execute(statement)
            fcntl.lockf(self._slots, fcntl.LOCK_UN, 1, _MAKING_TABLES)

    def close(self) -> None:
        """Close the database and release all slots."""
        with self._lock:
            self._connection.close()
            os.close(self._slots)

    def group_of(self, host: str) -> str:
        """Return the group that a host belongs to, whose hosts share their limits."""
        if host not in self._groups:
            self._groups[host] = group_of(host, self._named)
        return self._groups[host]

    def pace_of(self, group: str) -> HostPace:
        """Return the limits of a group, with the Crawl-delay of its robots.txt if that is stricter."""
        limits = self._named.get(group, self._default)
        delay_s = self._delays.get(group, 0.0)
        if delay_s <= limits.interval_s:
            return limits
        return HostPace(concurrency=limits.concurrency, requests_per_s=min(MAX_REQUESTS_PER_S, 1 / delay_s))

    def slow_down(self, group: str, delay_s: float) -> None:
        """Set the minimum seconds between two requests, from a Crawl-delay.

        Other processes and later shards read it from robots.txt themselves, before their first request (`RobotsCache`).
        """
        with self._lock:
            self._delays[group] = max(delay_s, self._delays.get(group, 0.0))

    def acquire_slot(self, group: str, longest_s: float) -> int | None:
        """Wait for a slot on a host, first come, first served.

        Returns:
            The number of the slot, for `release_slot`; None if none is free within `longest_s`.
        """
        end = time.monotonic() + longest_s
        with self._lock:
            line = self._lines.setdefault(group, _HostQueue())
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
                        with suppress(BlockingIOError, PermissionError):  # another process looks if somebody waits
                            fcntl.lockf(self._slots, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _byte_of(group, _WAITING))
                    line.changed.wait(min(left, _POLL_S) if has_turn else left)
                return slot
            finally:
                line.waiting.remove(ticket)
                if not line.waiting:
                    fcntl.lockf(self._slots, fcntl.LOCK_UN, 1, _byte_of(group, _WAITING))
                line.changed.notify_all()

    def release_slot(self, group: str, slot: int) -> None:
        """Release a slot, for another process if one waits for the host, else for threads of this process."""
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

    def _others_wait(self, group: str, line: _HostQueue) -> bool:
        """Return whether another process waits for a host."""
        byte = _byte_of(group, _WAITING)
        try:
            fcntl.lockf(self._slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return True
        fcntl.lockf(self._slots, fcntl.LOCK_SH if line.waiting else fcntl.LOCK_UN, 1, byte)
        return False

    def wait_to_begin(self, group: str, longest_s: float, *, sets_rate: bool = False) -> float:
        """Wait until a request to a host may begin. Call it right before the request, with a slot on the host.

        Args:
            group: the host's.
            longest_s: the longest wait.
            sets_rate: reserve a time even if the host has no rate: the answer, a robots.txt, may set one, and this
                request then counts as the last one.

        Returns:
            Seconds that the wait took.

        Raises:
            LaterError: the wait would be longer, or the host is paused. Nothing is reserved.
        """
        interval_s = _MARGIN * self.pace_of(group).interval_s
        waited_s = 0.0
        while True:
            if (rest_s := self._pause_left_s(group)) > _LONGEST_PAUSE_S:
                raise LaterError(rest_s)
            wait_s = max(0.0, rest_s)
            if sets_rate or interval_s > 0:
                wait_s = self._reserve(group, interval_s, wait_s, longest_s - waited_s)
            if not wait_s:
                return waited_s
            time.sleep(wait_s)
            waited_s += wait_s
            if self._pause_left_s(group) <= 0:  # the host may have been paused meanwhile
                return waited_s

    def _reserve(self, group: str, interval_s: float, rest_s: float, longest_s: float) -> float:
        """Reserve the next time that is an interval after the last request and after a pause; return the seconds to it.

        Raises:
            LaterError: it is more than `longest_s` away.
        """
        with self._usable(), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            now = time.time()
            row = connection.execute("SELECT last FROM hosts WHERE name = ?", (group,)).fetchone()
            last = row[0] if row else 0.0
            if last > now + LONG_WAIT_S + interval_s:
                last = 0.0  # the clock was set back: no reservation is that far ahead
            start = max(now + rest_s, last + interval_s)
            if start - now > longest_s:
                raise LaterError(start - now)
            query = (
                "INSERT INTO hosts (name, last, until) VALUES (?1, ?2, 0) ON CONFLICT (name) DO UPDATE SET last = ?2"
            )
            connection.execute(query, (group, start))
            return float(start - now)

    def pause(self, group: str, failure: FetchError, seconds: float) -> None:
        """Pause a host for some seconds, a month at most, because of the failure of a row."""
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

    def raise_if_paused(self, group: str, longest_s: float) -> None:
        """Raise if a host is paused for longer than `longest_s`.

        Raises:
            FetchError: it is paused; the reason is that of the failure that paused it.
        """
        row = self._pause_of(group)
        if row is not None and row[0] > time.time() + longest_s:
            raise FetchError(row[1], row[2], http_status=row[3])

    def _pause_left_s(self, group: str) -> float:
        """Return the seconds until the pause of a host ends; not positive if it is not paused."""
        row = self._pause_of(group)
        return row[0] - time.time() if row is not None else 0.0

    def _pause_of(self, group: str) -> Any:
        """Return the end of a host's pause, and the reason, detail and status that caused it; None without a pause.

        Pauses that were recorded in the future are ignored: the clock was set back.
        """
        now = time.monotonic()
        known_until, row = self._known.get(group, (0.0, None))
        if now < known_until:
            return row
        query = "SELECT until, reason, detail, status FROM hosts WHERE name = ? AND noted < ?"
        with self._usable():
            row = self._connection.execute(query, (group, time.time() + LONG_WAIT_S)).fetchone()
            self._known[group] = now + _POLL_S, row
        return row

    def robots(self, origin: str, max_age_s: float) -> str | None:
        """Return the stored robots.txt of an origin; None if there is none, or it is older than `max_age_s`."""
        query = "SELECT body FROM robots WHERE origin = ? AND time > ?"
        with self._usable():
            row = self._connection.execute(query, (origin, time.time() - max_age_s)).fetchone()
        return None if row is None else str(row[0])

    def store_robots(self, origin: str, body: str) -> None:
        """Store the robots.txt of an origin, for other processes and later runs."""
        with self._usable():
            self._connection.execute("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", (origin, time.time(), body))

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Lock the database for one thread of this process; SQLite's own locks separate processes.

        Raises:
            DiskError: the disk is full, or fails.
            DamagedError: the database cannot be used.
        """
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise_if_disk_fails(error, self._path)
                raise DamagedError(
                    f"images: {self._path} can't be used ({error}). Repair the disk, or delete the file"
                ) from error

    def _free_slot(self, group: str, line: _HostQueue) -> int | None:
        """Take a slot that is free in this and all other processes; return None if there is none."""
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
    """Return the offset of the byte that represents a slot. The file stays empty: locks may be beyond its end."""
    return int.from_bytes(blake2b(group.encode(), digest_size=6).digest()) * _BYTES_A_GROUP + slot


class Visit:
    """A try of a URL: the slot that it holds, on one host at a time, and the seconds that it has waited.

    Waits for a turn extend the deadline. Close it when the try ends.

    Args:
        hosts: the limits of hosts.
        deadline: of the try.
        can_wait_long: the thread serves only this host, so that it can wait longer.
    """

    def __init__(self, hosts: Hosts, deadline: Deadline, *, can_wait_long: bool = False) -> None:
        self.waited_s = 0.0
        self.deadline = deadline
        self.has_begun = False  # a request for the image was made
        self._hosts = hosts
        self._can_wait_long = can_wait_long
        self._held: tuple[str, int] | None = None

    def go_to(self, target: Target) -> None:
        """Take a slot on the target's group. Release any other slot first, so that none is held during the wait.

        Raises:
            LaterError: no slot is free in time.
        """
        group = self._hosts.group_of(target.host)
        if self._held is not None and self._held[0] == group:
            return
        self.close()
        started = time.monotonic()
        slot = self._hosts.acquire_slot(group, SHORT_WAIT_S)
        self._add_wait(time.monotonic() - started)
        if slot is None:
            later = LaterError(0.0)
            later.target = target
            raise later
        self._held = group, slot

    def wait_for_robots(self, target: Target) -> None:
        """Wait until a request for a robots.txt may begin. Call it right before the request.

        Raises:
            LaterError: the wait would be too long.
        """
        self._wait(target, sets_rate=True)

    def begin(self, target: Target) -> None:
        """Wait until a request for the image may begin. Call it right before the request.

        Raises:
            LaterError: the wait would be too long.
        """
        self._wait(target, sets_rate=False)
        self.has_begun = True

    def close(self) -> None:
        """Release the slot."""
        if self._held is not None:
            held, self._held = self._held, None
            self._hosts.release_slot(*held)

    def _wait(self, target: Target, *, sets_rate: bool) -> None:
        group = self._hosts.group_of(target.host)
        longest_s = LONG_WAIT_S if self._can_wait_long or self.has_begun else max(0.0, SHORT_WAIT_S - self.waited_s)
        try:
            self._add_wait(self._hosts.wait_to_begin(group, longest_s, sets_rate=sets_rate))
        except LaterError as later:
            later.target = target
            raise

    def _add_wait(self, seconds: float) -> None:
        self.waited_s += seconds
        self.deadline.extend(seconds)

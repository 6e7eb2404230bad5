"""How each host is asked by all processes of a build: rate, concurrency, turns, waits that it asks for."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from data_catalog.errors import ConfigError, ShardError
from data_catalog.fetch.connection import Deadline
from data_catalog.fetch.ledger import HostLedger, Lease
from data_catalog.fetch.urls import FetchError, Target
from data_catalog.settings import require_between
from data_catalog.storage.disk_errors import raise_if_disk_fails

_MOST_REQUESTS_PER_S = 10_000
# Intervals are so much longer: a host counts requests when they come, and some are 50 ms longer on the way than others.
_MARGIN = 1.05
# How often a thread that a redirect has led to a busy host looks whether there is a place.
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPace:
    """How fast a host, or a domain with all hosts below it, is asked.

    Args:
        concurrency: requests under way at once.
        requests_per_s: requests begun a second, evenly spaced, redirects and robots.txt included; 0: no limit.
    """

    concurrency: int = 8
    requests_per_s: float = 20.0

    @property
    def interval_s(self) -> float:
        """Seconds between the beginnings of two requests."""
        return 1 / self.requests_per_s if self.requests_per_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """What a recipe says of a host, or of a domain with all hosts below it; what it leaves out stays as it is.

    Args:
        concurrency: requests under way at once.
        requests_per_s: requests begun a second, evenly spaced, redirects and robots.txt included; 0: no limit.
    """

    concurrency: int | None = None
    requests_per_s: float | None = None

    def __post_init__(self) -> None:
        """Raise `ConfigError`, naming the field, if a value is out of range."""
        if self.concurrency is not None:
            require_between("fetch.hosts.*.concurrency", self.concurrency, 1, 256)
        if self.requests_per_s is not None:
            require_between("fetch.hosts.*.requests_per_s", self.requests_per_s, 0, _MOST_REQUESTS_PER_S)

    def over(self, pace: HostPace) -> HostPace:
        """A pace with the fields that are given here."""
        return HostPace(
            concurrency=pace.concurrency if self.concurrency is None else self.concurrency,
            requests_per_s=pace.requests_per_s if self.requests_per_s is None else self.requests_per_s,
        )


# What operators ask for: Wikimedia's robot policy for media allows two connections and 25 Mbit/s.
KNOWN_HOSTS: Mapping[str, HostPace] = {
    "upload.wikimedia.org": HostPace(concurrency=2, requests_per_s=10),
    "thumb.wikimedia.org": HostPace(concurrency=2, requests_per_s=10),
    "staticflickr.com": HostPace(concurrency=8, requests_per_s=20),
    "images.cocodataset.org": HostPace(concurrency=16, requests_per_s=50),
}


def named_paces(hosts: Mapping[str, HostLimits], default: HostPace) -> Mapping[str, HostPace]:
    """The known hosts and those that a recipe names; what it leaves out is as known of the host, or as by default."""
    known = {name: KNOWN_HOSTS.get(group_of(name, KNOWN_HOSTS), default) for name in hosts}
    return {**KNOWN_HOSTS, **{name: limits.over(known[name]) for name, limits in hosts.items()}}


def group_of(host: str, named: Mapping[str, HostPace]) -> str:
    """The longest name among `named` that is the host or a domain above it, else the host itself.

    A limit that is named for a domain holds for all its hosts together.
    """
    host = host.lower().rstrip(".")
    labels = host.split(".")
    domains = (".".join(labels[start:]) for start in range(len(labels)))
    return next((domain for domain in domains if domain in named), host)


def check_host_names(names: Iterator[str]) -> None:
    """Raise `ConfigError` unless all are names of hosts: no scheme, no port, no path."""
    for name in names:
        if not name or name != name.lower().strip(". ") or set(name) & set("/:@*"):
            raise ConfigError(f"fetch.hosts names {name!r}: a host or domain such as example.org is wanted")


class HostClock:
    """The limits of the hosts that one process asks, and the waits that keep them.

    Args:
        ledger: shared with all other processes of the build.
        named: limits by host or domain.
        default: limits of every other host.
    """

    def __init__(self, ledger: HostLedger, named: Mapping[str, HostPace], default: HostPace) -> None:
        self.ledger = ledger
        self._named = named
        self._default = default
        self._delays: dict[str, float] = {}
        self._lock = threading.Lock()

    def group_of(self, host: str) -> str:
        """The group whose limits hold for a host."""
        return group_of(host, self._named)

    def limits_of(self, group: str) -> HostPace:
        """The limits of a group; a robots.txt may have made them stricter."""
        limits = self._named.get(group, self._default)
        with self._lock:
            delay_s = self._delays.get(group, 0.0)
        if delay_s <= limits.interval_s:
            return limits
        return HostPace(concurrency=limits.concurrency, requests_per_s=min(_MOST_REQUESTS_PER_S, 1 / delay_s))

    def slow_down(self, group: str, delay_s: float) -> None:
        """Keep at least so many seconds between two requests, as a Crawl-delay asks.

        Other processes, and later shards, come to know it before their first request as this one did: `RobotsCache`.
        """
        with self._lock:
            self._delays[group] = max(delay_s, self._delays.get(group, 0.0))

    def may_go_on(self, group: str) -> bool:
        """Whether a lease that ends now may serve another request at once: the host has no rate, and no pause."""
        return not self.limits_of(group).interval_s and self.ledger.may_hand_over(group)

    def try_start(self, group: str, *, urgent: bool = False) -> Lease | float:
        """See `HostLedger.try_start`."""
        limits = self.limits_of(group)
        interval_s = _MARGIN * limits.interval_s
        return self.ledger.try_start(group, concurrency=limits.concurrency, interval_s=interval_s, urgent=urgent)

    def wait_to_start(self, group: str, longest_s: float) -> Lease | None:
        """Wait for a lease, holding none; None if that takes too long, without waiting where it is known before."""
        end = time.monotonic() + longest_s
        while True:
            found = self.try_start(group, urgent=True)
            if isinstance(found, Lease):
                return found
            if found > end - time.monotonic():
                return None
            time.sleep(max(found, _POLL_S))

    def wait_for(self, host: str, longest_s: float, *, sets_rate: bool = False) -> float | None:
        """Wait for the moment of a request to a host one has a lease on; to be called right before the request.

        Args:
            host: its name.
            longest_s: see below.
            sets_rate: its answer may give a rate to a host that has none, and then counts as a request before.

        Returns:
            Seconds that it took; None if it would take longer than `longest_s`.
        """
        group = self.group_of(host)
        interval_s = _MARGIN * self.limits_of(group).interval_s
        if not (interval_s or sets_rate) and not self.ledger.is_paused(group):
            return 0.0
        waited_s = 0.0
        while True:
            wait_s = self.ledger.reserve(group, interval_s=interval_s, longest_s=longest_s - waited_s)
            if wait_s is None:
                return None
            time.sleep(wait_s)
            waited_s += wait_s
            if not wait_s or not self.ledger.is_paused(group):  # others may have been told to wait meanwhile
                return waited_s


MAX_BACKOFF_S = 300.0


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, by number or by date; None if it says nothing that makes sense."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        asked: datetime = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # of zones and years beyond all measure
        return None
    asked = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    wait_s: float = (asked - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, wait_s)


def backoff_s(first_s: float, tries: int, rng: random.Random) -> float:
    """The wait after so many failed tries: doubled with each, and up to half as much again by chance.

    Chance keeps rows that failed together from coming back together.
    """
    return min(MAX_BACKOFF_S, first_s * 2.0 ** (tries - 1)) * rng.uniform(1.0, 1.5)


# A server that says a year means its operator's slip, or never; somebody may ask it again after a month.
_LONGEST_S = 30 * 24 * 3600.0
_TABLE = (
    "CREATE TABLE IF NOT EXISTS closed (name TEXT PRIMARY KEY, until REAL, reason TEXT, detail TEXT, status INTEGER)"
)


class ClosedHosts:
    """Until when hosts are closed, by the clock on the wall, and what they said; safe to use from several threads.

    Args:
        path: of the file, made when it is not there; several processes share it.

    Raises:
        ShardError: here and in every method: the file can't be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
            self._connection.execute(_TABLE)
            self._connection.execute("DELETE FROM closed WHERE until <= ?", (time.time(),))
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def add(self, group: str, failure: FetchError, seconds: float) -> None:
        """Close a host, or a domain, from now on, for the reason it gave; a month at most."""
        until = time.time() + min(seconds, _LONGEST_S)
        values = (group, until, failure.reason, failure.detail, failure.http_status)
        self._rows("INSERT OR REPLACE INTO closed VALUES (?, ?, ?, ?, ?)", values)

    def failure_of(self, group: str) -> FetchError | None:
        """What a closed host said, as a failure of one more row; None if it may be asked."""
        query = "SELECT reason, detail, status FROM closed WHERE name = ? AND until > ?"
        rows = self._rows(query, (group, time.time()))
        return FetchError(rows[0][0], rows[0][1], http_status=rows[0][2]) if rows else None

    def _rows(self, query: str, values: tuple[str | float | None, ...]) -> list[tuple[str, str | None, int | None]]:
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> ShardError:
        raise_if_disk_fails(error, self._path)
        return ShardError(f"images: {self._path} can't be used ({error}); mend the disk, or delete it")


# In one try, for its turn on all hosts, beside its deadline; more than the longest Crawl-delay that is heeded.
PATIENCE_S = 90.0
# A row of which nothing has been asked yet goes back rather than let a thread wait for longer.
_SHORT_WAIT_S = 1.0


class NotYetError(Exception):
    """The row's own host may not be asked for a while; nothing that was asked has to be asked again."""


class Visit:
    """Where one try is; to be closed when it ends. Time that it waits for its turn is not taken off its deadline.

    Args:
        clock: when which host may be asked.
        deadline: of the try.
        home: the group of the row's own host, on which there is a lease.
        leave: gives that lease up; called once at most.
    """

    def __init__(self, clock: HostClock, deadline: Deadline, *, home: str, leave: Callable[[], None]) -> None:
        self.waited_s = 0.0
        self._clock = clock
        self._deadline = deadline
        self._group: str | None = home
        self._leave = leave
        self._lease: Lease | None = None
        self._has_begun = False
        self._may_go_back = True

    def go_to(self, target: Target) -> None:
        """Have a lease on the target's group, and on no other: none is held while another is waited for.

        Raises:
            FetchError: `timeout`, there is no place.
        """
        self._may_go_back = not self._has_begun
        group = self._clock.group_of(target.host)
        if group == self._group:
            return
        self._give_up()
        started = time.monotonic()
        self._lease = self._clock.wait_to_start(group, PATIENCE_S - self.waited_s)
        self._leave_out(time.monotonic() - started)
        if self._lease is None:
            raise _too_late(target)
        self._group = group

    def follow(self, target: Target) -> None:
        """`go_to` on a redirect of a robots.txt, from which there is no way back but to ask for that again."""
        self.go_to(target)
        self._may_go_back = False

    def wait_for_robots(self, target: Target) -> None:
        """Wait for the moment of a request for a robots.txt; to be called right before that. Raises as `begin`."""
        self._wait(target, sets_rate=True)

    def begin(self, target: Target) -> None:
        """Wait for the moment of a request for the image; to be called right before it is made.

        Raises:
            FetchError: `timeout`, it does not come in time.
            NotYetError: the row can as well be asked later: this is its first request.
        """
        self._wait(target, sets_rate=False)
        self._has_begun = True
        self._may_go_back = False

    def _wait(self, target: Target, *, sets_rate: bool) -> None:
        longest_s = _SHORT_WAIT_S if self._may_go_back else PATIENCE_S - self.waited_s
        waited_s = self._clock.wait_for(target.host, longest_s, sets_rate=sets_rate)
        if waited_s is None:
            raise NotYetError if self._may_go_back else _too_late(target)
        self._leave_out(waited_s)

    def close(self) -> None:
        """Give up the lease, unless it is the first one, which is not ours."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            self._clock.ledger.end(lease)

    def _give_up(self) -> None:
        if self._lease is None and self._group is not None:
            self._leave()
        self._group = None
        self.close()

    def _leave_out(self, seconds: float) -> None:
        self.waited_s += seconds
        self._deadline.extend(seconds)


def _too_late(target: Target) -> FetchError:
    error = FetchError("timeout", "the host may not be asked in time")
    error.url = target.url
    return error

"""What is known of hosts: their robots.txt (RFC 9309), whose rules hold for a day, and pauses that they asked for."""

import sqlite3
import threading
import time
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError
from data_catalog.fetch.client import GZIP, GZIP_CODINGS, Response
from data_catalog.fetch.config import MAX_BACKOFF_S, FetchConfig
from data_catalog.fetch.consent import RobotsTxt
from data_catalog.fetch.frontier import LONGEST_PAUSE_S, Frontier
from data_catalog.fetch.urls import FetchError, Target, parse_url

HOSTS_FILE = "hosts.sqlite"
# Failures to reach a host. They become the reason of its images, instead of `robots_unreachable`.
HOST_FAILURES = frozenset({"dns", "connect", "tls", "timeout", "private_address", "port"})
# RFC 9309 requires at least 500 KiB of a robots.txt to be read. The rest is ignored.
_MAX_BYTES = 512 * 1024
_RULES_AGE_S = 24 * 3600.0
_FAILURE_AGE_S = 60.0
# Parsed rules take about thirty times the memory of their text. Those of an origin count as at least `_LEAST_TEXT`.
_TEXT_IN_MEMORY, _LEAST_TEXT = 4 * 1024 * 1024, 500


class HostStore:
    """The file in which a fetching process keeps robots.txt files for a day, and pauses of hosts until they end.

    Times are of the system clock, since they outlive the process.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = folder / HOSTS_FILE, threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._run("PRAGMA synchronous = OFF")  # a crash of the machine may lose entries; they are not needed
        self._run("CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, time REAL, body TEXT)")
        self._run(
            "CREATE TABLE IF NOT EXISTS paused "
            "(host TEXT PRIMARY KEY, until REAL, reason TEXT, detail TEXT, status INTEGER)"
        )

    def robots(self, origin: str) -> str | None:
        """Return the robots.txt of an origin; None if there is none of the last day."""
        rows = self._run("SELECT body FROM robots WHERE origin = ? AND time > ?", origin, time.time() - _RULES_AGE_S)
        return str(rows[0][0]) if rows else None

    def store_robots(self, origin: str, body: str) -> None:
        """Store the robots.txt of an origin."""
        self._run("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", origin, time.time(), body)

    def pauses(self) -> Iterator[tuple[str, float, FetchError]]:
        """Yield the hosts that are paused now, the seconds left, and the failure."""
        now = time.time()
        query = "SELECT host, until, reason, detail, status FROM paused WHERE until > ?"
        for host, until, reason, detail, status in self._run(query, now):
            yield host, until - now, FetchError(reason, detail, http_status=status)

    def store_pause(self, host: str, failure: FetchError, seconds: float) -> None:
        """Store how long a host is paused, and why; a shorter pause changes nothing."""
        until = time.time() + min(seconds, LONGEST_PAUSE_S)
        statement = """
            INSERT INTO paused (host, until, reason, detail, status) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (host) DO UPDATE SET until = excluded.until, reason = excluded.reason,
                detail = excluded.detail, status = excluded.status WHERE until < excluded.until
        """
        self._run(statement, host, until, failure.reason, failure.detail, failure.http_status)

    def _run(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, about(self._path, kind=DamagedError, remedy="repair the disk, or delete the file"):
            if self._connection is None:
                self._connection = sqlite3.connect(
                    self._path, timeout=60.0, isolation_level=None, check_same_thread=False
                )
                weakref.finalize(self, self._connection.close)  # Python 3.13 warns of a connection that nobody closed
            return self._connection.execute(statement, values).fetchall()


@dataclass(slots=True, eq=False)
class RobotsVisit:
    """A request for the robots.txt of an origin, and the visits that wait for it."""

    origin: str
    target: Target
    left_s: float
    parked: list[Any] = field(default_factory=list)
    hops: int = 0
    order: int = 0


class _Known(NamedTuple):
    """The rules of an origin, or its last failure, and for how long it holds."""

    rules: RobotsTxt | FetchError
    valid_until: float
    size: int = _LEAST_TEXT
    failures: int = 0


class Robots:
    """The rules of all origins. A Crawl-delay slows down the host at the frontier."""

    def __init__(self, config: FetchConfig, store: HostStore, frontier: Frontier) -> None:
        self._config, self._store, self._frontier = config, store, frontier
        self._known: OrderedDict[str, _Known] = OrderedDict()  # by origin, the last used at the end
        self._asking: dict[str, RobotsVisit] = {}  # by origin
        self._size = 0
        self._lock = threading.Lock()

    def rules_for(self, visit: Any) -> RobotsTxt | FetchError | RobotsVisit | None:
        """Return the rules of a visit's origin, or its failure, or a request to be made; None: the visit is parked."""
        origin = visit.target.origin
        with self._lock:
            known = self._known.get(origin)
            if known is not None and time.monotonic() < known.valid_until:
                self._known.move_to_end(origin)
                return known.rules
            if origin in self._asking:
                self._asking[origin].parked.append(visit)
                return None
            if (text := self._store.robots(origin)) is not None:
                return self._learn(origin, text)
            place = replace(visit.target, path="/robots.txt")
            found = self._asking[origin] = RobotsVisit(origin, place, self._config.deadline_s, [visit])
            return found

    def note(self, asked: RobotsVisit, found: str | FetchError) -> FetchError | None:
        """Keep the text of a robots.txt; or its failure, which is returned as that of the visits that wait."""
        with self._lock:
            del self._asking[asked.origin]
            if isinstance(found, FetchError):
                return self._learn_failure(asked.origin, found)
            self._store.store_robots(asked.origin, found)
            self._learn(asked.origin, found)
            return None

    def _learn(self, origin: str, text: str) -> RobotsTxt:
        rules = RobotsTxt(text, self._config.robot)
        if rules.crawl_delay:
            self._frontier.slow_down(parse_url(origin).host, rules.crawl_delay)
        self._remember(origin, _Known(rules, time.monotonic() + _RULES_AGE_S, max(_LEAST_TEXT, len(text))))
        return rules

    def _learn_failure(self, origin: str, error: FetchError) -> FetchError:
        """Keep a failure for as long as its rows wait for their retries."""
        failures = self._known[origin].failures if origin in self._known else 0
        age_s = backoff_s(self._config, failures + 1) if failures < self._config.retries else _FAILURE_AGE_S
        if error.reason in HOST_FAILURES or error.retry_after_s is not None:
            age_s = 0.0  # a retry tries to reach the host itself; or the host is paused
        if error.reason not in HOST_FAILURES:
            error = replace(error, reason="robots_unreachable", detail=str(error))
        self._remember(origin, _Known(error, time.monotonic() + age_s, failures=failures + 1))
        return error

    def _remember(self, origin: str, known: _Known) -> None:
        old = self._known.pop(origin, None)
        self._known[origin] = known
        self._size += known.size - (old.size if old else 0)
        while self._size > _TEXT_IN_MEMORY and len(self._known) > 1:
            self._size -= self._known.popitem(last=False)[1].size


def robots_text(response: Response) -> str:
    """Return the start of a robots.txt, which some servers compress unasked; its rules would be missed otherwise."""
    body = response.read_start(_MAX_BYTES)
    if body.startswith(GZIP):
        try:
            body = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(body, _MAX_BYTES)
        except zlib.error as error:
            raise FetchError("not_http", "damaged gzip") from error
    elif response.coding not in ("", "identity", *GZIP_CODINGS):  # some announce gzip and send plain text
        raise FetchError("not_http", f"Content-Encoding: {response.coding[:20]}")
    return body.decode("utf-8-sig", "replace")


def backoff_s(config: FetchConfig, tries: int) -> float:
    """Return the least wait for a retry after some tries, in seconds."""
    return min(MAX_BACKOFF_S, config.backoff_s * 2.0 ** (tries - 1))

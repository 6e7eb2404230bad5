"""The file in which a fetching process keeps robots.txt files for a day, and pauses of hosts until they end."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_catalog.errors import DamagedError
from data_catalog.fetch.frontier import LONGEST_PAUSE_S
from data_catalog.fetch.urls import FetchError
from data_catalog.storage.disk_errors import raise_if_disk_fails

HOSTS_FILE = "hosts.sqlite"
_A_DAY_S = 24 * 3600.0
_TABLES = (
    "PRAGMA synchronous = OFF",  # a crash of the machine may lose entries; they are not needed
    "CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, time REAL, body TEXT)",
    "CREATE TABLE IF NOT EXISTS paused (host TEXT PRIMARY KEY, since REAL, until REAL, reason TEXT, detail TEXT, "
    "status INTEGER)",
)


class HostStore:
    """The file of a fetching process. Times are of the system clock, since they outlive the process.

    Raises:
        DamagedError, DiskError: the file cannot be used. Every method may raise them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = folder / HOSTS_FILE, threading.Lock()
        with self._usable():
            self._connection = sqlite3.connect(self._path, timeout=60.0, isolation_level=None, check_same_thread=False)
            for statement in _TABLES:
                self._connection.execute(statement)

    def robots(self, origin: str) -> str | None:
        """Return the robots.txt of an origin; None if there is none of the last day."""
        with self._usable():
            query = "SELECT body FROM robots WHERE origin = ? AND time > ?"
            row = self._connection.execute(query, (origin, time.time() - _A_DAY_S)).fetchone()
        return None if row is None else str(row[0])

    def store_robots(self, origin: str, body: str) -> None:
        """Store the robots.txt of an origin."""
        with self._usable():
            self._connection.execute("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", (origin, time.time(), body))

    def pauses(self) -> Iterator[tuple[str, float, FetchError]]:
        """Yield the hosts that are paused now, the seconds left, and the failure.

        Pauses that began in the future are ignored: the clock was set back.
        """
        now = time.time()
        with self._usable():
            query = "SELECT host, until, reason, detail, status FROM paused WHERE since < ? AND until > ?"
            rows = self._connection.execute(query, (now + 60, now)).fetchall()
        for host, until, reason, detail, status in rows:
            yield host, until - now, FetchError(reason, detail, http_status=status)

    def store_pause(self, host: str, failure: FetchError, seconds: float) -> None:
        """Store how long a host is paused, and why; a shorter pause changes nothing."""
        now = time.time()
        until = now + min(seconds, LONGEST_PAUSE_S)
        values = (host, now, until, failure.reason, failure.detail, failure.http_status)
        query = """
            INSERT INTO paused VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (host) DO UPDATE
            SET since = excluded.since, until = excluded.until, reason = excluded.reason, detail = excluded.detail,
                status = excluded.status WHERE until < excluded.until OR since > excluded.since
        """
        with self._usable():
            self._connection.execute(query, values)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise_if_disk_fails(error, self._path)
                raise DamagedError(
                    f"images: {self._path} can't be used ({error}). Repair the disk, or delete the file"
                ) from error

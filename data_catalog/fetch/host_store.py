"""The file in which a fetching process keeps robots.txt files for a day, and pauses of hosts until they end."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_catalog.base.errors import DamagedError
from data_catalog.disk.disk_errors import raise_if_disk_fails
from data_catalog.fetch.frontier import LONGEST_PAUSE_S
from data_catalog.fetch.urls import FetchError

HOSTS_FILE = "hosts.sqlite"
_A_DAY_S = 24 * 3600.0


class HostStore:
    """The file of a fetching process. Times are of the system clock, since they outlive the process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = folder / HOSTS_FILE, threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._run("PRAGMA synchronous = OFF")  # a crash of the machine may lose entries; they are not needed
        self._run("CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, time REAL, body TEXT)")
        self._run(
            "CREATE TABLE IF NOT EXISTS paused "
            "(host TEXT PRIMARY KEY, since REAL, until REAL, reason TEXT, detail TEXT, status INTEGER)"
        )

    def robots(self, origin: str) -> str | None:
        """Return the robots.txt of an origin; None if there is none of the last day."""
        rows = self._run("SELECT body FROM robots WHERE origin = ? AND time > ?", origin, time.time() - _A_DAY_S)
        return str(rows[0][0]) if rows else None

    def store_robots(self, origin: str, body: str) -> None:
        """Store the robots.txt of an origin."""
        self._run("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", origin, time.time(), body)

    def pauses(self) -> Iterator[tuple[str, float, FetchError]]:
        """Yield the hosts that are paused now, the seconds left, and the failure.

        Pauses that began in the future are ignored: the clock was set back.
        """
        now = time.time()
        query = "SELECT host, until, reason, detail, status FROM paused WHERE since < ? AND until > ?"
        for host, until, reason, detail, status in self._run(query, now + 60, now):
            yield host, until - now, FetchError(reason, detail, http_status=status)

    def store_pause(self, host: str, failure: FetchError, seconds: float) -> None:
        """Store how long a host is paused, and why; a shorter pause changes nothing."""
        now = time.time()
        until = now + min(seconds, LONGEST_PAUSE_S)
        statement = """
            INSERT INTO paused VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (host) DO UPDATE
            SET since = excluded.since, until = excluded.until, reason = excluded.reason, detail = excluded.detail,
                status = excluded.status WHERE until < excluded.until OR since > excluded.since
        """
        self._run(statement, host, now, until, failure.reason, failure.detail, failure.http_status)

    def _run(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = sqlite3.connect(
                        self._path, timeout=60.0, isolation_level=None, check_same_thread=False
                    )
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise_if_disk_fails(error, self._path)
                raise DamagedError(
                    f"images: {self._path} can't be used ({error}). Repair the disk, or delete the file"
                ) from error

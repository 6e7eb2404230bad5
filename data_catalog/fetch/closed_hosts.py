"""Hosts that asked for more time than a build waits: left alone until then, by all processes and later runs."""

import sqlite3
import threading
import time
from pathlib import Path

from data_catalog.errors import ShardError
from data_catalog.fetch.urls import FetchError
from data_catalog.storage.disk_errors import raise_if_disk_fails

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

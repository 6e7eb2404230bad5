"""The lease by which a flow keeps the fetching processes of other machines at work.

A process that has not seen it renewed for `LEASE_S` begins no request. So a flow that cannot reach a process knows when
its hosts may go to another one.
"""

import json
import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

LEASE_S = 10.0
RENEWED_S = 1.0


def renew(path: Path, beat: int, names: Sequence[str]) -> None:
    """Renew the lease of the processes that are believed alive."""
    from data_catalog.disk.files import write_json  # fetching processes need no pyarrow

    write_json(path, {"beat": beat, "names": list(names)})


class Lease:
    """The lease of a process, read from a file that all machines share."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._beat: int | None = None
        self._lock = threading.Lock()
        self._seen_at = self._looked_at = -math.inf

    def holds(self) -> bool:
        """Return whether the process may begin requests."""
        with self._lock:
            now = time.monotonic()
            if now > self._looked_at + RENEWED_S:
                with suppress(OSError, ValueError, KeyError):
                    content = json.loads(self._path.read_text(encoding="utf-8"))
                    if self._name in content["names"] and (self._beat is None or content["beat"] > self._beat):
                        # What is seen first may be old.
                        self._seen_at = -math.inf if self._beat is None else now
                        self._beat = content["beat"]
                self._looked_at = now
            return now < self._seen_at + LEASE_S

    def wait(self) -> bool:
        """Wait for the first renewal; return False if none comes in time."""
        end = time.monotonic() + LEASE_S
        while not (found := self.holds()) and time.monotonic() < end:
            time.sleep(RENEWED_S / 4)
        return found

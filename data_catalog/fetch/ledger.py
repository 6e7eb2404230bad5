"""Who asks which host, and when it may be asked next: in files, since many processes ask."""

import errno
import fcntl
import itertools
import json
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Each process keeps them open, once used.
_NUM_FILES = 64
_PIECE_BYTES = 65536
# How soon a place may be free on a host that another process keeps busy; one's own threads are told at once.
_BUSY_WAIT_S = 0.02
# A lease may be had so much before a request may begin, since hosts are looked up in between.
_NEAR_S = 1.0
# For how long after a try an urgent one is remembered; it is repeated sooner.
_WANTED_S = 1.0
_LONG_AGO = -1e9


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to be one of those that ask a host; until it is given back, or its holder has ended, it counts.

    When a request may begin is another matter: `HostLedger.reserve`.
    """

    group: str
    number: int


class HostLedger:
    """One holder of leases among all those that share a folder and so keep the limits together.

    What a killed process held is free again: a holder locks a file of its own, and no lock outlives its process,
    though its process id may.

    Raises:
        OSError: here and in every method: the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._locks = [threading.Lock() for _ in range(_NUM_FILES)]
        self._opening = threading.Lock()
        self._is_closed = False
        self._descriptors: dict[int, int] = {}
        self._numbers = itertools.count()
        self._descriptor, path = tempfile.mkstemp(prefix="holder-", dir=folder)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._holder = Path(path).name

    def close(self) -> None:
        """Give all leases back."""
        (self._folder / self._holder).unlink(missing_ok=True)
        with self._opening:
            self._is_closed = True
        for number, descriptor in self._descriptors.items():
            with self._locks[number]:  # the number of a descriptor may soon be another file's
                os.close(descriptor)
        os.close(self._descriptor)

    def try_start(self, group: str, *, concurrency: int, interval_s: float, urgent: bool = False) -> Lease | float:
        """A lease on a host that may be asked about now, or seconds after which to try again.

        Args:
            group: the host or domain.
            concurrency: leases on it that there may be at once.
            interval_s: between two requests, and so between two leases.
            urgent: leases that are given back are not handed over while this one is tried for.
        """
        now = time.monotonic()
        with self._entry(group) as entry:
            slot = max(entry["until"], entry["last"] + interval_s)
            ready_at = max(entry["next_lease"], slot - min(interval_s, _NEAR_S))
            if ready_at > now:
                return float(ready_at - now)
            entry["leases"] = [lease for lease in entry["leases"] if self._is_held(lease[0])]
            if len(entry["leases"]) >= concurrency:
                entry["wanted"] = now + _WANTED_S if urgent else entry["wanted"]
                return _BUSY_WAIT_S
            lease = Lease(group, next(self._numbers))
            entry["leases"].append([self._holder, lease.number])
            entry["next_lease"] = now + interval_s
            return lease

    def reserve(self, group: str, *, interval_s: float, longest_s: float) -> float | None:
        """Seconds to wait before a request: the next moment that is an interval later than the last one, and no pause.

        None if that would be longer than `longest_s`; nothing is reserved then.
        """
        now = time.monotonic()
        with self._entry(group) as entry:
            start = max(now, entry["until"], entry["last"] + interval_s)
            is_soon = start - now <= longest_s
            if is_soon:
                entry["last"] = start
            entry["kept"] = max(entry["kept"], entry["last"] + interval_s)
            return float(start - now) if is_soon else None

    def is_paused(self, group: str) -> bool:
        """Whether a host that one has a lease on may not be asked now; read without waiting for who writes."""
        entry = self._glance(group)
        return entry is None or bool(entry["until"] > time.monotonic())

    def may_hand_over(self, group: str) -> bool:
        """Whether a lease may serve another request at once: no pause, and nobody in need; read as `is_paused` does."""
        entry = self._glance(group)
        return entry is not None and bool(max(entry["until"], entry["wanted"]) <= time.monotonic())

    def pause(self, group: str, seconds: float) -> None:
        """Let nobody ask a host for some time."""
        with self._entry(group) as entry:
            entry["until"] = max(entry["until"], time.monotonic() + seconds)

    def end(self, lease: Lease) -> None:
        """Give a lease back."""
        mine = [self._holder, lease.number]
        with self._entry(lease.group) as entry:
            entry["leases"] = [other for other in entry["leases"] if other != mine]

    def _is_held(self, holder: str) -> bool:
        if holder == self._holder:
            return True
        try:
            descriptor = os.open(self._folder / holder, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _glance(self, group: str) -> dict[str, Any] | None:
        """What is known of a group; None where nothing is, or while somebody writes it."""
        found: dict[str, Any] | None = _entries(_read(self._descriptor_of(_file_number(group)))).get(group)
        return found

    @contextmanager
    def _entry(self, group: str) -> Iterator[dict[str, Any]]:
        """What is known of a group, to be changed in place; entries that say nothing any more are dropped."""
        with self._locked(group) as descriptor:
            entries = _entries(_read(descriptor))
            yield entries.setdefault(group, _new_entry())
            now = time.monotonic()
            kept = {name: entry for name, entry in entries.items() if entry["leases"] or _valid_until(entry) > now}
            os.pwrite(descriptor, json.dumps(kept).encode() + b"\n", 0)

    @contextmanager
    def _locked(self, group: str) -> Iterator[int]:
        """The descriptor of a group's file, for this thread of this process alone."""
        number = _file_number(group)
        with self._locks[number]:  # the file's own lock keeps processes apart, not threads
            descriptor = self._descriptor_of(number)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                yield descriptor
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _descriptor_of(self, number: int) -> int:
        """A file stays open: to open it for each request takes longer than all the rest."""
        with self._opening:
            if self._is_closed:
                raise OSError(errno.EBADF, "the ledger is closed")
            if number not in self._descriptors:
                path = self._folder / f"{number:04d}"
                self._descriptors[number] = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            return self._descriptors[number]


def _new_entry() -> dict[str, Any]:
    """Moments of the monotonic clock, and the leases.

    `last`: when the last request begins; `kept`: until when that has to be known; `until`: the end of a pause;
    `next_lease`; `wanted`: until when leases are not handed over.
    """
    return {"last": _LONG_AGO, "kept": 0.0, "until": 0.0, "next_lease": 0.0, "wanted": 0.0, "leases": []}


def _valid_until(entry: dict[str, Any]) -> float:
    return float(max(entry["kept"], entry["until"], entry["next_lease"]))


def _file_number(group: str) -> int:
    return zlib.crc32(group.encode()) % _NUM_FILES


def _read(descriptor: int) -> bytes:
    """The whole file; what is behind the first line is left over from longer ones."""
    content = piece = os.pread(descriptor, _PIECE_BYTES, 0)
    while len(piece) == _PIECE_BYTES:
        piece = os.pread(descriptor, _PIECE_BYTES, len(content))
        content += piece
    return content


def _entries(content: bytes) -> dict[str, Any]:
    """A writer that is killed leaves what was longer behind its line, and half a line only where the disk is full."""
    try:
        found: dict[str, Any] = json.loads(content.partition(b"\n")[0] or b"{}")
    except ValueError:
        return {}
    return found

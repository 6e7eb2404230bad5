"""Outcomes and bytes of a shard's URLs, appended by a fetching process; what a kill or a power cut tore is ignored."""

import json
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zlib import crc32

from data_catalog.disk.failpoints import failpoint

_HEAD, _CRC = struct.Struct("<IQ"), struct.Struct("<I")  # bytes of the event, and of the body; CRC-32 of all three
_COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of bytes in a file."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the bytes."""
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), self.length, self.offset)


# The result of fetching one image: `reason`, `detail`, and `piece` (its place in a journal) or `bytes` (of a local
# file). From the fetching process also the answer (`http_status`, `final_url`, `robots_tag`, `content_usage`), the
# number of `tries`, the time of the first request (`asked_at`, in seconds since 1970), and the seconds spent on
# requests (`asking_s`) and on waiting (`waiting_s`).
Outcome = dict[str, Any]


def failed(reason: str | None, detail: str | None = None) -> Outcome:
    """Return the outcome of a row that failed, or that needed no request."""
    return {"reason": reason, "detail": detail, "piece": None}


class Journal:
    """A file of events, some with the bytes of an image; several threads may append."""

    def __init__(self, path: Path) -> None:
        self._file, self._lock = path.open("xb"), threading.Lock()

    def append(self, event: dict[str, Any], body: IO[bytes] | None = None) -> None:
        """Write an event, and the bytes of an image."""
        text = json.dumps(event).encode()
        size = 0 if body is None else body.seek(0, 2)
        with self._lock:
            failpoint("fetch.before_event")
            crc = self._write(_HEAD.pack(len(text), size) + text, 0)
            if body is not None:
                body.seek(0)
                while piece := body.read(_COPY_BYTES):
                    crc = self._write(piece, crc)
            self._write(_CRC.pack(crc), 0)
            self._file.flush()
            failpoint("fetch.after_event")

    def _write(self, data: bytes, crc: int) -> int:
        self._file.write(data)
        return crc32(data, crc)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JournalReader:
    """The events of a journal, each with the place of its bytes; iteration goes on where the last one stopped.

    It stops at the first damage, or at an event that is not complete yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Piece | None]]:
        with self._path.open("rb") as file:
            file.seek(self._at)
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                length, size = _HEAD.unpack(head)
                text = file.read(length)
                crc, at, left = crc32(text, crc32(head)), file.tell(), size
                while left and (data := file.read(min(left, _COPY_BYTES))):
                    crc, left = crc32(data, crc), left - len(data)
                if file.read(_CRC.size) != _CRC.pack(crc):
                    return
                self._at = file.tell()
                yield json.loads(text), Piece(self._path, at, size) if size else None

"""A file on its way from the web: the bytes that have come, and which version of the upstream file they are of."""

import re
from email.message import Message
from pathlib import Path
from typing import Any

from data_catalog.errors import TransientError
from data_catalog.storage.shards import read_json, write_json

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)


class PartialFile:
    """Bytes of one URL below a folder; whoever opens it again, after a crash too, goes on where they end.

    Bytes of different versions are never joined: the server must name a version (a strong ETag or a date), be asked
    for the rest of exactly that one, and answer with it. Where it names none, the download starts anew.

    Args:
        path: where the bytes lie; the version lies beside them, in a file with ".json" behind its name.
        url: where they come from.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._state_path = path.with_name(path.name + ".json")
        self._state = self._read_state()

    @property
    def num_bytes(self) -> int:
        """How many bytes have come."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def etag(self) -> str:
        """The server's name for the version, "" if it gives none."""
        return str(self._state.get("etag", ""))

    @property
    def total(self) -> int | None:
        """Bytes of the whole file, None if the server does not say."""
        return self._state.get("total")

    @property
    def is_whole(self) -> bool:
        """Whether all bytes that the server announced have come."""
        return self.total is not None and self.num_bytes == self.total

    def request_headers(self) -> dict[str, str]:
        """What asks for the rest, or for everything if the version has changed; {} where everything is to be asked."""
        if not self.num_bytes or not self._state.get("version"):
            return {}
        return {"Range": f"bytes={self.num_bytes}-", "If-Range": self._state["version"]}

    def accept(self, status: int, headers: Message) -> None:
        """Get ready for the body of an answer: behind the bytes that are here (206), or instead of them (200).

        Raises:
            TransientError: the server sends another part than the one asked for; everything is to be asked.
        """
        answer = _version_of(headers)
        if status != 206:
            self.remove()
            length = _LENGTH.fullmatch(headers.get("Content-Length", ""))
            self._state = answer | {"url": self.url, "total": int(length[0]) if length else None}
            write_json(self._state_path, self._state)
            return
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        part = (int(found[1]), int(found[2])) if found else None
        if part != (self.num_bytes, self.total) or answer["version"] != self._state.get("version"):
            self.remove()
            raise TransientError(f"{self.url} sends another part than the one asked for")

    def remove(self) -> None:
        """Forget the bytes and their version."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        self._state = {}

    def _read_state(self) -> dict[str, Any]:
        try:
            state = read_json(self._state_path)
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) and state.get("url") == self.url else {}


def _version_of(headers: Message) -> dict[str, str]:
    """The ETag, and what may follow If-Range: a strong ETag, else the date, else ""."""
    etag = headers.get("ETag", "")
    strong = etag if etag.startswith('"') else ""
    return {"etag": etag, "version": strong or headers.get("Last-Modified", "")}

"""Checksums that publishers name: sha256, md5, and the id that git gives a file's content."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.storage.shards import sha256_of

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """What a file's bytes must hash to.

    Args:
        algorithm: "sha256", "md5" or "git_blob".
        hexdigest: in lower case.
    """

    algorithm: str
    hexdigest: str

    def __post_init__(self) -> None:
        """Refuse what no algorithm gives."""
        length = 2 * _HASHES[self.algorithm](0).digest_size
        if len(self.hexdigest) != length or set(self.hexdigest) - set("0123456789abcdef"):
            raise ConfigError(f"{self.hexdigest!r} is no {self.algorithm}: give its {length} hexadecimal digits")

    def require(self, path: Path, *, named: str) -> None:
        """Raise ConfigError unless the file `path` has this checksum; `named` is what the message calls the file."""
        found = checksum_of(path, self.algorithm)
        if found != self.hexdigest:
            raise ConfigError(f"the {self.algorithm} of {named} is {found}, not {self.hexdigest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known of a file before it comes.

    Args:
        num_bytes: its size, None where nobody says.
        checksum: None where none is published.
    """

    num_bytes: int | None = None
    checksum: Checksum | None = None

    @property
    def plain_http(self) -> bool:
        """Whether strangers on the way can do no harm: a sha256 vouches for every byte, an md5 would not."""
        return self.checksum is not None and self.checksum.algorithm == "sha256"


ANYTHING = Expected()


def checksum_of(path: Path, algorithm: str) -> str:
    """Hexadecimal checksum of a file's bytes."""
    if algorithm == "sha256":
        return sha256_of(path)
    found = _HASHES[algorithm](path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
    digest: str = found.hexdigest()
    return digest


def _git_blob(num_bytes: int) -> Any:
    """Git hashes the kind and the size of what it stores before the bytes."""
    found = hashlib.sha1(usedforsecurity=False)
    found.update(f"blob {num_bytes}\0".encode())
    return found


# Called with the number of bytes that will follow.
_HASHES: dict[str, Callable[[int], Any]] = {
    "sha256": lambda _: hashlib.sha256(),
    "md5": lambda _: hashlib.md5(usedforsecurity=False),
    "git_blob": _git_blob,
}
ALGORITHMS = tuple(_HASHES)

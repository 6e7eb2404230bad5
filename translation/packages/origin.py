"""Where an installed package came from: a record in its folder, ignored by Argos Translate and the package's digest."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.shards import sha256_of

logger = logging.getLogger(__name__)

RECORD = "vernaclip-source.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """What is known of the file that a package was installed from.

    Args:
        file_sha256: of the `.argosmodel` file.
        file_bytes: its size.
        package_sha256: the package's own digest, see `packages.package_sha256`, "" before it is known.
        url: where it was downloaded from, "" for a local file.
        index: URL of the index that names `url`, "" for none.
        etag: the server's name for that version of the file, "" for none.
    """

    file_sha256: str
    file_bytes: int
    package_sha256: str = ""
    url: str = ""
    index: str = ""
    etag: str = ""


def read_source(folder: Path) -> PackageSource | None:
    """The record in a package's folder; None where there is none, or none that can be read."""
    path = folder / RECORD
    try:
        return _source_of(read_checksummed(path, remedy="it is ignored")) if path.exists() else None
    except (DamagedError, TypeError) as error:
        logger.warning("%s is ignored, since it cannot be read: %s", path, error)
        return None


def _source_of(record: Any) -> PackageSource:
    source = PackageSource(**record)
    if not all(isinstance(value, int if name == "file_bytes" else str) for name, value in record.items()):
        raise TypeError("a value has the wrong type")
    return source


def write_source(folder: Path, source: PackageSource) -> None:
    """Put the record into a package's folder."""
    write_checksummed(folder / RECORD, asdict(source))


def check_sha256_text(text: str) -> str:
    """A sha256 as people write it, in lower case.

    Raises:
        SettingsError: it is not 64 hexadecimal digits.
    """
    found = text.strip().lower()
    if len(found) != 64 or set(found) - set("0123456789abcdef"):
        raise SettingsError(f"{text!r} is no sha256: give its 64 hexadecimal digits")
    return found


def require_sha256(path: Path, expected: str) -> str:
    """The sha256 of a file, which must be `expected` unless that is "".

    Raises:
        InputError: it is another.
    """
    found = sha256_of(path)
    if expected and found != expected:
        raise InputError(f"the sha256 of the file is {found}, not {expected}: it is not installed")
    return found

"""What was downloaded into a folder: one JSON file beside the files, for whoever asks later where they came from."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.storage.shards import read_json, write_json

RECORD = "downloads.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file that is in the folder.

    Args:
        file: its path below the folder, with slashes.
        source: name of the source in the registry.
        url: where it came from, or the archive that it is a member of; "" for a file that a person put there.
        num_bytes: its size.
        sha256: of the file as it was when it came.
        archive_sha256: of the archive that it is a member of, "" for none.
        verified_by: the published checksum that it, or its archive, was compared with: "sha256", "md5" or "git_blob";
            "" where none is published.
        licence: name of the licence of the source.
        licence_accepted: whether the user accepted it by name here; a person who filled in a form did so there.
        recorded_at: date and time of day, UTC, ISO 8601.
    """

    file: str
    source: str
    url: str
    num_bytes: int
    sha256: str
    archive_sha256: str
    verified_by: str
    licence: str
    licence_accepted: bool
    recorded_at: str


def read_record(folder: Path) -> dict[str, Download]:
    """What a folder's record says, by file; nothing where there is no record.

    Raises:
        ConfigError: the record cannot be read.
    """
    path = folder / RECORD
    try:
        document = read_json(path)
        return {name: _download(name, values) for name, values in document["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): move it away, and the files are compared anew") from error


def add_to_record(folder: Path, downloads: Iterable[Download]) -> None:
    """Put downloads into a folder's record, in place of what it says of the same files. Hold the folder's lock.

    Raises:
        ConfigError: the record cannot be read, or the disk is full.
    """
    known = read_record(folder) | {download.file: download for download in downloads}
    files = {name: {key: value for key, value in asdict(known[name]).items() if key != "file"} for name in known}
    write_json(folder / RECORD, {"format": FORMAT, "files": files})


def _download(name: str, values: Any) -> Download:
    download = Download(file=name, **values)
    kinds = {"num_bytes": int, "licence_accepted": bool}
    if not all(isinstance(value, kinds.get(key, str)) for key, value in values.items()):
        raise TypeError(f"a value of {name} has the wrong type")
    return download

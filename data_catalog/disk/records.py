"""Integrity records: JSON documents with a checksum of their own text and the sha256 of the files that they list.

The value of a document's "checksum" is the sha256 of its bytes with 64 zeros in that place. A document that lists files
under "files" is a record: a snapshot's manifest, an export's `export.json`, a folder's `files.json`, and `NAME.json`
beside a single file NAME that may change. The record of a single file is removed before the file changes and written
afterwards: a process that is killed meanwhile leaves a file without a record, never one that looks damaged.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError
from data_catalog.disk.files import json_bytes, sha256_of, sync, write_atomically, write_json

CHECKSUM = "checksum"
FOLDER_RECORD = "files.json"
RECORD_SUFFIX = ".json"
_BLANK = "0" * 64
# A top-level key of a document, since only those are indented by one space; or the first key of a line of a log.
_PLACE = re.compile(rb'(?:\n |\A\{)"checksum": "([0-9a-f]{64})"')


def write_checksummed(path: Path, value: Mapping[str, Any]) -> str:
    """Write a document as `write_json` does, with its checksum; return the file's sha256."""
    found = hashlib.sha256(json_bytes({**value, CHECKSUM: _BLANK})).hexdigest()
    return write_json(path, {**value, CHECKSUM: found})


def read_checksummed(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return the value of a document; `remedy` ends the error of a damaged one, such as "restore it from a copy"."""
    with about(f"{path} cannot be read", kind=DamagedError, remedy=remedy):
        content = path.read_bytes()
    problem = content_problem(content)
    if problem is not None:
        raise DamagedError(f"{path} is damaged ({problem}): {remedy}")
    value: dict[str, Any] = json.loads(content)
    del value[CHECKSUM]
    return value


def content_problem(content: bytes) -> str | None:
    """Return what is wrong with a document, or with a line of a log without its newline; None if nothing is."""
    found = _PLACE.search(content)
    if found is None:
        return "its checksum is missing or not in its place"
    blank = content[: found.start(1)] + _BLANK.encode() + content[found.end(1) :]
    is_whole = hashlib.sha256(blank).hexdigest().encode() == found[1]
    return None if is_whole else "its text does not match its checksum"


def checksummed_line(value: Mapping[str, Any]) -> str:
    """Return a line of a JSON log with its checksum as the first key, without the newline."""
    blank = f'{{"{CHECKSUM}": "{_BLANK}", {json.dumps(dict(value), sort_keys=True)[1:]}'
    return blank.replace(_BLANK, hashlib.sha256(blank.encode()).hexdigest(), 1)


def read_record(path: Path, *, remedy: str) -> dict[str, str]:
    """Return the sha256 of every file that a record lists, by its path relative to the record's folder."""
    with about(f"{path} lists no files", kind=DamagedError, remedy=remedy):
        return {**read_checksummed(path, remedy=remedy)["files"]}


def file_problem(path: Path, sha256: str) -> str | None:
    """Return one sentence on what is wrong with a file of a record; None if its bytes match the sha256."""
    try:
        if sha256_of(path) == sha256:
            return None
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return f"{path} is damaged: its sha256 differs from the recorded one"


def record_folder(folder: Path, names: Iterable[str]) -> None:
    """Write a record of those files of a folder that exist and will not change any more, unless it has one."""
    path = folder / FOLDER_RECORD
    if not path.exists():
        there = [name for name in names if (folder / name).is_file()]
        write_checksummed(path, {"files": {name: sha256_of(folder / name) for name in there}})


def remove_folder_record(folder: Path) -> None:
    """Remove a folder's record, before one of its files changes."""
    (folder / FOLDER_RECORD).unlink(missing_ok=True)


def record_path(path: Path) -> Path:
    """Return the path of the record of a single file."""
    return path.with_name(f"{path.name}{RECORD_SUFFIX}")


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Remove a file's record while the caller replaces or changes the file, then write it again."""
    remove_record(path)
    yield
    write_record(path)


def write_recorded(path: Path, write: Callable[[Path], None]) -> str:
    """Write a file as `write_atomically` does, and its record; return the file's sha256."""
    with recorded(path):
        return write_atomically(path, write)


def remove_record(path: Path) -> None:
    """Remove the record of a file that is about to change, and sync the removal to the disk."""
    record = record_path(path)
    if record.exists():
        record.unlink()
        sync(record.parent)


def write_record(path: Path) -> None:
    """Write the record of a file as it is now."""
    write_checksummed(record_path(path), {"files": {path.name: sha256_of(path)}})


def is_recorded(path: Path) -> bool:
    """Return whether a file has a record."""
    return record_path(path).is_file()


def record_problem(path: Path) -> str | None:
    """Return one sentence on what is wrong with a file that has a record; None if nothing is.

    A file that another process replaces at this moment is not reported.
    """
    record = record_path(path)
    with suppress(FileNotFoundError):
        content = record.read_bytes()
        problem = content_problem(content)
        if problem is not None:
            problem = f"{record} is damaged ({problem})"
        else:
            problem = file_problem(path, json.loads(content)["files"].get(path.name, ""))
        if problem is not None and record.read_bytes() == content:
            return problem
    return None

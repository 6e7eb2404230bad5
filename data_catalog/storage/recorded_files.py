"""Files outside snapshots, with a record of their sha256 beside them, so that bit rot shows in them as well.

The record of `catalog.duckdb` is `catalog.duckdb.sha256`, a line as `sha256sum` writes it, and can check it. It goes
before the file changes and is written after: a process that dies meanwhile leaves a file without a record, never one
that looks damaged. Files of a folder that never change have one record for all, `files.json`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_catalog.storage.checksummed import write_checksummed
from data_catalog.storage.shards import sha256_of, sync, write_atomically, write_bytes

RECORD_SUFFIX = ".sha256"
FOLDER_RECORD = "files.json"
_RECORD = re.compile(r"([0-9a-f]{64})  ([^\n]*)\n")


def record_path(path: Path) -> Path:
    """Where the record of a file lies."""
    return path.with_name(f"{path.name}{RECORD_SUFFIX}")


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Around whatever replaces or changes a file in a way of its own: the record is taken away, and written anew."""
    take_record_away(path)
    yield
    write_record(path)


def write_recorded(path: Path, write: Callable[[Path], None]) -> str:
    """Write a file as `write_atomically` does, and its record; returns the file's sha256."""
    with recorded(path):
        return write_atomically(path, write)


def take_record_away(path: Path) -> None:
    """Let a file have no record, for good, since it is about to change."""
    record = record_path(path)
    if record.exists():
        record.unlink()
        sync(record.parent)


def write_record(path: Path) -> None:
    """Record a file as it is now."""
    text = f"{sha256_of(path)}  {path.name}\n"
    write_bytes(record_path(path), text.encode(errors="surrogateescape"))


def record_folder(folder: Path, names: Iterable[str]) -> None:
    """Record those files of a folder that are there and will not change any more, unless that was done already."""
    path = folder / FOLDER_RECORD
    if not path.exists():
        there = [name for name in names if (folder / name).is_file()]
        write_checksummed(path, {"files": {name: sha256_of(folder / name) for name in there}})


def is_recorded(path: Path) -> bool:
    """Whether a file has a record."""
    return record_path(path).is_file()


def record_problem(path: Path) -> str | None:
    """What is wrong with a file, or with its record, in a few words; None if nothing is or it has no record.

    A file that another process replaces at this moment is not wrong.
    """
    while True:
        try:
            before = _content(record_path(path))
            problem = _compared(path, before)
            if problem is None or _content(record_path(path)) == before:
                return problem
        except OSError as error:
            return f"its record {record_path(path).name} cannot be read: {error.strerror}"


def _compared(path: Path, record: bytes | None) -> str | None:
    if record is None:
        return None
    found = _RECORD.fullmatch(record.decode("utf-8", "surrogateescape"))
    if found is None or found[2] != path.name:
        return f"its record {record_path(path).name} is damaged"
    try:
        return None if sha256_of(path) == found[1] else f"its sha256 is not the one in {record_path(path).name}"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None

"""Errors of libraries name the file, step or setting, and those of disks the place; errors of ours pass."""

import errno
import pickle
import shutil
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, DiskError, InputError, PipelineError, TransientError
from data_catalog.disk.disk_errors import access_errors, disk_errors
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.workers import raw_rows

PANIC = type("PanicException", (BaseException,), {})  # of Rust code
PLACE = Path("/catalog/work/x.parquet")
FULL, FAILED = "the disk that holds /catalog/work is full", f"failed at {PLACE} "


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("line 3\n is wrong"), r"^a\.json \(line 3 is wrong\): restore it$"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.json"), r"^a\.json \(No such file\): restore it$"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), r"^a\.json \(.*Permission denied: 'b'\): "),
        (KeyError(), r"^a\.json \(KeyError\): restore it$"),
        (pickle.UnpicklingError("use weights_only=False"), "reading it would run code"),
        (PANIC("index out of bounds"), "index out of bounds"),
    ],
    ids=repr,
)
def test_an_error_of_a_library_says_what_it_is_about_and_what_to_do(error: BaseException, told: str) -> None:
    with pytest.raises(DamagedError, match=told), about("a.json", kind=DamagedError, remedy="restore it"):
        raise error
    with pytest.raises(InputError, match=r"^a\.json: "), about("a.json"):
        raise error


@pytest.mark.parametrize("error", [TransientError("busy"), MemoryError(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_errors_of_ours_and_interrupts_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, about("x"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL),
        (sqlite3.OperationalError("database or disk is full"), FULL),
        (duckdb.IOException('IO Error: Could not write all bytes to file "x": No space left on device'), FULL),
        (pa.ArrowException("IOError: No space left on device"), FULL),
        (OSError(errno.ENOSPC, "No space left on device", "/other/.tmp-1/y/x"), "holds /other is full"),
        (OSError(errno.EIO, "Input/output error"), FAILED),
        (sqlite3.OperationalError("disk I/O error"), FAILED),
        (OSError(errno.EIO, "Input/output error", "/upstream/wit.tsv"), r"failed at /upstream/wit\.tsv "),
        (OSError(errno.EACCES, "Permission denied"), None),
        (DamagedError("the translation memory lost 'No space left on device'"), None),
        (ValueError("a caption said: No space left on device"), None),
    ],
    ids=repr,
)
def test_a_disk_that_is_full_or_fails_is_told_of_and_other_errors_stay(error: Exception, told: str | None) -> None:
    require_told(disk_errors(PLACE), error, told)


def test_sqlite_that_cannot_grow_its_shared_memory_says_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
    place = tmp_path / "memory" / "argos.sqlite"
    place.parent.mkdir()
    require_told(disk_errors(place), sqlite3.OperationalError("disk I/O error"), f"holds {place.parent} is full")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EACCES, "Permission denied", "models/x/.tmp-1"), r"models/x cannot be written \(Permi"),
        (OSError(errno.EROFS, "Read-only file system", "a.json"), r"a\.json cannot be used \(Read-only f"),
        (OSError(errno.EPERM, "Operation not permitted"), None),
        (OSError(errno.ENOENT, "No such file or directory", "a.json"), None),
    ],
    ids=repr,
)
def test_what_may_not_be_used_is_told_of_and_other_errors_stay(error: OSError, told: str | None) -> None:
    require_told(access_errors(), error, told)


def require_told(boundary: AbstractContextManager[Any], error: Exception, told: str | None) -> None:
    with pytest.raises(DiskError if told else type(error), match=told) as caught, boundary:
        raise error
    assert told or caught.value is error


def test_a_local_image_that_the_disk_cannot_read_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("/proc/self/mem")  # a regular file, whose first byte gives EIO
    row = {"sample_id": "mine:a", "url": None, "path": "a.jpg", "location": str(tmp_path)}
    with pytest.raises(PipelineError, match=f"{tmp_path}/a.jpg"):
        list(raw_rows([row], {}, FetchConfig()))

"""A disk that is full or fails is told of in one sentence; failpoints do what they are armed to do."""

import ast
import errno
import sqlite3
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from data_catalog.base.errors import DamagedError, DiskError, PipelineError
from data_catalog.disk import failpoints
from data_catalog.disk.disk_errors import access_errors, disk_errors
from data_catalog.disk.failpoints import REGISTRY, VARIABLE
from data_catalog.disk.files import read_json, write_json
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.workers import raw_rows

PLACE = Path("/catalog/work/x.parquet")


FULL, FAILED = "the disk that holds /catalog/work is full", f"failed at {PLACE} "
NO_SPACE, IO = (errno.ENOSPC, "No space left on device"), (errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(*NO_SPACE), FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL),
        (OSError("[Errno 28] Error writing bytes to file. Detail: No space left on device"), FULL),
        (sqlite3.OperationalError("database or disk is full"), FULL),
        (duckdb.IOException('IO Error: Could not write all bytes to file "x": No space left on device'), FULL),
        (pa.ArrowException("IOError: No space left on device"), FULL),
        (OSError(*NO_SPACE, "/other/.tmp-1/y/x"), "holds /other is full"),
        (OSError(*IO), FAILED),
        (sqlite3.OperationalError("disk I/O error"), FAILED),
        (OSError(*IO, "/upstream/wit.tsv"), r"failed at /upstream/wit\.tsv "),
        (OSError(errno.EACCES, "Permission denied"), None),
        (DamagedError("the translation memory lost 'No space left on device'"), None),
        (ValueError("a caption said: No space left on device"), None),
    ],
    ids=repr,
)
def test_a_disk_that_is_full_or_fails_is_told_of_and_other_errors_stay(error: Exception, told: str | None) -> None:
    with pytest.raises(DiskError if told else type(error), match=told) as caught, disk_errors(PLACE):
        raise error
    assert told or caught.value is error


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
    with pytest.raises(DiskError if told else OSError, match=told) as caught, access_errors():
        raise error
    assert told or caught.value is error


def test_a_local_image_that_the_disk_cannot_read_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("/proc/self/mem")  # a regular file, whose first byte gives EIO
    row = {"sample_id": "mine:a", "url": None, "path": "a.jpg", "location": str(tmp_path)}
    with pytest.raises(PipelineError, match=f"{tmp_path}/a.jpg"):
        list(raw_rows([row], {}, FetchConfig()))


HOUSE = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _environment_not_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", None)


def passed_in_the_code() -> Counter[str]:
    """How often each name is passed to `failpoint`, in all packages."""
    names: Counter[str] = Counter()
    for package in ("data_catalog", "translation", "cleaning", "training", "flows"):
        for path in (HOUSE / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "failpoint":
                    assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: no plain name"
                    names[str(node.args[0].value)] += 1
    return names


def test_the_registry_is_what_the_code_passes() -> None:
    assert passed_in_the_code().keys() == {*REGISTRY}


@pytest.mark.parametrize("action", ["enospc", "eio"])
@pytest.mark.parametrize("place", ["before_write", "after_write", "after_fsync", "after_rename", "after_folder_fsync"])
def test_a_file_is_the_old_one_or_the_new_one_wherever_the_disk_fails(
    place: str, action: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    write_json(path, "old")
    monkeypatch.setattr(failpoints, "_armed", None)
    monkeypatch.setenv(VARIABLE, f"atomic.{place}={action}")
    with pytest.raises(Exception, match=r"is full: free space|the disk failed at .*a\.json"):
        write_json(path, "new")
    assert read_json(path) == ("new" if place in ("after_rename", "after_folder_fsync") else "old")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]

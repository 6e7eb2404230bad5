"""A disk that is full or fails is told of in one sentence; failpoints do what they are armed to do."""

import ast
import errno
import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cleaning.duplicates.near_captions import BandFiles
from data_catalog.errors import DamagedError, DiskError, PipelineError, SettingsError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.shard import raw_rows
from data_catalog.storage import failpoints
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.failpoints import REGISTRY, VARIABLE, failpoint, parse
from data_catalog.storage.shards import read_json, save_parquet, write_json
from data_catalog.storage.work import StepKey, WorkStore

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
        (OSError(*NO_SPACE, "/other/x"), "holds /other is full"),
        (OSError(*NO_SPACE, "/other/.tmp-1/y/x"), "holds /other is full"),
        (OSError(*IO), FAILED),
        (sqlite3.OperationalError("disk I/O error"), FAILED),
        (OSError(*IO, "/catalog/work/.tmp-1/x"), FAILED),
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


def test_a_local_image_that_the_disk_cannot_read_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("/proc/self/mem")  # a regular file, whose first byte gives EIO
    row = {"sample_id": "mine:a", "url": None, "path": "a.jpg", "location": str(tmp_path)}
    with pytest.raises(PipelineError, match=f"{tmp_path}/a.jpg"):
        list(raw_rows([row], {}, FetchConfig()))


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 128 KiB."""
    place = tmp_path_factory.mktemp("small-disk")
    mounting = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(place)]
    try:
        done = subprocess.run(mounting, capture_output=True)
    except OSError as error:
        pytest.skip(f"mount: {error}")
    if done.returncode:
        pytest.skip(f"only root may mount a small disk: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def noise(num_rows: int) -> pa.Table:
    return pa.table({"caption": [os.urandom(200).hex() for _ in range(num_rows)]})


def test_a_step_on_a_small_disk(small_disk: Path) -> None:
    def produce(folder: Path) -> dict[str, int]:
        save_parquet(noise(2000), folder / "shard.parquet")
        return {}

    work = WorkStore(small_disk / "work")
    key = StepKey(step="clean", version=1, inputs=("a",))
    with pytest.raises(DiskError, match=f"the disk that holds {small_disk}/work/clean is full"):
        work.run(key, produce)
    assert work.find(key) is None
    assert list((small_disk / "work" / "clean").iterdir()) == []
    (small_disk / "work" / "clean").rmdir()
    (small_disk / "work").rmdir()


def test_a_cut_file_of_bands_is_never_taken_for_a_whole_one(small_disk: Path) -> None:
    folder = small_disk / "bands"
    folder.mkdir()
    with pytest.raises(OSError, match="No space left"):
        BandFiles(folder, [[f"a dog {number}" for number in range(3000)]])
    shutil.rmtree(folder)


HOUSE = Path(__file__).resolve().parents[2]


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
    assert passed_in_the_code().keys() == REGISTRY.keys()
    assert all(REGISTRY.values())


@pytest.mark.parametrize("action", ["edquot", "eio"])
def test_the_armed_passage_fails_and_no_other_does(
    action: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, f"commit.after_fsync:2={action}")
    failpoint("commit.after_fsync")
    failpoint("commit.after_record")
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        failpoint("commit.after_fsync", tmp_path)
    assert caught.value.errno == getattr(errno, action.upper())
    failpoint("commit.after_fsync")


@pytest.mark.parametrize(
    "text",
    [
        "commit.after_fsink=kill",
        "commit.after_fsync=crash",
        "commit.after_fsync",
        "commit.after_fsync:0=kill",
        "commit.after_fsync:²=kill",
    ],
)
def test_a_slip_in_the_variable_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(SettingsError, match=VARIABLE):
        failpoint("atomic.before_write")


def test_several_failpoints_are_armed_at_once() -> None:
    assert parse(" atomic.before_write=eio, commit.after_rename:3=kill,") == {
        "atomic.before_write": (1, "eio"),
        "commit.after_rename": (3, "kill"),
    }


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

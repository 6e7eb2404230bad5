"""A disk that is full or fails is told of in one sentence, whichever library met it; a real small disk among them."""

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cleaning.duplicates.near_captions import BandFiles
from data_catalog.errors import DamagedError, DiskError, PipelineError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.shard import raw_rows
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import StepKey, WorkStore
from translation.engine import Translation
from translation.memory import TranslationMemory

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


def test_a_memory_that_has_no_room_for_its_log_is_on_a_full_disk_and_goes_on_when_there_is_room(
    small_disk: Path,
) -> None:
    memory = TranslationMemory(small_disk, "engine")
    found = Translation(text="uno", score=0.0, truncated=False, repetitive=False)
    captions = [f"{number} {'word ' * 50}" for number in range(2000)]
    with pytest.raises(DiskError, match=f"the disk that holds {small_disk} is full"):
        memory.record(captions, [found] * len(captions))
    assert memory.missing(captions[:1]) == captions[:1]
    memory.record(["two"], [found])
    assert memory.missing(["two"]) == []
    for path in small_disk.iterdir():
        path.unlink()


def test_a_cut_file_of_bands_is_never_taken_for_a_whole_one(small_disk: Path) -> None:
    folder = small_disk / "bands"
    folder.mkdir()
    with pytest.raises(OSError, match="No space left"):
        BandFiles(folder, [[f"a dog {number}" for number in range(3000)]])
    shutil.rmtree(folder)

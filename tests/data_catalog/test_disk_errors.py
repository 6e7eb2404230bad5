"""A disk that is full or fails is told of in one sentence, whichever library met it; a real small disk among them."""

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cleaning.duplicates.near_captions import BandFiles
from data_catalog.errors import DamagedError, DiskError, PipelineError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.shard import raw_rows
from data_catalog.storage.disk_errors import disk_errors, raise_if_disk_fails
from data_catalog.storage.shards import append_line, save_parquet, write_named_atomically
from data_catalog.storage.work import StepKey, WorkStore
from translation.engine import Translation
from translation.memory import TranslationMemory

PLACE = Path("/catalog/work/x.parquet")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("[Errno 28] Error writing bytes to file. Detail: No space left on device"),
        sqlite3.OperationalError("database or disk is full"),
        duckdb.IOException('IO Error: Could not write all bytes to file "x": No space left on device'),
        pa.ArrowException("IOError: No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_told_of(error: Exception) -> None:
    with pytest.raises(DiskError, match="the disk that holds /catalog/work is full"):
        raise_if_disk_fails(error, PLACE)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EIO, "Input/output error"), f"failed at {PLACE} "),
        (sqlite3.OperationalError("disk I/O error"), f"failed at {PLACE} "),
        (OSError(errno.EIO, "Input/output error", "/upstream/wit.tsv"), r"failed at /upstream/wit\.tsv "),
        (OSError(errno.EIO, "Input/output error", "/catalog/work/.tmp-1/x"), f"failed at {PLACE} "),
        (OSError(errno.ENOSPC, "No space left on device", "/other/x"), "holds /other is full"),
        (OSError(errno.ENOSPC, "No space left on device", "/other/.tmp-1/y/x"), "holds /other is full"),
    ],
    ids=repr,
)
def test_a_disk_that_fails_is_told_of_and_the_file_unless_it_is_a_temporary_one(error: Exception, told: str) -> None:
    with pytest.raises(DiskError, match=told):
        raise_if_disk_fails(error, PLACE)


def test_a_local_image_that_the_disk_cannot_read_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("/proc/self/mem")  # a regular file, whose first byte gives EIO
    row = {"sample_id": "mine:a", "url": None, "path": "a.jpg", "location": str(tmp_path)}
    with pytest.raises(PipelineError, match=f"{tmp_path}/a.jpg"):
        list(raw_rows([row], {}, FetchConfig()))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        DamagedError("the translation memory lost 'No space left on device'"),
        ValueError("a caption said: No space left on device"),
    ],
    ids=repr,
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, disk_errors(PLACE):
        raise error
    assert caught.value is error


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


def test_a_memory_that_has_no_room_for_its_log_is_on_a_full_disk(small_disk: Path) -> None:
    memory = TranslationMemory(small_disk, "engine")
    captions = [f"{number} {'word ' * 50}" for number in range(1000)]
    with pytest.raises(DiskError, match=f"the disk that holds {small_disk} is full"):
        memory.record(
            captions, [Translation(text=text, score=0.0, truncated=False, repetitive=False) for text in captions]
        )
    assert memory.missing(captions[:1]) == captions[:1]
    found = Translation(text="uno", score=0.0, truncated=False, repetitive=False)
    memory.record(["one"], [found])
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(DiskError, match=f"the disk that holds {small_disk} is full"):
        memory.record(["two"], [found])
    filler.unlink()
    memory.record(["two"], [found])
    assert memory.missing(["one", "two"]) == []
    for path in small_disk.iterdir():
        path.unlink()


def test_a_cut_file_of_bands_is_never_taken_for_a_whole_one(small_disk: Path) -> None:
    folder = small_disk / "bands"
    folder.mkdir()
    with pytest.raises(OSError, match="No space left"):
        BandFiles(folder, [[f"a dog {number}" for number in range(3000)]])
    shutil.rmtree(folder)


def test_a_line_that_a_kill_tore_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "runs.jsonl"
    append_line(log, '{"run": 1}')
    with log.open("a") as file:
        file.write('{"run": 2, "hos')
    append_line(log, '{"run": "tre è"}')
    append_line(log, '{"run": 4}')
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines == ['{"run": 1}', '{"run": 2, "hos', '{"run": "tre è"}', '{"run": 4}']


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"content")

    path = write_named_atomically(tmp_path / "new", lambda found: f"train-{found[:6]}.bin", write)
    assert path.name == "train-ed7002.bin"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == [path.name]

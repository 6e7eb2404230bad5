"""A disk that is full or fails is told of in one sentence, whichever library met it; a real small disk among them."""

import errno
import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cleaning.duplicates.near_captions import BandFiles
from data_catalog.errors import DamagedError, DiskError, PipelineError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.shard import raw_rows
from data_catalog.storage.disk_errors import disk_errors, raise_if_disk_fails
from data_catalog.storage.shards import append_line, make_folder, save_parquet, write_atomically, write_named_atomically
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
    with pytest.raises(DiskError, match="the disk that holds /catalog/work is full: free space and run the same"):
        raise_if_disk_fails(error, PLACE)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), sqlite3.OperationalError("disk I/O error")], ids=repr
)
def test_a_disk_that_fails_is_told_of(error: Exception) -> None:
    with pytest.raises(DiskError, match=r"the disk failed at /catalog/work/x.parquet .*: check the disk"):
        raise_if_disk_fails(error, PLACE)


def test_the_file_that_the_error_names_is_told_unless_it_is_a_temporary_one() -> None:
    with pytest.raises(PipelineError, match=r"failed at /upstream/wit\.tsv "):
        raise_if_disk_fails(OSError(errno.EIO, "Input/output error", "/upstream/wit.tsv"), PLACE)
    with pytest.raises(PipelineError, match=f"failed at {PLACE} "):
        raise_if_disk_fails(OSError(errno.EIO, "Input/output error", "/catalog/work/.tmp-1/x"), PLACE)


def test_the_folder_of_the_file_that_the_error_names_is_told() -> None:
    for named in ("/other/x", "/other/.tmp-1/y/x"):
        with pytest.raises(DiskError, match="the disk that holds /other is full"):
            raise_if_disk_fails(OSError(errno.ENOSPC, "No space left on device", named), PLACE)


def test_a_local_image_that_the_disk_cannot_read_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("/proc/self/mem")  # a regular file, whose first byte gives EIO
    row = {"sample_id": "mine:a", "url": None, "path": "a.jpg", "location": str(tmp_path)}
    with pytest.raises(PipelineError, match=rf"the disk failed at {tmp_path}/a.jpg "):
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


def test_parquet_on_a_small_disk(small_disk: Path) -> None:
    table = noise(2000)
    with pytest.raises(DiskError, match=f"the disk that holds {small_disk} is full"):
        write_atomically(small_disk / "x.parquet", lambda path: save_parquet(table, path))
    assert list(small_disk.iterdir()) == []


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


def test_a_translation_memory_on_a_small_disk(small_disk: Path) -> None:
    memory = TranslationMemory(small_disk, "engine")
    captions = [f"{number} {'word ' * 50}" for number in range(1000)]
    found = [Translation(text=caption, score=0.0, truncated=False, repetitive=False) for caption in captions]
    memory.record(captions[:5], found[:5])
    with pytest.raises(DiskError, match=f"the disk that holds {small_disk} is full"):
        memory.record(captions, found)
    assert memory.missing(captions[:6]) == captions[5:6]
    for path in small_disk.iterdir():
        path.unlink()


def test_a_memory_that_has_no_room_for_its_log_is_on_a_full_disk(small_disk: Path) -> None:
    memory = TranslationMemory(small_disk, "engine")
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


def test_a_limit_on_the_size_of_files_leaves_no_debris(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(tmp_path / "x.parquet", lambda path: save_parquet(noise(100), path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_kill_tore_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "runs.jsonl"
    append_line(log, '{"run": 1}')
    with log.open("a") as file:
        file.write('{"run": 2, "hos')
    append_line(log, '{"run": "tre è"}')
    append_line(log, '{"run": 4}')
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines == ['{"run": 1}', '{"run": 2, "hos', '{"run": "tre è"}', '{"run": 4}']


def test_folders_are_made_and_what_is_in_the_way_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file" / "below")


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"content")

    path = write_named_atomically(tmp_path / "new", lambda found: f"train-{found[:6]}.bin", write)
    assert path.name == "train-ed7002.bin"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == [path.name]


def test_sqlite_without_space_says_so(small_disk: Path) -> None:
    # What the sentence above is made of: should SQLite ever say it otherwise, this fails.
    with closing(sqlite3.connect(small_disk / "x.sqlite", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
            connection.executemany("INSERT INTO t VALUES (?)", [(os.urandom(1000),) for _ in range(500)])
    for path in small_disk.iterdir():
        path.unlink()


def test_duckdb_without_space_says_so(small_disk: Path) -> None:
    with duckdb.connect() as connection, pytest.raises(duckdb.IOException, match="No space left on device"):
        connection.execute(f"COPY (SELECT random() FROM range(200000)) TO '{small_disk}/x.parquet'")
    (small_disk / "x.parquet").unlink(missing_ok=True)

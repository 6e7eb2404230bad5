"""The writer's lock, between processes."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import BusyError, DiskError, InputError
from data_catalog.disk.lock import LOCK_FILE, holder_of, place_lock, writer_lock

# Takes the lock as `writer_lock` does, and signs once it is asked for (a line of its input), if ever.
HOLDER = """
import fcntl, json, os, sys, time
with open(sys.argv[1], "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    file.truncate(0)
    json.dump({"pid": os.getpid(), "command": "vernaclip build slow"}, file)
    file.flush()
    sys.stdin.readline()
"""


@contextmanager
def held(path: Path, signs_after_s: float) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    words = [sys.executable, "-c", HOLDER, str(path), str(signs_after_s)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_holds_a_lock_is_named_once_its_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    path.write_text("\udcff", encoding="utf-8", errors="surrogateescape")
    with held(path, 60), pytest.raises(BusyError, match="by another process"), writer_lock(tmp_path):
        pass


def test_a_place_has_one_writer_and_a_killed_one_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / f".out{LOCK_FILE}"
    with held(path, 0) as holder:
        with pytest.raises(BusyError, match=rf"process {holder.pid} \("), place_lock(tmp_path / "out"):
            pass
        with place_lock(tmp_path / "other"):
            pass
    assert path.exists()
    with place_lock(tmp_path / "out"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_tells_the_command_in_one_line_and_none_of_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holder_of(tmp_path / "nowhere") is None
    secret = ["--debug", "forget", "--url", "http://example.org/me.jpg", "--root", "italy"]
    for words, told in ((["build", "a\n  b"], "vernaclip build a b"), (secret, "vernaclip forget")):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/vernaclip", *words])
        with writer_lock(tmp_path):
            assert holder_of(tmp_path) == f"process {os.getpid()} ({told})"
            assert b"example" not in (tmp_path / LOCK_FILE).read_bytes()
            with pytest.raises(BusyError, match=rf"process {os.getpid()} "), writer_lock(tmp_path):
                pass
        assert holder_of(tmp_path) is None


def test_a_place_in_a_folder_that_is_not_there_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), place_lock(tmp_path / "a/b/out"):
        (tmp_path / "a/b/out").rmdir()
    assert list(tmp_path.iterdir()) == []
    with place_lock(tmp_path / "a/b/out"):
        (tmp_path / "a/mine").write_text("mine")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]
    with pytest.raises(DiskError, match="mine is not a writable folder"), place_lock(tmp_path / "a/mine/out"):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOLCK])
def test_where_no_lock_can_be_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def lock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", lock)
    with place_lock(tmp_path / "new" / "out"):
        pass
    assert "is not locked" in caplog.text


@pytest.mark.parametrize("lock", [writer_lock, place_lock])
def test_a_lock_that_was_removed_between_opening_and_locking_it_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: Any
) -> None:
    place, flock = tmp_path / "out", fcntl.flock
    path = place / LOCK_FILE if lock is writer_lock else tmp_path / f".out{LOCK_FILE}"
    removed: list[Path] = []

    def lock_file(file: Any, how: int) -> None:
        flock(file, how)
        if not removed:
            path.unlink()
            removed.append(path)
            if lock is writer_lock:
                place.rmdir()

    monkeypatch.setattr(fcntl, "flock", lock_file)
    with lock(place):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(BusyError, match=f"by process {os.getpid()}"), lock(place):
            pass


def test_a_root_that_was_made_for_nothing_goes_again_and_one_with_something_in_it_stays(tmp_path: Path) -> None:
    def fail_after(*files: str) -> None:
        with writer_lock(tmp_path / "new" / "root"):
            (tmp_path / "new/root/work/scenes").mkdir(parents=True, exist_ok=True)
            for name in files:
                (tmp_path / "new/root" / name).write_text("work")
            raise InputError("wrong files")

    for files, is_there, left in (((), False, []), ((), True, ["work"]), (("finished",), True, ["finished", "work"])):
        if is_there:
            (tmp_path / "new/root").mkdir(parents=True, exist_ok=True)
        with pytest.raises(InputError, match="wrong files"):
            fail_after(*files)
        assert sorted(path.name for path in tmp_path.glob("new/root/[a-z]*")) == left
        assert is_there or list(tmp_path.iterdir()) == []

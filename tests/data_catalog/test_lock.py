"""The writer's lock, between processes."""

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from data_catalog.errors import BusyError, DiskError, InputError
from data_catalog.storage.lock import LOCK_FILE, holder_of, place_lock, writer_lock

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


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """Another process that has the lock; its id."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_FILE), str(request.param)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


@pytest.fixture
def signed_before(tmp_path: Path) -> int:
    """A process that has ended had the lock before; written before another one takes it."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pid = process.pid
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": pid, "command": "before"}), encoding="utf-8")
    return pid


@pytest.mark.parametrize("holder", [0.15], indirect=True)
def test_who_has_just_taken_the_lock_is_named_not_who_had_it_before(
    tmp_path: Path, signed_before: int, holder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert signed_before != holder
    monkeypatch.setattr("data_catalog.storage.lock.TRIES_TO_READ", 1000)  # a busy machine is no defect
    with (
        pytest.raises(BusyError, match=rf"process {holder} \(vernaclip build slow\)"),
        writer_lock(tmp_path),
    ):
        pass
    assert holder_of(tmp_path) == f"process {holder} (vernaclip build slow)"


@pytest.mark.parametrize("holder", [60], indirect=True)
@pytest.mark.parametrize("text", ['{"pid": 1}', "\udcff"])
def test_whoever_does_not_sign_is_another_process(tmp_path: Path, holder: int, text: str) -> None:
    (tmp_path / LOCK_FILE).write_text(text, encoding="utf-8", errors="surrogateescape")
    with (
        pytest.raises(BusyError, match="another process"),
        writer_lock(tmp_path),
    ):
        pass


def test_a_lock_dies_with_its_process_and_looking_does_not_take_it(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "nowhere") is None
    with writer_lock(tmp_path):
        assert re.fullmatch(rf"process {os.getpid()} \(.+\)", holder_of(tmp_path) or "")
    assert holder_of(tmp_path) is None
    with writer_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["build", "a\n  b"], "vernaclip build a b"),
        (["--debug", "forget", "--url", "http://example.org/me.jpg", "--root", "italy"], "vernaclip forget"),
    ],
)
def test_a_lock_tells_the_command_in_one_line_and_none_of_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vernaclip", *words])
    with writer_lock(tmp_path):
        assert holder_of(tmp_path) == f"process {os.getpid()} ({told})"
        assert b"example" not in (tmp_path / LOCK_FILE).read_bytes()
        with pytest.raises(BusyError, match=rf"process {os.getpid()} "), writer_lock(tmp_path):
            pass


def test_a_place_has_one_writer_and_a_killed_one_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / f".out{LOCK_FILE}"
    words = [sys.executable, "-c", HOLDER, str(path), "0"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        told = rf"process {process.pid} \(vernaclip build slow\)"
        with pytest.raises(BusyError, match=told), place_lock(tmp_path / "out"):
            pass
        with place_lock(tmp_path / "other"):
            pass
        process.kill()
    assert path.exists()
    with place_lock(tmp_path / "out"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_place_in_a_folder_that_is_not_there_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), place_lock(tmp_path / "a/b/out"):
        (tmp_path / "a/b/out").rmdir()
    assert list(tmp_path.iterdir()) == []
    with place_lock(tmp_path / "a/b/out"):
        (tmp_path / "a/mine").write_text("mine")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]
    with pytest.raises(DiskError, match="mine is not a writable folder"), place_lock(tmp_path / "a/mine/out"):
        pass


def test_a_lock_that_its_holder_has_just_removed_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking it."""
    path, flock = tmp_path / f".out{LOCK_FILE}", fcntl.flock
    removed: list[Path] = []

    def lock(file: object, how: int) -> None:
        if not removed:
            path.unlink()
            removed.append(path)
        flock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", lock)
    with place_lock(tmp_path / "out"):
        assert path.exists()
        with pytest.raises(BusyError, match="out is being written by process"), place_lock(tmp_path / "out"):
            pass


@pytest.mark.parametrize(("number", "is_told"), [(errno.EROFS, False), (errno.EACCES, False), (errno.ENOLCK, True)])
def test_where_no_lock_can_be_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, is_told: bool
) -> None:
    def lock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", lock)
    with place_lock(tmp_path / "new" / "out"):
        pass
    assert ("does not support locks" in caplog.text) is is_told
    if is_told:
        assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_user_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose file can be read, and be removed from a folder that both write to, but not be written."""
    place, path, open_file = tmp_path / "out", tmp_path / f".out{LOCK_FILE}", os.open

    def open_as_another(name: Path, flags: int, *args: int, **options: object) -> int:
        if Path(name) == path and path.exists() and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_file(name, flags, *args, **options)  # type: ignore[arg-type]

    with place_lock(place):
        monkeypatch.setattr(os, "open", open_as_another)
        with pytest.raises(BusyError, match="out is being written by process"), place_lock(place):
            pass
        assert path.exists()
    path.write_bytes(b"")  # of one that was killed
    with place_lock(place):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_nowhere_in_the_place_of_a_lock_is_told(tmp_path: Path) -> None:
    (tmp_path / ".out.writer-lock").symlink_to(tmp_path / "gone" / "lock")
    with pytest.raises(InputError, match="symbolic link"), place_lock(tmp_path / "out"):
        pass


def fail_after(root: Path, *files: str) -> None:
    with writer_lock(root):
        (root / "work" / "scenes").mkdir(parents=True, exist_ok=True)
        for name in files:
            (root / name).write_text("work")
        raise InputError("wrong files")


def test_a_root_that_was_made_for_nothing_goes_again_and_one_with_something_in_it_stays(tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    for files, left in ((), None), ((), {LOCK_FILE, "work"}), (("finished",), {LOCK_FILE, "work", "finished"}):
        if left is not None:
            root.mkdir(parents=True, exist_ok=True)
        with pytest.raises(InputError, match="wrong files"):
            fail_after(root, *files)
        if left is None:
            assert list(tmp_path.iterdir()) == []
        else:
            assert {path.name for path in root.iterdir()} == left


def test_a_lock_whose_root_was_taken_back_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, lock_file, gone = tmp_path / "root", fcntl.flock, []

    def flock(file: TextIO, how: int) -> None:
        lock_file(file, how)
        if not gone:
            gone.append((root / LOCK_FILE).unlink())
            root.rmdir()

    monkeypatch.setattr(fcntl, "flock", flock)
    with writer_lock(root):
        assert holder_of(root) == f"process {os.getpid()} ({json.loads((root / LOCK_FILE).read_text())['command']})"

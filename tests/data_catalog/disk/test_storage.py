"""Files and outputs of steps are whole or absent, have one writer and checksums that vouch for them; stable orders."""

import ast
import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import BusyError, DamagedError, SettingsError
from data_catalog.catalog.work import StepKey, WorkStore
from data_catalog.disk import failpoints, records
from data_catalog.disk.files import (
    append_line,
    digest,
    link_file,
    order_key,
    read_json,
    shard_of,
    unit_interval,
    write_atomically,
    write_json,
)
from data_catalog.disk.lock import LOCK_FILE, holder_of, place_lock, writer_lock
from data_catalog.disk.records import (
    checksummed_line,
    content_problem,
    file_problem,
    is_recorded,
    read_checksummed,
    read_record,
    record_path,
    record_problem,
    recorded,
    remove_record,
    write_checksummed,
    write_record,
    write_recorded,
)
from data_catalog.sources.hashes import FileHashes, location_digest


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_of_any_new_file_and_what_is_no_file_is_not_replaced(
    tmp_path: Path, umask: int, mode: int
) -> None:
    def write_as_a_new_file(temporary: Path) -> None:
        other = temporary.with_suffix(".other")
        other.touch(0o600)
        other.replace(temporary)

    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {"a": 1})
        write_atomically(tmp_path / "b", write_as_a_new_file)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(SettingsError, match=name):
            write_json(tmp_path / name, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b", "folder", "pipe"]


def test_a_sample_keeps_its_place_for_ever() -> None:
    # Golden: these decide splits of published datasets.
    assert order_key("mscoco:391895") == "98b4ee538698d792"
    assert unit_interval("mscoco:391895", "vernaclip") == pytest.approx(0.5005702270729122)
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": "1", "b": [1, 2]})
    shards = [shard_of(key, 7) for key in sorted(order_key(str(number)) for number in range(1000))]
    assert shards == sorted(shards)
    assert set(shards) == set(range(7))


@pytest.mark.parametrize("can_link", [True, False])
def test_a_file_gets_a_second_name_or_a_copy(can_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no second names on this disk")

    source, target = tmp_path / "a.parquet", tmp_path / "new" / "b.parquet"
    source.write_bytes(b"bytes")
    if not can_link:
        monkeypatch.setattr("os.link", refuse)
    link_file(source, target)
    assert target.read_bytes() == b"bytes"
    assert target.samefile(source) == can_link
    assert [path.name for path in target.parent.iterdir()] == ["b.parquet"]


def test_a_file_edited_in_place_is_hashed_again_though_its_size_and_time_are_restored(tmp_path: Path) -> None:
    path, store = tmp_path / "captions.tsv", tmp_path / "hashes.json"
    path.write_bytes(b"un cane")
    status = path.stat()
    hashes = FileHashes(store)
    assert hashes.sha256(path) == hashlib.sha256(b"un cane").hexdigest()
    hashes.save()
    with path.open("r+b") as file:
        file.write(b"un pane")
    while path.stat().st_ctime_ns == status.st_ctime_ns:  # ticks of the kernel
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    edited = hashlib.sha256(b"un pane").hexdigest()
    assert FileHashes(store).sha256(path) == edited
    write_checksummed(store, {str(path): [status.st_size, status.st_mtime_ns, status.st_ino, "of an older version"]})
    assert FileHashes(store).sha256(path) == edited


def test_a_folder_is_its_files_wherever_links_lead_but_for_what_is_left_out(tmp_path: Path) -> None:
    elsewhere, images = tmp_path / "elsewhere", tmp_path / "images"

    def digest_of(root: Path = tmp_path / "nowhere") -> str:
        return location_digest(str(images), root, FileHashes(tmp_path / "hashes.json"))

    for folder, name in ((elsewhere, "b.jpg"), (images, "a.jpg")):
        folder.mkdir()
        (folder / name).write_bytes(name.encode())
    (images / "linked").symlink_to(elsewhere)
    before = digest_of()
    (images / "linked" / "up").symlink_to(images)
    (images / "self").symlink_to(images)
    assert digest_of() == before  # links that lead back up come to an end
    (elsewhere / "b.jpg").write_bytes(b"changed")
    assert digest_of() != before
    (images / "linked").unlink()
    (images / "linked").mkdir()
    (images / "linked" / "b.jpg").write_bytes(b"b.jpg")
    assert digest_of() == before
    (images / "catalog").mkdir()
    (images / "catalog" / "c.jpg").write_bytes(b"c")
    assert digest_of(images / "catalog") == before != digest_of()
    hidden = ".vernaclip/server.db", ".c.jpg", "linked/.thumbnails/b.jpg"
    for name in (*hidden, "photos.toml", "captions.csv", "linked/captions.JSONL.gz"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(b"no image")
    assert digest_of(images / "catalog") == before
    for name in ("datasets/own/current.json", "memory/a.db", "exports/own/a.png", "file-hashes.json"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(b"written by a build whose root is the folder")
    assert digest_of(images) == digest_of(images) != digest_of(images / "catalog")
    shutil.rmtree(images / "catalog")
    assert digest_of(images) == before


def test_a_line_that_a_kill_tore_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "runs.jsonl"
    append_line(log, '{"run": 1}')
    with log.open("a") as file:
        file.write('{"run": 2, "hos')
    append_line(log, '{"run": "tre è"}')
    assert log.read_text(encoding="utf-8").splitlines() == ['{"run": 1}', '{"run": 2, "hos', '{"run": "tre è"}']


# A text that holds what looks like a checksum, at the wrong depth and as text.
VALUE = {
    "name": 'perché "checksum": "no"',
    "b": {"checksum": "0" * 64},
    "lines": 'a\n "checksum": "' + "1" * 64 + '"',
    "number": 0.1,
    "none": None,
}


def damaged(content: bytes) -> list[bytes]:
    """The content with one bit of each byte flipped, in turn, and cut off at each byte."""
    return [
        *(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] for at in range(len(content))),
        *(content[:at] for at in range(len(content))),
    ]


def test_every_damage_of_a_document_or_a_line_shows(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    write_checksummed(path, dict(reversed(VALUE.items())))
    assert read_checksummed(path, remedy="restore it") == VALUE
    content, line = path.read_bytes(), checksummed_line(VALUE).encode()
    assert [bad for bad in [*damaged(content), content + b" ", b" " + content] if content_problem(bad) is None] == []
    assert content_problem(line) is None
    assert json.loads(line)["name"] == VALUE["name"]
    assert [bad for bad in damaged(line) if content_problem(bad) is None] == []


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[1, 2]", b'{"cHecksum": "x"}', pytest.param(b"[" * 100_000, id="deep"), None]
)
def test_what_is_no_document_is_told_with_its_remedy(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "document.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"document\.json .*: restore it from a copy$"):
        read_checksummed(path, remedy="restore it from a copy")
    write_json(path, {"snapshot": "abc"})
    with pytest.raises(DamagedError, match="checksum is missing"):
        read_checksummed(path, remedy="restore it")
    for value in ({}, {"files": []}):
        write_checksummed(path, value)
        with pytest.raises(DamagedError, match="lists no files"):
            read_record(path, remedy="restore it")


@pytest.fixture
def recorded_file(tmp_path: Path) -> Path:
    path = tmp_path / "perché \udcff.bin"
    write_recorded(path, lambda temporary: temporary.write_bytes(b"first") and None)
    return path


@pytest.mark.parametrize("which", [lambda path: path, record_path], ids=["file", "record"])
def test_every_damage_of_a_file_or_its_record_shows(recorded_file: Path, which: Callable[[Path], Path]) -> None:
    file = recorded_file
    path = which(file)
    content = path.read_bytes()
    for bad in damaged(content):
        path.write_bytes(bad)
        assert record_problem(file) is not None, bad
    path.write_bytes(content)
    assert is_recorded(file)
    assert record_problem(file) is None
    assert record_problem(file.with_name("other")) is None
    assert read_record(record_path(file), remedy="") == {file.name: hashlib.sha256(b"first").hexdigest()}
    file.unlink()
    assert record_problem(file) is not None


def test_a_process_that_dies_meanwhile_leaves_no_record(recorded_file: Path) -> None:
    with suppress(KeyboardInterrupt), recorded(recorded_file):
        recorded_file.write_bytes(b"half")
        raise KeyboardInterrupt
    assert (is_recorded(recorded_file), record_problem(recorded_file)) == (False, None)
    with recorded(recorded_file):
        recorded_file.write_bytes(b"second")
    assert (is_recorded(recorded_file), record_problem(recorded_file)) == (True, None)


def test_a_file_that_is_replaced_while_it_is_compared_is_not_damaged(
    recorded_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def problem_meanwhile(path: Path, sha256: str) -> str | None:
        path.write_bytes(b"second")
        found = file_problem(path, sha256)
        write_record(path)
        return found

    monkeypatch.setattr(records, "file_problem", problem_meanwhile)
    assert record_problem(recorded_file) is None


def test_the_removal_of_a_record_is_on_the_disk_before_its_file_changes(
    recorded_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(records, "sync", synced.append)
    remove_record(recorded_file)
    assert (is_recorded(recorded_file), synced) == (False, [recorded_file.parent])


def key(**changes: Any) -> StepKey:
    return StepKey(**{"step": "clean", "version": 1, "inputs": ("a", "b"), "settings": {"min_words": 2}, **changes})


def produce(folder: Path) -> Mapping[str, Any]:
    (folder / "x.txt").write_text("content")
    return {"rows": 3}


def refuse(folder: Path) -> Mapping[str, Any]:
    raise AssertionError("must not run again")


def test_a_step_runs_once(tmp_path: Path) -> None:
    made = WorkStore(tmp_path).run(key(), produce)
    again = WorkStore(tmp_path).run(key(), refuse)
    assert (made.reused, again.reused) == (False, True)
    assert again.facts == {"rows": 3}
    assert again.path("x.txt").read_text() == "content"
    assert again.files.keys() == {"x.txt"}
    for changes in ({"version": 2}, {"inputs": ("b", "a")}, {"settings": {"min_words": 3}}, {"step": "check"}):
        assert key(**changes).key != key().key, "whatever changes the output changes the key"


def test_outputs_of_one_dataset_are_removed_and_a_kill_leaves_no_record_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    work, other = WorkStore(tmp_path / "one"), WorkStore(tmp_path / "other")
    for store in (work, other):
        store.run(key(), produce)
    with monkeypatch.context() as patch:
        patch.setattr("data_catalog.catalog.work.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            work.empty()
    again = WorkStore(tmp_path / "one")
    assert list(again.commits("clean")) == []
    again.sweep()
    assert again.find(key()) is None
    assert list((tmp_path / "one").iterdir()) == []
    again.empty()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert other.find(key()) is not None


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"files": {', None])
def test_a_damaged_output_is_told_and_made_again(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    made = WorkStore(tmp_path).run(key(), produce)
    if damage is None:
        made.path("x.txt").unlink()
    else:
        (made.folder / "commit.json").write_bytes(damage)
    assert WorkStore(tmp_path).find(key()) is None
    assert ("x.txt" if damage is None else "commit.json") in caplog.text
    again = WorkStore(tmp_path).run(key(), produce)
    assert (again.reused, again.facts, again.path("x.txt").read_text()) == (False, {"rows": 3}, "content")
    assert [path.name for path in (tmp_path / "clean").iterdir()] == [key().key]


def test_what_an_earlier_run_wrote_is_looked_at_before_a_step_reads_it(tmp_path: Path) -> None:
    made = WorkStore(tmp_path).run(key(), produce)
    work = WorkStore(tmp_path)
    found = work.find(key())
    assert found is not None
    following = key(step="check", inputs=tuple(found.files.values()))
    made.path("x.txt").write_text("contenu")
    with pytest.raises(DamagedError, match=r"x\.txt was damaged"):
        work.run(following, refuse, reads=[found])
    again = WorkStore(tmp_path)
    again.run(key(), produce)
    assert again.run(following, produce, reads=[found]).reused is False


def test_two_shards_of_equal_content_share_an_output(tmp_path: Path) -> None:
    def produce_after_the_other(folder: Path) -> Mapping[str, Any]:
        WorkStore(tmp_path).run(key(), produce)
        return produce(folder)

    assert WorkStore(tmp_path).run(key(), produce_after_the_other).facts == {"rows": 3}


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        produce(folder)
        raise RuntimeError("died")

    with pytest.raises(RuntimeError):
        WorkStore(tmp_path).run(key(), fail)
    assert list((tmp_path / "clean").iterdir()) == []


# Failpoints


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`arm("place=action")`: as in a process that is started with these failpoints."""

    def change(text: str) -> None:
        monkeypatch.setattr(failpoints, "_armed", None)
        monkeypatch.setenv(failpoints.VARIABLE, text)

    monkeypatch.setattr(failpoints, "_armed", None)
    return change


def test_the_registry_of_failpoints_is_what_the_code_passes() -> None:
    passed = set()
    for package in ("data_catalog", "translation", "cleaning", "training", "flows"):
        for path in (Path(__file__).resolve().parents[3] / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if "failpoint(" in text else ():
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "failpoint":
                    passed.add(ast.literal_eval(node.args[0]))
    assert passed == {*failpoints.REGISTRY}


@pytest.mark.parametrize("action", ["enospc", "eio"])
@pytest.mark.parametrize("place", ["before_write", "after_write", "after_fsync", "after_rename", "after_folder_fsync"])
def test_a_file_is_the_old_one_or_the_new_one_wherever_the_disk_fails(
    place: str, action: str, arm: Callable[[str], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    write_json(path, "old")
    arm(f"atomic.{place}={action}")
    with pytest.raises(Exception, match=r"is full: free space|the disk failed at .*a\.json"):
        write_json(path, "new")
    assert read_json(path) == ("new" if place in ("after_rename", "after_folder_fsync") else "old")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


# Locks

HOLDER = """
import sys, time
from pathlib import Path
from data_catalog.disk.lock import place_lock
with place_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_place_has_one_writer_and_a_killed_one_holds_nobody_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=rf"process {holder.pid} \("), place_lock(tmp_path / "out"):
            pass
        with place_lock(tmp_path / "other"):
            pass
        holder.kill()
    with place_lock(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_tells_the_command_in_one_line_and_none_of_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = ["--debug", "forget", "--url", "http://example.org/me.jpg", "--root", "italy"]
    for words, told in ((["build", "a\n  b"], "vernaclip build a b"), (secret, "vernaclip forget")):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/vernaclip", *words])
        with writer_lock(tmp_path):
            assert holder_of(tmp_path) == f"process {os.getpid()} ({told})"
            assert b"example" not in (tmp_path / LOCK_FILE).read_bytes()
        assert holder_of(tmp_path) is None


def test_where_no_lock_can_be_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

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


def test_a_damaged_store_is_learnt_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, store = tmp_path / "file", tmp_path / "store.json"
    file.write_bytes(b"first")
    hashes = FileHashes(store)
    found = hashes.sha256(file)
    hashes.save()
    text = store.read_text(encoding="utf-8")
    store.write_text(text.replace(found, found[::-1]), encoding="utf-8")
    assert FileHashes(store).sha256(file) == found
    assert "does not match its checksum): upstream files are hashed again" in caplog.text

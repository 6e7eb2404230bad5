"""Files are whole or absent, and vouched for by checksums; hashes and orders are stable, and follow what files hold."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_catalog.errors import DamagedError, SettingsError
from data_catalog.storage.integrity import (
    checksummed_line,
    content_problem,
    is_recorded,
    line_problem,
    read_checksummed,
    read_record,
    record_path,
    record_problem,
    recorded,
    write_checksummed,
    write_recorded,
)
from data_catalog.storage.shards import (
    append_line,
    digest,
    link_file,
    order_key,
    shard_of,
    sweep_temporary,
    unit_interval,
    write_atomically,
    write_json,
)
from data_catalog.storage.upstream_hashes import FileHashes


@pytest.mark.parametrize("name", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match=name):
        write_json(tmp_path / name, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    def write_as_a_new_file(temporary: Path) -> None:
        other = temporary.with_suffix(".other")
        other.touch(0o600)
        other.replace(temporary)

    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {"a": 1})
        write_atomically(tmp_path / "b", write_as_a_new_file)
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_a_sample_keeps_its_place_for_ever() -> None:
    # Golden: these decide splits of published datasets.
    assert order_key("mscoco:391895") == "98b4ee538698d792"
    assert unit_interval("mscoco:391895", "vernaclip") == pytest.approx(0.5005702270729122)
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": "1", "b": [1, 2]})
    shards = [shard_of(key, 7) for key in sorted(order_key(str(number)) for number in range(1000))]
    assert shards == sorted(shards)
    assert set(shards) == set(range(7))


def test_sweeping_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-folder" / "x").touch()
    (tmp_path / ".tmp-file").touch()
    (tmp_path / "kept").touch()
    sweep_temporary([tmp_path])
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of its own, and one behind a link to a folder elsewhere."""
    elsewhere, images = tmp_path / "elsewhere", tmp_path / "images"
    elsewhere.mkdir()
    images.mkdir()
    (elsewhere / "b.jpg").write_bytes(b"b")
    (images / "a.jpg").write_bytes(b"a")
    (images / "linked").symlink_to(elsewhere)
    return images


def hash_of(folder: Path, without: Path | None = None) -> str:
    hashes = FileHashes(folder.parent / "hashes.json")
    return hashes.folder_digest(folder, without=without or folder.parent / "nowhere")


def test_a_folder_is_its_files_wherever_links_lead(folder: Path) -> None:
    before = hash_of(folder)
    (folder / "linked" / "up").symlink_to(folder)
    (folder / "self").symlink_to(folder)
    assert hash_of(folder) == before  # links that lead back up come to an end
    (folder.parent / "elsewhere" / "b.jpg").write_bytes(b"changed")
    assert hash_of(folder) != before
    (folder / "linked").unlink()
    (folder / "linked").mkdir()
    (folder / "linked" / "b.jpg").write_bytes(b"b")
    assert hash_of(folder) == before


def test_what_is_left_out_does_not_count(folder: Path) -> None:
    before = hash_of(folder, folder / "catalog")
    (folder / "catalog").mkdir()
    (folder / "catalog" / "c.jpg").write_bytes(b"c")
    assert hash_of(folder, folder / "catalog") == before
    assert hash_of(folder) != before


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
    assert line_problem(line) is None
    assert json.loads(line)["name"] == VALUE["name"]
    assert [bad for bad in damaged(line) if line_problem(bad) is None] == []


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[1, 2]", b'{"a": 1', b'{"cHecksum": "x"}', pytest.param(b"[" * 100_000, id="deep"), None],
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
    file = recorded_file

    def die() -> None:
        with recorded(file):
            file.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert not is_recorded(file)
    assert record_problem(file) is None
    with recorded(file):
        file.write_bytes(b"second")
    assert is_recorded(file)
    assert record_problem(file) is None


@pytest.mark.parametrize("value", [{}, {"files": []}, {"files": {"a": 1}}])
def test_a_document_that_lists_no_files_is_no_record(tmp_path: Path, value: dict[str, object]) -> None:
    path = tmp_path / "files.json"
    write_checksummed(path, value)
    with pytest.raises(DamagedError, match=r"lists no files.*: train again"):
        read_record(path, remedy="train again")

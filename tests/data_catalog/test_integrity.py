"""Documents that carry a checksum of their own text, and vouch for other files."""

import hashlib
import json
from pathlib import Path

import pytest

from data_catalog.errors import DamagedError
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
from data_catalog.storage.shards import write_json

# A text that holds what looks like a checksum, at the wrong depth and as text.
VALUE = {
    "name": 'perché "checksum": "no"',
    "b": {"checksum": "0" * 64},
    "lines": 'a\n "checksum": "' + "1" * 64 + '"',
    "number": 0.1,
    "none": None,
}


def flips(content: bytes) -> list[bytes]:
    """The content with each of its bits flipped, one at a time."""
    return [
        content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        for place in range(len(content))
        for bit in range(8)
    ]


def test_a_document_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    write_checksummed(path, VALUE)
    assert read_checksummed(path, remedy="restore it") == VALUE
    first = path.read_bytes()
    write_checksummed(path, dict(reversed(VALUE.items())))
    assert path.read_bytes() == first


def test_every_flipped_bit_of_a_document_shows(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    write_checksummed(path, VALUE)
    missed = [content for content in flips(path.read_bytes()) if content_problem(content) is None]
    assert missed == []


def test_every_flipped_bit_of_a_line_shows() -> None:
    line = checksummed_line(VALUE).encode()
    assert line_problem(line) is None
    assert json.loads(line)["name"] == VALUE["name"]
    assert [content for content in flips(line) if line_problem(content) is None] == []


def test_every_cut_and_added_byte_shows(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    write_checksummed(path, VALUE)
    content = path.read_bytes()
    assert all(content_problem(content[:size]) for size in range(len(content)))
    assert content_problem(content + b" ")
    assert content_problem(b" " + content)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[1, 2]", b"7", b'{"a": 1', b'{"cHecksum": "x"}', pytest.param(b"[" * 100_000, id="deep")],
)
def test_what_is_no_document_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "document.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"document\.json is damaged \(.*\): restore it from a copy$"):
        read_checksummed(path, remedy="restore it from a copy")


def test_a_document_without_a_checksum_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    write_json(path, {"snapshot": "abc"})
    with pytest.raises(DamagedError, match=r"is damaged \(its checksum is missing.*\): restore it"):
        read_checksummed(path, remedy="restore it")


def test_what_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"cannot be read \(No such file or directory\): restore it"):
        read_checksummed(tmp_path / "none.json", remedy="restore it")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "perché \udcff.bin"
    write_recorded(path, lambda temporary: temporary.write_bytes(b"first") and None)
    return path


def test_a_whole_file_has_no_problem(file: Path) -> None:
    assert is_recorded(file)
    assert record_problem(file) is None
    assert read_record(record_path(file), remedy="") == {file.name: hashlib.sha256(b"first").hexdigest()}


@pytest.mark.parametrize("which", [lambda path: path, record_path], ids=["file", "record"])
def test_every_flipped_bit_of_a_file_or_its_record_shows(file: Path, which: object) -> None:
    path: Path = which(file)  # type: ignore[operator]
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            assert record_problem(file) is not None, (place, bit)
    path.write_bytes(content)
    assert record_problem(file) is None


def test_a_missing_file_shows(file: Path) -> None:
    file.unlink()
    assert record_problem(file) == "it is missing"
    assert record_problem(file.with_name("other")) is None


def test_a_process_that_dies_meanwhile_leaves_no_record(file: Path) -> None:
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
    with pytest.raises(DamagedError, match=r"files\.json is damaged \(it lists no files\): train again"):
        read_record(path, remedy="train again")

"""Documents that carry a checksum of their own text, and vouch for other files."""

import hashlib
import json
from collections.abc import Callable
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
def file(tmp_path: Path) -> Path:
    path = tmp_path / "perché \udcff.bin"
    write_recorded(path, lambda temporary: temporary.write_bytes(b"first") and None)
    return path


@pytest.mark.parametrize("which", [lambda path: path, record_path], ids=["file", "record"])
def test_every_damage_of_a_file_or_its_record_shows(file: Path, which: Callable[[Path], Path]) -> None:
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
    with pytest.raises(DamagedError, match=r"lists no files.*: train again"):
        read_record(path, remedy="train again")

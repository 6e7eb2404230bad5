"""Upstream files: errors of every kind, and the lines as read."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import InputError
from data_catalog.sources import files
from data_catalog.sources.files import check_text_file, excerpt, read_lines, text_trouble, upstream_files


@dataclass(frozen=True)
class Named:
    files: tuple[str, ...]


def write(folder: Path, content: bytes, name: str = "file.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(b"row\n" * 1000)[:-4], "truncated gzip"),
        (gzip.compress(b"row\n" * 1000)[:-8] + b"\0" * 8, "damaged gzip"),
        (b"\x1f\x8b" + b"no gzip at all, by a long way", "damaged gzip"),
        (b"PK\x03\x04....", "zip archive"),
        (b"PAR1....", "Parquet"),
        ("caption\turl".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_wrong_file_is_an_input_error(tmp_path: Path, content: bytes, found: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=found) as caught:
        check_text_file(path, expected="a WIT TSV")
    assert str(path) in str(caught.value)
    assert "expected a WIT TSV" in str(caught.value) or "download it again" in str(caught.value)
    if "gzip" in found:
        with pytest.raises(InputError, match=found):
            list(read_lines(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("members.gz", gzip.compress(b"a\n") + gzip.compress(b"b\n")),
        ("plain.tsv", gzip.compress(b"a\nb")),
        ("name.gz", b"a\nb"),
    ],
)
def test_gzip_is_recognised_by_content_and_read_to_its_last_member(tmp_path: Path, name: str, content: bytes) -> None:
    path = write(tmp_path, content, name)
    check_text_file(path, expected="lines")
    assert [line.text for line in read_lines(path)] == ["a", "b"]


def test_globs_are_sorted_and_files_named_twice_are_read_once(tmp_path: Path) -> None:
    for name in ("b.tsv", "a.tsv", "c.txt", "captions[1].tsv"):
        write(tmp_path, b"x", name)
    (tmp_path / "folder.tsv").mkdir()
    named = (f"{tmp_path}/?.tsv", f"{tmp_path}/b.tsv", f"{tmp_path}/../{tmp_path.name}/a.tsv")
    assert [path.name for path in upstream_files(Named(named))] == ["a.tsv", "b.tsv"]
    with_brackets = tmp_path / "captions[1].tsv"  # a name, not a glob
    assert upstream_files(Named((str(with_brackets),))) == [with_brackets]
    for name, found in (("nothing.tsv", "does not exist"), ("*.none", "matches no file"), (".", "folder")):
        with pytest.raises(InputError, match=found):
            upstream_files(Named((str(tmp_path / name),)))


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"
    lines = list(read_lines(write(tmp_path, f"\ufeff{text}\r\n{text}\n\nlast".encode())))
    assert [(line.number, line.text, line.end) for line in lines] == [
        (1, text, "\r\n"),
        (2, text, "\n"),
        (3, "", "\n"),
        (4, "last", ""),
    ]
    assert all(line.trouble is None for line in lines)


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (b"caff\xe8 latin-1", "0xe8 at offset 4"),
        (b"a\x00b", "a NUL at character 1"),
    ],
)
def test_bad_bytes_are_trouble_of_their_line_only(tmp_path: Path, raw: bytes, detail: str) -> None:
    before, bad, after = read_lines(write(tmp_path, "prima è\n".encode() + raw + b"\ndopo\n"))
    assert (before.text, before.trouble, after.text, after.trouble) == ("prima è", None, "dopo", None)
    assert bad.trouble is not None
    assert bad.trouble.reason == "bad_encoding"
    assert detail in bad.trouble.detail
    excerpt(bad.text).encode("utf-8")


def test_an_endless_line_is_cut_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    lines = list(read_lines(write(tmp_path, b"x" * 999 + b"\n" + b"y" * 5000 + b"\n" + b"z\n" + b"e" * 1000)))
    assert [line.trouble and line.trouble.reason for line in lines] == [None, "malformed_row", None, "malformed_row"]
    assert [line.number for line in lines] == [1, 2, 3, 4]
    assert (len(lines[1].text), lines[2].text) == (500, "z")


@given(st.text(st.characters(exclude_categories=()), max_size=700))
def test_an_excerpt_escapes_what_cannot_be_stored(text: str) -> None:
    shown = excerpt(text)
    assert len(shown) <= 500
    assert text_trouble(shown) is None
    shown.encode("utf-8")
    assert excerpt("più a\0b\udce8c\ud83d") == r"più a\x00b\xe8c\ud83d"

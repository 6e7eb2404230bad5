"""Upstream files as lines, JSON documents and quoted records: what is wrong is told and affects nothing else."""

import csv
import gzip
import io
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import InputError
from data_catalog.sources import delimited, files, json_documents
from data_catalog.sources.delimited import Record, read_records
from data_catalog.sources.files import (
    FilesConfig,
    Line,
    check_text_file,
    excerpt,
    read_lines,
    text_trouble,
    upstream_files,
)
from data_catalog.sources.json_documents import open_json
from data_catalog.sources.pixels import WebDatasetFiles


def write(folder: Path, content: bytes, name: str = "file.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (gzip.compress(b"row\n" * 1000)[:-4], "cannot be read .*end-of-stream"),
        (gzip.compress(b"row\n" * 1000)[:-8] + b"\0" * 8, "cannot be read .*CRC"),
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
    if "cannot be read" in found:
        with pytest.raises(InputError, match=found):
            list(read_lines(path))


def test_gzip_is_recognised_by_content_and_read_to_its_last_member(tmp_path: Path) -> None:
    members = gzip.compress(b"a\n") + gzip.compress(b"b\n")
    for name, content in {"members.gz": members, "plain.tsv": gzip.compress(b"a\nb"), "name.gz": b"a\nb"}.items():
        path = write(tmp_path, content, name)
        check_text_file(path, expected="lines")
        assert [line.text for line in read_lines(path)] == ["a", "b"]


def test_globs_are_sorted_and_files_named_twice_are_read_once(tmp_path: Path) -> None:
    for name in ("b.tsv", "a.tsv", "c.txt", "captions[1].tsv"):
        write(tmp_path, b"x", name)
    (tmp_path / "folder.tsv").mkdir()
    named = (f"{tmp_path}/?.tsv", f"{tmp_path}/b.tsv", f"{tmp_path}/../{tmp_path.name}/a.tsv")
    assert [path.name for path in upstream_files(FilesConfig(files=named))] == ["a.tsv", "b.tsv"]
    with_brackets = tmp_path / "captions[1].tsv"  # a name, not a glob
    assert upstream_files(FilesConfig(files=(str(with_brackets),))) == [with_brackets]
    for name, found in (("nothing.tsv", "does not exist"), ("*.none", "matches no file"), (".", "folder")):
        with pytest.raises(InputError, match=found):
            upstream_files(FilesConfig(files=(str(tmp_path / name),)))
    with pytest.raises(InputError, match=r"^s3://bucket/.*is a URL: download the files first.*`aws s3 cp"):
        upstream_files(FilesConfig(files=("s3://bucket/{000..010}.tar",)))
    with pytest.raises(InputError, match=r"is a folder without \.tar"):
        upstream_files(WebDatasetFiles(files=(str(tmp_path),)))


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"
    lines = list(read_lines(write(tmp_path, f"\ufeff{text}\r\n{text}\n\nlast".encode())))
    ends = [(1, text, "\r\n"), (2, text, "\n"), (3, "", "\n"), (4, "last", "")]
    assert [(line.number, line.text, line.end) for line in lines] == ends
    assert all(line.trouble is None for line in lines)


@pytest.mark.parametrize(("raw", "detail"), [(b"caff\xe8", "0xe8 at offset 4"), (b"a\0b", "a NUL at character 1")])
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


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(document=st.dictionaries(st.text(max_size=9), VALUES), indent=st.sampled_from([None, 1]), ascii=st.booleans())
def test_a_document_shows_all_that_is_in_it_though_only_lists_with_some_names_are_kept(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], *, indent: int | None, ascii: bool
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii)
    path = write(tmp_path_factory.mktemp("json"), text.encode())
    for names in ([], list(document)):
        found = open_json(path, expected="a COCO JSON", names=names)
        assert repr(found)[:500] == repr(json.loads(text))[:500]
    assert isinstance(found, dict)
    assert [value for value in found.values() if isinstance(value, list) and not holds_object(value)] == [
        value for value in document.values() if isinstance(value, list) and not holds_object(value)
    ]


def holds_object(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(holds_object, value)))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"images": [{"id": 1}, {"id"', "not valid JSON"),
        (b'{"images": []} {"images": []}', "Extra data"),
        (b'{"images": ' + b"[" * 200_000, "not valid JSON"),
        (b'{"a": "caff\xe8"}', "can't decode byte 0xe8"),
        (b'{"images": [[{"id": 1}, {"x": {"y": 1, "y": 1}}]]}', "'y' stands twice in one object"),
        (b'{"images": [1], "info": {}, "images": [2]}', "'images' stands twice in one object"),
        (gzip.compress(b" " * 5000 + b"{}"), "more than 0 MiB of JSON"),
    ],
)
def test_a_broken_document_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, found: str
) -> None:
    monkeypatch.setattr(json_documents, "MAX_DOCUMENT_BYTES", 4000 if content[:1] == b"\x1f" else 2**20)
    with pytest.raises(InputError, match=found) as caught:
        open_json(write(tmp_path, content, "captions.json"), expected="a COCO JSON", names=["images"])
    assert "captions.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


def lines_of(text: str) -> list[Line]:
    parts = text.split("\n")
    bodies = [(part, "\n") for part in parts[:-1]] + ([(parts[-1], "")] if parts[-1] else [])
    return [
        Line(number, body.removesuffix("\r"), ("\r" if body.endswith("\r") else "") + end, None)
        for number, (body, end) in enumerate(bodies, start=1)
    ]


def starts_row(cells: list[str]) -> bool:
    return 0 < len(cells) <= 3 and cells[0].startswith("http")


def records_of(text: str, delimiter: str = "\t") -> list[Record]:
    return list(read_records(lines_of(text), delimiter=delimiter, num_cells=3, starts_row=starts_row))


BROKEN = ["malformed"]


def outcome(record: Record) -> list[str]:
    return BROKEN if record.trouble else record.cells


def test_records() -> None:
    for text, expected in (
        ("h\ta\tb", [["h", "a", "b"]]),
        ("h\ta\tb\n\n\nh\tc\td\n", [["h", "a", "b"], ["h", "c", "d"]]),
        ('h\t"two\r\nlines\r\n\r\n"\tb\r\n', [["h", "two\r\nlines\r\n\r\n", "b"]]),
        ('h\t"said ""hi"""\tb\n', [["h", 'said "hi"', "b"]]),
        ("h\ta\u2028b\x85c\tb\x0b\n", [["h", "a\u2028b\x85c", "b\x0b"]]),
        # quotes that are mere text, on a line that is right without them
        ('h\t"Hi" he said\tb\n', [["h", '"Hi" he said', "b"]]),
        ("h\ta\tb\tc\nh\ta\tb\n", [BROKEN, ["h", "a", "b"]]),
        # a quote that never closes: at the end, before rows without quotes, before rows with quotes of all kinds
        ('h\ta\t"b\nhttp\tc\t"d\nhttp\te\t"f"\n', [BROKEN, BROKEN, ["http", "e", "f"]]),
        ('h\ta\t"b\nc" d\nhttp\te\tf\n', [BROKEN, BROKEN, ["http", "e", "f"]]),
    ):
        assert [outcome(record) for record in records_of(text)] == expected


PIECES = (*'""', '""', *",,\n\n", "\r\n", "a", "b c", "http://x.org/1.jpg,", '"q"', *"\0\x0c é")


# What the parser of version 0.1 made of a thousand texts each.
@pytest.mark.parametrize(
    ("number", "golden"), list(enumerate(["1102d6e4aa44", "b26970b27c85", "7b492a83c356", "a5643b468776"]))
)
def test_any_parser_finds_the_same_rows_in_thousands_of_texts(number: int, golden: str) -> None:
    rng, found = Random(number), sha256()
    for _ in range(1_000):
        text = "".join(PIECES[int(rng.random() * len(PIECES))] for _ in range(int(rng.random() * 40)))
        facts = [(one.line, one.cells, one.text, one.trouble and one.trouble.reason) for one in records_of(text, ",")]
        found.update(repr(facts).encode())
    assert found.hexdigest()[:12] == golden


@pytest.mark.parametrize(("limit", "value"), [("MAX_RECORD_LINES", 5), ("MAX_RECORD_CHARS", 10)])
def test_the_search_for_a_closing_quote_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(delimited, limit, value)
    within, beyond = ('h\t"b\n' + "xy\n" * num + '"\tz\n' for num in (3, 4))
    assert [outcome(record) for record in records_of(within)] == [["h", "b\n" + "xy\n" * 3, "z"]]
    assert [outcome(record) for record in records_of(beyond)] == [BROKEN] * 6
    text = 'h\ta\t"b\n' + "x\ty\tz\n" * 20
    assert [outcome(record) for record in records_of(text)] == [BROKEN] + [["x", "y", "z"]] * 20


SOME_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
CELL = SOME_TEXT | st.text(st.sampled_from('"\t\n\r, a\u2028\x85è'), max_size=12)
URL = CELL.map(lambda text: "http://h/" + text)
ROWS = st.lists(st.tuples(URL, CELL, CELL), max_size=8)


def written_by_csv(row: tuple[str, str, str]) -> str:
    csv.writer(file := io.StringIO(), "excel-tab").writerow(row)
    return file.getvalue()


@given(ROWS, st.data())
def test_what_csv_writes_comes_back_and_a_garbage_line_loses_no_row(
    rows: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    garbage = data.draw(CELL.map(lambda text: text.replace("\n", "")), label="garbage")
    place = data.draw(st.integers(0, len(rows)), label="place")
    written = [*map(written_by_csv, rows)]
    assert [tuple(outcome(record)) for record in records_of("".join(written))] == rows
    written.insert(place, garbage + "\n")
    found = [tuple(outcome(record)) for record in records_of("".join(written))]
    remaining = iter(found)
    assert all(row in remaining for row in rows), (rows, found)
    assert len(found) <= len(rows) + 1


# Reads pairs as a build does, in a process that cannot take the machine's memory.
READ = """
import collections, resource
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
from data_catalog.sources.registry import SOURCE_KINDS
source = SOURCE_KINDS["pairs"]
config = source.config_type(files=("p.jsonl.gz",), caption_column="text", url_column="image", lang="en")
source.check(config)
found = collections.Counter(getattr(row, "reason", "good") for row in source.read(config))
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(found["good"], found["malformed_row"], int(peak) // 1024)
"""


@pytest.mark.slower
def test_a_file_that_unpacks_to_much_more_is_read_within_little_memory(tmp_path: Path) -> None:
    """1.2 MB of text are 30 MB of lists; 40 records of 1.5 MB, 6 MB in memory each, are never held together."""
    record = '{"image": "https://host.example/a.jpg", "text": "a dog", "x": %s}\n'
    lists, long = record % ("[" + "[]," * 400_000 + "[]]"), record % ('"' + "y" * 1_500_000 + '\U0001f600"')
    too_long = record % ('"' + "y" * 9_000_000 + '"')
    packed = [gzip.compress(text.encode(), 1) * times for text, times in ((lists, 1), (long, 40), (too_long, 9))]
    write(tmp_path, b"".join(packed), "p.jsonl.gz")
    done = subprocess.run([sys.executable, "-c", READ], cwd=tmp_path, capture_output=True, text=True, check=True)
    good, malformed, peak_mb = map(int, done.stdout.split())
    assert (good, malformed) == (41, 9)
    assert peak_mb < 280

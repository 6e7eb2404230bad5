"""Quoted records: what csv writes is read exactly, and a broken record affects no other."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.sources import delimited
from data_catalog.sources.delimited import Record, read_records
from data_catalog.sources.files import Line


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h\ta\tb", [["h", "a", "b"]]),
        ("\t\t\n", [["", "", ""]]),
        ("h\ta\tb\n\n\nh\tc\td\n", [["h", "a", "b"], ["h", "c", "d"]]),
        ('"h"\t""\t"b"\n', [["h", "", "b"]]),
        ('h\t"two\r\nlines\r\n\r\n"\tb\r\n', [["h", "two\r\nlines\r\n\r\n", "b"]]),
        ('h\t"said ""hi"""\tb\n', [["h", 'said "hi"', "b"]]),
        ('h\t24" wide\t"x"\n', [["h", '24" wide', "x"]]),
        ("h\ta\u2028b\x85c\tb\x0b\n", [["h", "a\u2028b\x85c", "b\x0b"]]),
        # quotes that are mere text, on a line that is right without them
        ('h\t"Hi" he said\tb\n', [["h", '"Hi" he said', "b"]]),
        # wrong counts
        ("h\ta\tb\tc\nh\ta\tb\n", [BROKEN, ["h", "a", "b"]]),
        # a quote that never closes: at the end, before rows without quotes, before rows with quotes of all kinds
        ('h\ta\t"b\nhttp\t"c"\td\n', [BROKEN, ["http", "c", "d"]]),
        ('h\ta\t"b\nhttp\tc\t"d\nhttp\te\t"f"\n', [BROKEN, BROKEN, ["http", "e", "f"]]),
        ('h\ta\t"b\n\nhttp\t"c\nc"\td\n', [BROKEN, ["http", "c\nc", "d"]]),
        # a quote closed in mid-text
        ('h\t"a\nb" c\td\nhttp\t"c"\td\n', [BROKEN, BROKEN, ["http", "c", "d"]]),
        ('h\ta\t"b\nc" d\nhttp\te\tf\n', [BROKEN, BROKEN, ["http", "e", "f"]]),
    ],
)
def test_records(text: str, expected: list[list[str]]) -> None:
    assert [outcome(record) for record in records_of(text)] == expected


def test_records_know_the_line_where_they_start_and_the_trouble_of_each_of_their_lines() -> None:
    text = 'h\t"1\n2\n3"\tb\n\nh\ta\tb\nbroken\nh\tc\td\n'
    assert [record.line for record in records_of(text)] == [1, 5, 6, 7]
    trouble = delimited.Trouble("bad_encoding", "a NUL")
    lines = [Line(1, 'h\t"a', "\n", None), Line(2, 'b\0"\tc', "\n", trouble), Line(3, "h\ta\tb", "\n", None)]
    lines.append(Line(4, "h\0", "\n", trouble))  # the bytes of a line are a better reason than its cells
    records = list(read_records(lines, delimiter="\t", num_cells=3, starts_row=starts_row))
    assert [record.trouble for record in records] == [trouble, None, trouble]


@pytest.mark.parametrize(("limit", "value"), [("MAX_RECORD_LINES", 5), ("MAX_RECORD_CHARS", 10)])
def test_the_search_for_a_closing_quote_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(delimited, limit, value)
    within, beyond = ('h\t"b\n' + "xy\n" * num + '"\tz\n' for num in (3, 4))
    assert [outcome(record) for record in records_of(within)] == [["h", "b\n" + "xy\n" * 3, "z"]]
    assert [outcome(record) for record in records_of(beyond)] == [BROKEN] * 6
    text = 'h\ta\t"b\n' + "x\ty\tz\n" * 20
    assert [outcome(record) for record in records_of(text)] == [BROKEN] + [["x", "y", "z"]] * 20


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
CELL = TEXT | st.text(st.sampled_from('"\t\n\r, a\u2028\x85è'), max_size=12)
URL = CELL.map(lambda text: "http://h/" + text)
ROWS = st.lists(st.tuples(URL, CELL, CELL), max_size=8)


def write(rows: list[tuple[str, str, str]], dialect: str) -> list[str]:
    """What csv writes for each row."""
    written = []
    for row in rows:
        file = io.StringIO()
        csv.writer(file, dialect).writerow(row)
        written.append(file.getvalue())
    return written


@given(ROWS, st.sampled_from(["excel", "excel-tab", "unix"]))
def test_what_csv_writes_comes_back(rows: list[tuple[str, str, str]], dialect: str) -> None:
    delimiter = "\t" if dialect == "excel-tab" else ","
    found = records_of("".join(write(rows, dialect)), delimiter)
    assert [tuple(outcome(record)) for record in found] == rows


@given(ROWS, st.data())
def test_a_garbage_line_loses_no_other_row(rows: list[tuple[str, str, str]], data: st.DataObject) -> None:
    garbage = data.draw(CELL.map(lambda text: text.replace("\n", "")), label="garbage")
    place = data.draw(st.integers(0, len(rows)), label="place")
    written = write(rows, "excel-tab")
    written.insert(place, garbage + "\n")
    found = [tuple(outcome(record)) for record in records_of("".join(written))]
    remaining = iter(found)
    assert all(row in remaining for row in rows), (rows, found)
    assert len(found) <= len(rows) + 1

"""Audits and ratings are read whole or refused with what is wrong, whatever a spreadsheet did to them."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data_catalog.errors import InputError
from translation.audit.ratings import AuditSheet, RatingSheet, read_audit, read_ratings

ID = "0123456789abcdef"
HEADER = "audit_id,row_id,rating,comment,rater\n"


def write_audit(folder: Path, **columns: Sequence[object]) -> Path:
    """Write audit.csv with the rows r0, r1 and r2, and these columns."""
    fixed = {name: [f"{name} {number}" for number in range(3)] for name in ("source_text", "text", "source", "stratum")}
    filled = {"audit_id": [ID] * 3, "row_id": ["r0", "r1", "r2"], **fixed, "weight": [1.0] * 3, **columns}
    with (folder / "audit.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([filled, *zip(*filled.values(), strict=True)])
    return folder / "audit.csv"


@pytest.fixture
def audit(tmp_path: Path) -> AuditSheet:
    return read_audit(write_audit(tmp_path, translation_score=[-0.5, "", "'-1.25"], numbers_lost=["", "", "['30']"]))


def read_text(text: str | bytes, audit: AuditSheet, folder: Path) -> RatingSheet:
    path = folder / "ratings.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (sheet,) = read_ratings([path], audit)
    return sheet


def test_an_audit_is_read_with_the_numbers_it_has(audit: AuditSheet) -> None:
    assert audit.audit_id == ID
    assert [row.row_id for row in audit.rows] == ["r0", "r1", "r2"]
    assert [row.quality for row in audit.rows] == [
        {"translation_score": -0.5},
        {"translation_score": None},
        {"translation_score": -1.25},
    ]
    assert (audit.rows[1].source_text, audit.rows[1].text, audit.rows[1].weight) == ("source_text 1", "text 1", 1.0)


def test_what_was_not_rated_is_left_out(audit: AuditSheet, tmp_path: Path) -> None:
    found = read_text(f"{HEADER}{ID},r1,,bah,Ann\n{ID},r0,3,,Ann\n", audit, tmp_path)
    assert found == RatingSheet(rater="Ann", grades={"r0": 3}, comments={"r1": "bah"})


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: "\ufeff" + text.replace(",", ";").replace("\n", "\r\n") + ";;;;\r\n\r\n",
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("rating,", '"rating",').replace(",4,", ', "4" ,').replace(' "4" ', "4 "),
    ],
)
def test_what_spreadsheets_save_is_read(change: Callable[[str], str], audit: AuditSheet, tmp_path: Path) -> None:
    text = f'{HEADER}{ID},r0,4,"two\nlines",Zoë\n{ID},r2,1,\'=1+1,Zoë\n'
    found = read_text(change(text), audit, tmp_path)
    assert (found.rater, found.grades) == ("Zoë", {"r0": 4, "r2": 1})
    assert found.comments["r0"].split() == ["two", "lines"]
    assert found.comments["r2"] == "=1+1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (HEADER, "no rows"),
        (HEADER.replace("comment,", "") + f"{ID},r0,4,Ann\n", "has no column comment"),
        ("rating," + HEADER + f"4,{ID},r0,4,,Ann\n", "the column rating more than once"),
        (f"{HEADER}{ID},r0,3.5,,Ann\n", r"line 2: the rating '3.5' is not 1, 2, 3 or 4"),
        (f"{HEADER}{ID},r0,4,,Ann\n{ID},r1,5,,Ann\n", r"line 3: the rating '5'"),
        (f"{HEADER}{ID},r0,0,,Ann\n", "the rating '0'"),
        (f"{HEADER}{ID},r0,\u0664,,Ann\n", "the rating '\u0664'"),
        (f"{HEADER}{ID},r9,4,,Ann\n", "line 2: the audit has no row 'r9'"),
        (f"{HEADER}{ID},,4,,Ann\n", "line 2: the row_id is empty"),
        (f"{HEADER}{ID},r0,4,,Ann\n{ID},r0,4,,Ann\n", "line 3: row 'r0' occurs twice, first at .*line 2"),
        (f"{HEADER}ffff,r0,4,,Ann\n", f"rates audit ffff, but this is audit {ID}"),
        (f"{HEADER}{ID},r0,4,,Ann\nffff,r1,4,,Ann\n", "more than one audit_id"),
        (f"{HEADER}{ID},r0,4,,Ann\n{ID},r1,4,,Bo\n", "more than one rater"),
        (f"{HEADER}{ID},r0,4,,\n", "has no rater"),
        (f"{HEADER}{ID},r0,,nothing yet,Ann\n", "contains no ratings"),
        (f"{HEADER}{ID},r0,4,Ann\n", "line 2: "),
        (f'{HEADER}{ID},r0,4,"never closed,Ann\n', "line 2: "),
        (f"{HEADER}{ID},r0,4,perch\u00e9,Ann\n".encode("latin-1"), "line 2: byte 0xe9"),
        (f"{HEADER}{ID},r0,4,a\0b,Ann\n", "line 2: a NUL"),
        (f"{HEADER}{ID},r0,4,,Ann\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04 a workbook", "is a zip archive"),
    ],
)
def test_what_does_not_fit_is_named(text: str | bytes, message: str, audit: AuditSheet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_text(text, audit, tmp_path)


@pytest.mark.parametrize("second", ["Ann", " ann"])
def test_two_files_by_one_rater_are_refused(second: str, audit: AuditSheet, tmp_path: Path) -> None:
    first, again = tmp_path / "first.csv", tmp_path / "again.csv"
    first.write_text(f"{HEADER}{ID},r0,4,,Ann\n", encoding="utf-8")
    again.write_text(f"{HEADER}{ID},r1,4,,{second}\n", encoding="utf-8")
    with pytest.raises(InputError, match="both by"):
        read_ratings([first, again], audit)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"weight": [1, 0, 1]}, "line 3: the weight '0'"),
        ({"weight": ["1,5", 1, 1]}, "line 2: weight is '1,5'"),
        ({"weight": ["1e999", 1, 1]}, "weight is '1e999'"),
        ({"translation_score": [-0.1, "nan", -0.2]}, "line 3: translation_score is 'nan'"),
        ({"row_id": ["a", "b", "a"]}, "line 4: row 'a' occurs twice"),
        ({"audit_id": ["a", "b", "a"]}, "more than one audit_id"),
    ],
)
def test_an_audit_that_was_changed_is_refused(columns: dict[str, list[object]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_audit(write_audit(tmp_path, **columns))

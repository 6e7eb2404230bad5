"""Ratings are read whole or refused; means and agreement."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_catalog.base.errors import InputError
from translation.audit.agreement import Agreement, gwet_agreement, ordinal_weights
from translation.audit.ratings import (
    AuditRow,
    disputed_rows,
    mean_rating,
    read_audit,
    read_ratings,
    worst_rows,
)

ID = "0123456789abcdef"
HEADER = "audit_id,row_id,rating,comment,rater\n"
ANN = f"{HEADER}{ID},r0,4,,Ann\n"


def write_audit(folder: Path, **columns: Sequence[object]) -> Path:
    """Write audit.csv with the rows r0, r1 and r2, and these columns."""
    fixed = {name: [f"{name} {number}" for number in range(3)] for name in ("source_text", "text", "source", "stratum")}
    filled = {"audit_id": [ID] * 3, "row_id": ["r0", "r1", "r2"], **fixed, "weight": [1.0] * 3, **columns}
    with (folder / "audit.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([filled, *zip(*filled.values(), strict=True)])
    return folder / "audit.csv"


@pytest.fixture
def audit(tmp_path: Path) -> list[AuditRow]:
    return read_audit(write_audit(tmp_path, numbers_lost=["", "", "['30']"]))


def read_text(text: str | bytes, audit: list[AuditRow], folder: Path) -> list[str]:
    path = folder / "ratings.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_ratings([path], audit)


def test_an_audit_is_read(audit: list[AuditRow]) -> None:
    assert [(row.audit_id, row.row_id) for row in audit] == [(ID, "r0"), (ID, "r1"), (ID, "r2")]
    assert (audit[1].source_text, audit[1].text, audit[1].weight) == ("source_text 1", "text 1", 1.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", "\t"),
        lambda text: "\ufeff" + text.replace(",", ";").replace("\n", "\r\n") + ";;;;\r\n\r\n",
        lambda text: text.rstrip("\n").replace("rating,", '"rating",').replace(",4,", ",4 ,"),
    ],
)
def test_what_spreadsheets_save_is_read(change: Callable[[str], str], audit: list[AuditRow], tmp_path: Path) -> None:
    text = f'{HEADER}{ID},r0,4,"two\nlines",Zoë\n{ID},r1,,bah,Zoë\n{ID},r2,1,\'=1+1,Zoë\n'
    assert read_text(change(text), audit, tmp_path) == ["Zoë"]
    assert [row.grades for row in audit] == [{"Zoë": 4}, {}, {"Zoë": 1}], "what was not rated is left out"
    assert [row.comments["Zoë"].split() for row in audit] == [["two", "lines"], ["bah"], ["=1+1"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 columns audit_id"),
        (HEADER, "no rows"),
        (HEADER.replace("comment,", "") + f"{ID},r0,4,Ann\n", "0 columns comment"),
        ("rating," + HEADER + f"4,{ID},r0,4,,Ann\n", "2 columns rating"),
        *((ANN.replace(",4,", f",{grade},"), f"line 2: the rating '{grade}'") for grade in ("3.5", "0", "\u0664")),
        (f"{HEADER}{ID},r9,4,,Ann\n", "line 2: row 'r9' is not in the audit"),
        (f"{ANN}{ID},r0,4,,Ann\n", "line 3: row 'r0' occurs twice"),
        (ANN.replace(ID, "ffff"), f"rates audit ffff, not {ID}"),
        (f"{ANN}ffff,r1,4,,Ann\n", "one audit_id in all rows"),
        (f"{ANN}{ID},r1,4,,Bo\n", "one rater in all rows"),
        (ANN.replace("Ann", ""), "one rater in all rows"),
        (f"{HEADER}{ID},r0,,nothing yet,Ann\n", "contains no ratings"),
        (f"{HEADER}{ID},r0,4,Ann\n", "line 2 has not 5 cells"),
        (f'{HEADER}{ID},r0,4,"never closed,Ann\n', "unexpected end of data"),
        (ANN.replace("Ann", "perch\u00e9").encode("latin-1"), "utf-8.*save the sheet"),
    ],
)
def test_what_does_not_fit_is_named(text: str | bytes, message: str, audit: list[AuditRow], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"ratings\.csv.*{message}"):
        read_text(text, audit, tmp_path)


def test_two_files_by_one_rater_are_refused(audit: list[AuditRow], tmp_path: Path) -> None:
    for name, rater in (("first", "Ann"), ("again", " ann")):
        (tmp_path / name).write_text(ANN.replace("Ann", rater), encoding="utf-8")
    with pytest.raises(InputError, match="again is another file by 'ann'"):
        read_ratings([tmp_path / "first", tmp_path / "again"], audit)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        *(({"weight": [1, weight, 1]}, "line 3") for weight in (0, "1,5", "1e999")),
        ({"row_id": ["a", "", "c"]}, "line 3 .* row_id '' is empty"),
        ({"row_id": ["a", "b", "a"]}, "line 4 .* row_id 'a' is empty or occurs twice"),
        ({"audit_id": ["a", "b", "a"]}, "one audit_id in all rows"),
    ],
)
def test_an_audit_that_was_changed_is_refused(columns: dict[str, list[object]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_audit(write_audit(tmp_path, **columns))


def rated(name: str, *grades: int, weight: float = 1.0) -> AuditRow:
    texts = dict.fromkeys(("audit_id", "source_text", "text", "source"), "")
    by_rater = {f"rater {place}": grade for place, grade in enumerate(grades)}
    return AuditRow(**texts, row_id=name, weight=weight, grades=by_rater)


def test_each_row_counts_once_whoever_rated_it_or_by_its_weight() -> None:
    assert mean_rating([rated("a", 1, 2, 3), rated("b", 4)])[0] == pytest.approx(3)
    assert mean_rating([rated("a", 1, 2)]) == (1.5, None)
    rows = [rated("a", 1, weight=3), rated("b", 4, weight=1)]
    assert [mean_rating(rows, weighted=weighted)[0] for weighted in (False, True)] == pytest.approx([2.5, 7 / 4])


@pytest.mark.parametrize("weighted", [False, True])
def test_intervals_are_those_of_large_samples(*, weighted: bool) -> None:
    # Of 400 rows the mean is as good as normal: 1.96 standard errors either way, of which 2,000 rounds of a bootstrap
    # tell each end to within a tenth. The error of a weighted mean is that of a ratio, by linearisation.
    generator = np.random.default_rng(4)
    grades, weights = generator.choice((1, 2, 3, 4), 400, p=(0.1, 0.2, 0.3, 0.4)), generator.choice((1.0, 9.0), 400)
    rows = [rated("", int(grade), weight=float(weight)) for grade, weight in zip(grades, weights, strict=True)]
    shares = weights / weights.sum() if weighted else np.full(400, 1 / 400)
    mean = float((shares * grades).sum())
    error = math.sqrt(float((shares**2 * (grades - mean) ** 2).sum()))
    value, interval = mean_rating(rows, weighted=weighted)
    assert value == pytest.approx(mean)
    assert interval == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.2 * error)
    assert mean_rating(rows, weighted=weighted) == (value, interval)


def test_worst_and_disputed_rows_come_in_order() -> None:
    rows = [rated("fine", 4, 4), rated("torn", 1, 4), rated("near", 2, 3), rated("bad", 1, 1), rated("doubted", 4, 2)]
    for found, expected in (
        (worst_rows(rows, 3), ["bad", "torn", "near"]),
        (worst_rows(rows, 9), ["bad", "torn", "near", "doubted"]),  # the fine row is not among the worst
        (disputed_rows(rows, 9), ["torn", "doubted"]),  # one grade apart is no dispute
    ):
        assert [row.row_id for row in found] == expected


Ratings = list[list[int | None]]

# cac.raw4raters of the R package irrCAC: 12 units, 4 raters ("." rated nothing), 5 categories; Gwet, Handbook (2014).
FOUR_RATERS = "11.1 2232 3333 3333 2222 1234 4444 1121 2222 .555 ..11 ..3."
# distrib.6raters of irrCAC (Fleiss, 1971): how many of 6 raters chose each of 5 diagnoses for 15 patients.
SIX_RATERS = "00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031"


def ratings_of(text: str) -> Ratings:
    if text == FOUR_RATERS:
        return [[None if grade == "." else int(grade) for grade in row] for row in text.split()]
    return [[place for place, count in enumerate(row, start=1) for _ in range(int(count))] for row in text.split()]


QUADRATIC = 1 - (np.subtract.outer(np.arange(5), np.arange(5)) / 4) ** 2


@pytest.mark.parametrize(
    ("ratings", "weights", "published"),
    [
        # https://cran.r-project.org/web/packages/irrCAC/vignettes/overview.html
        (FOUR_RATERS, np.eye(5), "0.8181818 0.1903212 0.77544 0.14295 0.461 1"),
        (SIX_RATERS, np.eye(5), "0.5511111 0.1914815 0.4448007 0.08418757 0.264 0.625"),
        # https://cran.r-project.org/web/packages/irrCAC/vignettes/weighting.html
        (FOUR_RATERS, QUADRATIC, "0.9753788 0.7137044 0.914 0.10396 0.685 1"),
        # https://github.com/afergadis/irrCAC, test/unit/irrCAC/raw/test_gwet.py
        (FOUR_RATERS, ordinal_weights(5), "0.968 0.685 0.899 0.107 0.664 1"),
    ],
)
def test_agreement_is_that_of_published_examples_to_the_printed_digits(
    ratings: str, weights: Any, published: str
) -> None:
    found = gwet_agreement(ratings_of(ratings), categories=range(1, 6), weights=weights)
    values = (found.observed, found.by_chance, found.coefficient, found.standard_error, *found.interval)
    for value, printed in zip(values, published.split(), strict=True):
        assert round(value, len(printed.partition(".")[2])) == float(printed)


def ordinal(ratings: Ratings) -> Agreement:
    return gwet_agreement(ratings, categories=(1, 2, 3, 4), weights=ordinal_weights(4))


def test_perfect_agreement_is_1_and_what_cannot_be_compared_an_error() -> None:
    # An item with one rating moves what chance gives; the agreement of the others stays perfect.
    found = ordinal([[1, 1, 1], [2, 2, 2], [4, 4, 4], [4, 4, 4], [3, None, None]])
    assert (found.coefficient, found.num_items, found.num_shared_items) == (pytest.approx(1), 5, 4)
    found = ordinal([[4, 4, 4]] * 10)
    assert (found.coefficient, found.standard_error, found.interval, found.by_chance) == (1, 0, (1, 1), 0)
    too_few: list[Ratings] = [[], [[1, 1]], [[1, None], [None, 2], [3, 3]], [[1], [2]]]
    for ratings, count in zip(too_few, (0, 1, 1, 0), strict=True):
        with pytest.raises(InputError, match=f"but there are {count}"):
            ordinal(ratings)

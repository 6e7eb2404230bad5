"""Read the CSV of an audit and the CSV files of its raters, and compute mean ratings.

Invalid content raises an error with its file and line.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_catalog.base.errors import InputError
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import check_text_file, read_lines
from translation.audit.agreement import CONFIDENCE
from translation.audit.form import RATING_COLUMNS, plain_cell

# 1: the meaning is lost; 2: the idea is there, but something is wrong; 3: good, with flaws; 4: good.
GRADES = (1, 2, 3, 4)

# Quality columns of an audit that contain numbers. An audit of other texts may have only some or none of them.
NUMBER_COLUMNS = (
    "translation_score",
    "round_trip_chrf",
    "length_ratio",
    "copied_share",
    "repeated_ngrams",
    "language_margin",
    "image_text_score",
    "image_text_drop",
)

_AUDIT_COLUMNS = ("audit_id", "row_id", "source_text", "text", "source", "stratum", "weight")
_DELIMITERS = ",;\t"  # spreadsheets of many countries save CSV with semicolons
_GRADES = {str(grade): grade for grade in GRADES}
_ROUNDS, _SEED = 2_000, 1  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A pair of texts with its ratings.

    Args:
        row_id: id in the audit.
        source_text: the original text.
        text: the translation.
        source: source of the caption.
        weight: number of pairs of the dataset that it represents.
        quality: values of the `NUMBER_COLUMNS` that the audit has; None for an empty cell.
        grades: grades by rater, in the order of the raters; raters who did not rate the row are left out.
        comments: comments by rater.
    """

    row_id: str
    source_text: str
    text: str
    source: str
    weight: float
    quality: Mapping[str, float | None]
    grades: Mapping[str, int] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Return the mean grade, 1 to 4, of a rated row."""
        return sum(self.grades.values()) / len(self.grades)

    @property
    def spread(self) -> int:
        """Return the highest grade minus the lowest."""
        return max(self.grades.values()) - min(self.grades.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSheet:
    """The pairs of one audit, in the order of its file."""

    audit_id: str
    rows: Sequence[AuditRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingSheet:
    """The ratings of one rater.

    Args:
        rater: the name.
        grades: grades (`GRADES`) by row_id; rows that were not rated are left out.
        comments: comments by row_id; rows without one are left out.
    """

    rater: str
    grades: Mapping[str, int]
    comments: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRating:
    """A mean of rows' mean grades, and its 95 % confidence interval; None for fewer than two rows."""

    value: float
    interval: tuple[float, float] | None


class _Row(NamedTuple):
    """A record of a CSV file; `where` names file and line for errors."""

    where: str
    cells: Mapping[str, str]


def read_audit(path: Path) -> AuditSheet:
    """Read the CSV that `vernaclip audit draw` wrote.

    Raises:
        InputError: the file is missing, empty, not the CSV of an audit, or contains a row twice or an invalid number.
    """
    rows = _read_sheet(path, _AUDIT_COLUMNS, what="an audit's CSV")
    audit_id = _single_value(rows, "audit_id", path)
    rows_by_id = _rows_by_id(rows)
    return AuditSheet(audit_id=audit_id, rows=[_audit_row(row) for row in rows_by_id.values()])


def read_ratings(paths: Sequence[Path], audit: AuditSheet) -> list[RatingSheet]:
    """Read the CSV files that the form saved, one for each rater; a row that a file does not contain was not rated.

    Raises:
        InputError: a file is missing, not a CSV of ratings, of another audit, without a rating, or by the same rater as
            another; or a row is unknown, occurs twice, or has a rating other than 1, 2, 3, 4 or nothing.
    """
    known = {row.row_id for row in audit.rows}
    sheets: dict[str, tuple[Path, RatingSheet]] = {}
    for path in paths:
        sheet = _rating_sheet(path, audit.audit_id, known)
        name = sheet.rater.casefold()
        if name in sheets:
            raise InputError(
                f"{sheets[name][0]} and {path} are both by {sheet.rater!r}: give one file for each rater, or correct "
                "the name"
            )
        sheets[name] = (path, sheet)
    return [sheet for _, sheet in sheets.values()]


def _rating_sheet(path: Path, audit_id: str, known: set[str]) -> RatingSheet:
    rows = _read_sheet(path, RATING_COLUMNS, what="ratings as the form saves them")
    found = _single_value(rows, "audit_id", path)
    if found != audit_id:
        raise InputError(f"{path} rates audit {found}, but this is audit {audit_id}: give the files of one audit")
    rater = _single_value(rows, "rater", path)
    rows_by_id = _rows_by_id(rows)
    for row_id, row in rows_by_id.items():
        if row_id not in known:
            raise InputError(f"{row.where}: the audit has no row {row_id!r}: undo the change to its row_id")
    grades: dict[str, int] = {}
    for row_id, row in rows_by_id.items():
        rating = row.cells["rating"].strip()
        if rating and rating not in _GRADES:
            raise InputError(f"{row.where}: the rating {rating!r} is not 1, 2, 3 or 4: correct it or leave it empty")
        if rating:
            grades[row_id] = _GRADES[rating]
    if not grades:
        raise InputError(f"{path} contains no ratings: leave the file out, or have it filled in")
    comments = {row_id: comment for row_id, row in rows_by_id.items() if (comment := row.cells["comment"].strip())}
    return RatingSheet(rater=rater, grades=grades, comments=comments)


def _audit_row(row: _Row) -> AuditRow:
    cells = row.cells
    weight = _number(row, "weight")
    if weight is None or weight <= 0:
        raise InputError(f"{row.where}: the weight {cells['weight']!r} must be above 0: undo the change to that row")
    return AuditRow(
        row_id=cells["row_id"].strip(),
        source_text=cells["source_text"],
        text=cells["text"],
        source=cells["source"],
        weight=weight,
        quality={name: _number(row, name) for name in NUMBER_COLUMNS if name in cells},
    )


def _number(row: _Row, column: str) -> float | None:
    """Return the number in a cell, or None for an empty cell."""
    cell = row.cells[column].strip()
    if not cell:
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{row.where}: {column} is {cell!r}, which is not a number: undo the change to that row")
    return number


def _rows_by_id(rows: Sequence[_Row]) -> dict[str, _Row]:
    """Return the rows by their row_id, in order.

    Raises:
        InputError: a row_id is empty, or occurs twice.
    """
    rows_by_id: dict[str, _Row] = {}
    for row in rows:
        row_id = row.cells["row_id"].strip()
        if not row_id:
            raise InputError(f"{row.where}: the row_id is empty: undo the change to that row")
        if row_id in rows_by_id:
            raise InputError(f"{row.where}: row {row_id!r} occurs twice, first at {rows_by_id[row_id].where}: keep one")
        rows_by_id[row_id] = row
    return rows_by_id


def _single_value(rows: Sequence[_Row], column: str, path: Path) -> str:
    """Return the value that a column has in all rows.

    Raises:
        InputError: it is empty, or differs between rows.
    """
    values = list(dict.fromkeys(row.cells[column].strip() for row in rows))
    if len(values) > 1:
        raise InputError(f"{path} has more than one {column}: {', '.join(map(repr, values[:3]))}. Give one file each")
    if not values[0]:
        raise InputError(f"{path} has no {column}: fill in that column")
    return values[0]


def _read_sheet(path: Path, required: Sequence[str], *, what: str) -> list[_Row]:
    """Return all records of a CSV file, delimited by comma, semicolon or tab; rows of empty cells are left out.

    Raises:
        InputError: the file is missing, empty, not UTF-8, malformed, or has no column of a required name.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file: expected {what}")
    check_text_file(path, expected=what)
    lines = read_lines(path)
    header = next((line.text for line in lines if line.text), "")
    delimiter = max(_DELIMITERS, key=header.count)
    columns = [cell.strip() for cell in complete_cells(header, delimiter=delimiter)]
    missing = [name for name in required if name not in columns]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}: expected {what}, with {', '.join(required)}")
    repeated = [name for name in (*required, *NUMBER_COLUMNS) if columns.count(name) > 1]
    if repeated:
        raise InputError(f"{path} has the column {', '.join(repeated)} more than once: remove all but one")
    rows = []
    for record in read_records(lines, delimiter=delimiter, num_cells=len(columns), starts_row=lambda cells: False):
        if record.trouble:
            raise InputError(
                f"{path}, line {record.line}: {record.trouble.detail}. Save the sheet as CSV in UTF-8 again"
            )
        if any(cell.strip() for cell in record.cells):
            cells = dict(zip(columns, map(plain_cell, record.cells), strict=True))
            rows.append(_Row(f"{path}, line {record.line}", cells))
    if not rows:
        raise InputError(f"{path} has no rows: expected {what}")
    return rows


def rated_rows(audit: AuditSheet, sheets: Sequence[RatingSheet]) -> list[AuditRow]:
    """Return the rows with at least one rating, in the audit's order."""
    rows = [
        replace(
            row,
            grades={sheet.rater: sheet.grades[row.row_id] for sheet in sheets if row.row_id in sheet.grades},
            comments={sheet.rater: sheet.comments[row.row_id] for sheet in sheets if row.row_id in sheet.comments},
        )
        for row in audit.rows
    ]
    return [row for row in rows if row.grades]


def mean_rating(rows: Sequence[AuditRow], *, weighted: bool = False) -> MeanRating:
    """Return the mean over rows of each row's mean grade.

    The interval is a percentile bootstrap: rows are resampled with their weights, strata are not kept apart, and the
    raters are fixed. It is too short if few rows are bad, and has length 0 if all rows are equal.

    Args:
        rows: at least one.
        weighted: weight each row by the number of pairs that it represents, to estimate the mean of the whole dataset.
    """
    means = np.array([row.mean for row in rows])
    weights = np.array([row.weight if weighted else 1.0 for row in rows])
    value = float(np.average(means, weights=weights))
    if len(rows) < 2:
        return MeanRating(value=value, interval=None)
    generator = np.random.default_rng(_SEED)
    resampled = np.empty(_ROUNDS)
    for index in range(_ROUNDS):
        drawn = generator.integers(0, len(rows), len(rows))
        resampled[index] = np.average(means[drawn], weights=weights[drawn])
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return MeanRating(value=value, interval=(float(low), float(high)))


def worst_rows(rows: Sequence[AuditRow], num_rows: int) -> list[AuditRow]:
    """Return the rows with the lowest mean, the most disputed first among equals; perfect rows are left out."""
    flawed = [row for row in rows if row.mean < GRADES[-1]]
    return sorted(flawed, key=lambda row: (row.mean, -row.spread))[:num_rows]


def disputed_rows(rows: Sequence[AuditRow], num_rows: int) -> list[AuditRow]:
    """Return the rows whose grades differ by two or more, largest difference first, then lowest mean."""
    disputed = [row for row in rows if row.spread >= 2]
    return sorted(disputed, key=lambda row: (-row.spread, row.mean))[:num_rows]

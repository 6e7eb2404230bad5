"""What raters filled in, read beside the audit that they rated, and what that says of its rows.

Whatever does not fit is an error with its line.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_catalog.errors import InputError
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import check_text_file, read_lines
from translation.audit.agreement import CONFIDENCE
from translation.audit.form import RATING_COLUMNS, plain_cell

# 1: the meaning is lost; 2: the idea is there, but something is wrong; 3: good, with flaws; 4: good.
GRADES = (1, 2, 3, 4)

# The quality columns of an audit that hold numbers; an audit of other texts may lack some, or all.
NUMBER_COLUMNS = (
    "translation_score",
    "round_trip_chrf",
    "length_ratio",
    "copied_share",
    "repeated_ngrams",
    "language_margin",
)

_AUDIT_COLUMNS = ("audit_id", "row_id", "source_text", "text", "source", "stratum", "weight")
_DELIMITERS = ",;\t"  # spreadsheets of many countries save CSV with semicolons
_GRADES = {str(grade): grade for grade in GRADES}
_ROUNDS, _SEED = 2_000, 1  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One pair of texts that was rated.

    Args:
        row_id: its identity within the audit.
        source_text: what was translated.
        text: the translation.
        source: dataset that the caption is from.
        weight: how many pairs of the dataset it stands for.
        quality: its `NUMBER_COLUMNS`, of those that the audit has; None where nothing was measured.
        grades: by rater, in the order of the raters; those who did not rate it are left out.
        comments: by rater.
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
        """Mean grade, 1 to 4, of a row that was rated."""
        return sum(self.grades.values()) / len(self.grades)

    @property
    def spread(self) -> int:
        """Highest less lowest grade."""
        return max(self.grades.values()) - min(self.grades.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSheet:
    """The pairs of one audit, in the order of its file."""

    audit_id: str
    rows: Sequence[AuditRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingSheet:
    """What one rater said.

    Args:
        rater: the name.
        grades: one of `GRADES` by row_id; rows that were not rated are left out.
        comments: by row_id; rows without one are left out.
    """

    rater: str
    grades: Mapping[str, int]
    comments: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRating:
    """A mean of rows' mean grades, and its 95 % interval; None for fewer than two rows."""

    value: float
    interval: tuple[float, float] | None


class _Row(NamedTuple):
    """One record of a CSV file; `where` names file and line for errors."""

    where: str
    cells: Mapping[str, str]


def read_audit(path: Path) -> AuditSheet:
    """Read what `vernaclip audit draw` wrote.

    Raises:
        InputError: the file is missing, no CSV of an audit, empty, or holds a row twice or a number that is none.
    """
    rows = _read_sheet(path, _AUDIT_COLUMNS, what="an audit's CSV")
    audit_id = _only_one(rows, "audit_id", path)
    places = _places(rows)
    return AuditSheet(audit_id=audit_id, rows=[_audit_row(row) for row in places.values()])


def read_ratings(paths: Sequence[Path], audit: AuditSheet) -> list[RatingSheet]:
    """Read what the rating form saved, one file a rater; a row that a file lacks was not rated.

    Raises:
        InputError: a file is missing, no CSV of ratings, of another audit, without a rating, or by the same rater as
            another; or a row is unknown, stands twice, or has a rating other than 1, 2, 3, 4 or nothing.
    """
    known = {row.row_id for row in audit.rows}
    sheets: dict[str, tuple[Path, RatingSheet]] = {}
    for path in paths:
        sheet = _rating_sheet(path, audit.audit_id, known)
        name = sheet.rater.casefold()
        if name in sheets:
            raise InputError(
                f"{sheets[name][0]} and {path} are both by {sheet.rater!r}: give one file a rater, or correct the name"
            )
        sheets[name] = (path, sheet)
    return [sheet for _, sheet in sheets.values()]


def _rating_sheet(path: Path, audit_id: str, known: set[str]) -> RatingSheet:
    rows = _read_sheet(path, RATING_COLUMNS, what="ratings as the form saves them")
    found = _only_one(rows, "audit_id", path)
    if found != audit_id:
        raise InputError(f"{path} rates audit {found}, and this is audit {audit_id}: give the files of one audit")
    rater = _only_one(rows, "rater", path)
    places = _places(rows)
    for row_id, row in places.items():
        if row_id not in known:
            raise InputError(f"{row.where}: the audit has no row {row_id!r}: undo the change to its row_id")
    grades: dict[str, int] = {}
    for row_id, row in places.items():
        rating = row.cells["rating"].strip()
        if rating and rating not in _GRADES:
            raise InputError(
                f"{row.where}: the rating {rating!r} is none of 1, 2, 3 and 4: correct it or leave it empty"
            )
        if rating:
            grades[row_id] = _GRADES[rating]
    if not grades:
        raise InputError(f"{path} has no rating yet: leave it out, or have it filled in")
    comments = {row_id: comment for row_id, row in places.items() if (comment := row.cells["comment"].strip())}
    return RatingSheet(rater=rater, grades=grades, comments=comments)


def _audit_row(row: _Row) -> AuditRow:
    cells = row.cells
    weight = _number(row, "weight")
    if weight is None or weight <= 0:
        raise InputError(f"{row.where}: the weight {cells['weight']!r} is not above 0: undo the change to that row")
    return AuditRow(
        row_id=cells["row_id"].strip(),
        source_text=cells["source_text"],
        text=cells["text"],
        source=cells["source"],
        weight=weight,
        quality={name: _number(row, name) for name in NUMBER_COLUMNS if name in cells},
    )


def _number(row: _Row, column: str) -> float | None:
    """The number in a cell, None where it is empty."""
    cell = row.cells[column].strip()
    if not cell:
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{row.where}: {column} is {cell!r}, which is no number: undo the change to that row")
    return number


def _places(rows: Sequence[_Row]) -> dict[str, _Row]:
    """Rows by their row_id, in order.

    Raises:
        InputError: one has none, or two have the same.
    """
    places: dict[str, _Row] = {}
    for row in rows:
        row_id = row.cells["row_id"].strip()
        if not row_id:
            raise InputError(f"{row.where}: the row_id is empty: undo the change to that row")
        if row_id in places:
            raise InputError(f"{row.where}: row {row_id!r} stands there already, at {places[row_id].where}: keep one")
        places[row_id] = row
    return places


def _only_one(rows: Sequence[_Row], column: str, path: Path) -> str:
    """The value that a column has in all rows.

    Raises:
        InputError: it is empty, or not the same everywhere.
    """
    values = list(dict.fromkeys(row.cells[column].strip() for row in rows))
    if len(values) > 1:
        raise InputError(f"{path} has more than one {column}: {', '.join(map(repr, values[:3]))}; give one file each")
    if not values[0]:
        raise InputError(f"{path} has no {column}: write one into that column")
    return values[0]


def _read_sheet(path: Path, required: Sequence[str], *, what: str) -> list[_Row]:
    """All records of a CSV file, delimited by comma, semicolon or tab; rows of empty cells are none.

    Raises:
        InputError: the file is missing, empty, no UTF-8, broken, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file: expected {what}")
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
                f"{path}, line {record.line}: {record.trouble.detail}: save the sheet as CSV in UTF-8 again"
            )
        if any(cell.strip() for cell in record.cells):
            cells = dict(zip(columns, map(plain_cell, record.cells), strict=True))
            rows.append(_Row(f"{path}, line {record.line}", cells))
    if not rows:
        raise InputError(f"{path} has columns and no rows: expected {what}")
    return rows


def rated_rows(audit: AuditSheet, sheets: Sequence[RatingSheet]) -> list[AuditRow]:
    """Rows with at least one rating, in the audit's order."""
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
    """Mean over rows, each by the mean of its grades, whoever rated it.

    The interval is a bootstrap's percentiles: rows are drawn anew with what they weigh, strata are not kept apart, and
    raters are taken as they are. It is too short where few rows are bad, and without length where all rows are equal.

    Args:
        rows: at least one.
        weighted: let each row count for the pairs that it stands for: an estimate for the whole dataset.
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
    """The rows with the lowest mean, the most disputed first among equals; none that all found good."""
    flawed = [row for row in rows if row.mean < GRADES[-1]]
    return sorted(flawed, key=lambda row: (row.mean, -row.spread))[:num_rows]


def disputed_rows(rows: Sequence[AuditRow], num_rows: int) -> list[AuditRow]:
    """The rows whose grades lie furthest apart, by two grades or more, the lowest mean first among equals."""
    disputed = [row for row in rows if row.spread >= 2]
    return sorted(disputed, key=lambda row: (-row.spread, row.mean))[:num_rows]

"""Read the CSV of an audit and the CSV files of its raters, and compute mean ratings.

Invalid content raises an error with its file and line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.report.forms import sheet_rows, single_value
from translation.audit.agreement import CONFIDENCE
from translation.audit.form import GRADES, RATING_COLUMNS

_AUDIT_COLUMNS = ("audit_id", "row_id", "source_text", "text", "source", "weight")
_EXPECTED = "the audit.csv of `vernaclip audit draw`, and what its form saves"
_ROUNDS, _SEED = 2_000, 1  # of the bootstrap

Mean = tuple[float, tuple[float, float] | None]
"""A mean of rows' mean grades, and its 95 % confidence interval; None for fewer than two rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A pair of texts of an audit, with the grades (`GRADES`) and comments of its raters by name."""

    audit_id: str
    row_id: str
    source_text: str
    text: str
    source: str
    weight: float  # number of pairs of the dataset that it represents
    grades: dict[str, int] = field(default_factory=dict)  # in the order of the raters who rated it
    comments: dict[str, str] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Return the mean grade, 1 to 4, of a rated row."""
        return sum(self.grades.values()) / len(self.grades)

    @property
    def spread(self) -> int:
        """Return the highest grade minus the lowest."""
        return max(self.grades.values()) - min(self.grades.values())


def read_audit(path: Path) -> list[AuditRow]:
    """Return the rows of the CSV that `vernaclip audit draw` wrote, without ratings."""
    rows: dict[str, AuditRow] = {}
    sheet = list(sheet_rows(path, _AUDIT_COLUMNS, expected=_EXPECTED))
    audit_id = single_value(path, sheet, "audit_id")
    for where, cells in sheet:
        with about(where, remedy="undo the change to that row"):
            row = AuditRow(
                audit_id=audit_id,
                row_id=cells["row_id"].strip(),
                source_text=cells["source_text"],
                text=cells["text"],
                source=cells["source"],
                weight=float(cells["weight"]),
            )
            if not 0 < row.weight < math.inf or row.row_id in rows or not row.row_id:
                raise ValueError(
                    f"the weight {row.weight} is not positive, or the row_id {row.row_id!r} is empty or occurs twice"
                )
        rows[row.row_id] = row
    return list(rows.values())


def read_ratings(paths: Sequence[Path], rows: Sequence[AuditRow]) -> list[str]:
    """Add the ratings of the CSV files that the form saved to an audit's rows; return the raters, one for each file.

    A row that a file does not contain, or contains without a rating, was not rated.
    """
    rows_by_id = {row.row_id: row for row in rows}
    raters: dict[str, str] = {}
    for path in paths:
        sheet = list(sheet_rows(path, RATING_COLUMNS, expected=_EXPECTED))
        audit_id, rater = (single_value(path, sheet, name) for name in ("audit_id", "rater"))
        if audit_id != rows[0].audit_id:
            raise InputError(f"{path} rates audit {audit_id}, not {rows[0].audit_id}: give the files of one audit")
        if rater.casefold() in raters:
            raise InputError(f"{path} is another file by {rater!r}: give one file for each rater, or correct the name")
        raters[rater.casefold()] = rater
        seen: set[str] = set()
        for where, cells in sheet:
            row_id, rating, comment = (cells[name].strip() for name in ("row_id", "rating", "comment"))
            if row_id not in rows_by_id or row_id in seen:
                what = "occurs twice" if row_id in seen else "is not in the audit"
                raise InputError(f"{where}: row {row_id!r} {what}: undo the change")
            if rating not in ("", *map(str, GRADES)):
                raise InputError(f"{where}: the rating {rating!r} is not 1, 2, 3 or 4: correct it or leave it empty")
            seen.add(row_id)
            if rating:
                rows_by_id[row_id].grades[rater] = int(rating)
            if comment:
                rows_by_id[row_id].comments[rater] = comment
        if not any(rater in row.grades for row in rows):
            raise InputError(f"{path} contains no ratings: leave the file out, or have it filled in")
    return list(raters.values())


def mean_rating(rows: Sequence[AuditRow], *, weighted: bool = False) -> Mean:
    """Return the mean over rows of each row's mean grade; weighted, it estimates the mean of the whole dataset.

    The interval is a percentile bootstrap: rows are resampled with their weights, strata are not kept apart, and the
    raters are fixed. It is too short if few rows are bad, and has length 0 if all rows are equal.
    """
    means = np.array([row.mean for row in rows])
    weights = np.array([row.weight if weighted else 1.0 for row in rows])
    value = float(np.average(means, weights=weights))
    if len(rows) < 2:
        return value, None
    generator = np.random.default_rng(_SEED)
    drawn = (generator.integers(0, len(rows), len(rows)) for _ in range(_ROUNDS))
    resampled = [np.average(means[places], weights=weights[places]) for places in drawn]
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return value, (float(low), float(high))


def worst_rows(rows: Sequence[AuditRow], num_rows: int) -> list[AuditRow]:
    """Return the rows with the lowest mean, the most disputed first among equals; perfect rows are left out."""
    flawed = [row for row in rows if row.mean < GRADES[-1]]
    return sorted(flawed, key=lambda row: (row.mean, -row.spread))[:num_rows]


def disputed_rows(rows: Sequence[AuditRow], num_rows: int) -> list[AuditRow]:
    """Return the rows whose grades differ by two or more, largest difference first, then lowest mean."""
    disputed = [row for row in rows if row.spread >= 2]
    return sorted(disputed, key=lambda row: (-row.spread, row.mean))[:num_rows]

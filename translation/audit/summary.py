"""What the ratings of an audit say: means with intervals, grades, raters, sources, and the rows that fared worst."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from translation.audit.agreement import CONFIDENCE
from translation.audit.ratings import GRADES, AuditRow, AuditSheet, RatingSheet

_ROUNDS, _SEED = 2_000, 1  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedRow:
    """One pair and what raters said of it.

    Args:
        row: the pair.
        grades: by rater, in the order of the raters; those who did not rate it are left out, and there is at least one.
        comments: by rater.
    """

    row: AuditRow
    grades: Mapping[str, int]
    comments: Mapping[str, str]

    @property
    def mean(self) -> float:
        """Mean grade, 1 to 4."""
        return sum(self.grades.values()) / len(self.grades)

    @property
    def spread(self) -> int:
        """Highest less lowest grade."""
        return max(self.grades.values()) - min(self.grades.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRating:
    """A mean of rows' mean grades, and its 95 % interval; None for fewer than two rows."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeCount:
    """How often grades were given, by one rater or by all, and of how many rows."""

    num_rows: int
    counts: Mapping[int, int]

    @property
    def num_ratings(self) -> int:
        """Ratings given."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """Mean of the ratings."""
        return sum(grade * count for grade, count in self.counts.items()) / self.num_ratings

    def share(self, grade: int) -> float:
        """Share of the ratings that are this grade."""
        return self.counts[grade] / self.num_ratings


def rated_rows(audit: AuditSheet, sheets: Sequence[RatingSheet]) -> list[RatedRow]:
    """Rows with at least one rating, in the audit's order."""
    rows = [
        RatedRow(
            row=row,
            grades={sheet.rater: sheet.grades[row.row_id] for sheet in sheets if row.row_id in sheet.grades},
            comments={sheet.rater: sheet.comments[row.row_id] for sheet in sheets if row.row_id in sheet.comments},
        )
        for row in audit.rows
    ]
    return [row for row in rows if row.grades]


def rating_table(rows: Sequence[RatedRow], sheets: Sequence[RatingSheet]) -> list[list[int | None]]:
    """Grades, one row a pair and one cell a rater; None where a rating is missing."""
    return [[row.grades.get(sheet.rater) for sheet in sheets] for row in rows]


def mean_rating(rows: Sequence[RatedRow], *, weighted: bool = False) -> MeanRating:
    """Mean over rows, each by the mean of its grades, whoever rated it.

    The interval is a bootstrap's percentiles: rows are drawn anew with what they weigh, strata are not kept apart, and
    raters are taken as they are. It is too short where few rows are bad, and without length where all rows are equal.

    Args:
        rows: at least one.
        weighted: let each row count for the pairs that it stands for: an estimate for the whole dataset.
    """
    import numpy as np

    means = np.array([row.mean for row in rows])
    weights = np.array([row.row.weight if weighted else 1.0 for row in rows])
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


def grade_counts(audit: AuditSheet, sheets: Sequence[RatingSheet]) -> dict[str, GradeCount]:
    """What each rater gave."""
    return {
        sheet.rater: GradeCount(num_rows=len(audit.rows), counts=_counted(sheet.grades.values())) for sheet in sheets
    }


def all_grades(by_rater: Mapping[str, GradeCount]) -> GradeCount:
    """What all raters together gave."""
    return GradeCount(
        num_rows=sum(found.num_rows for found in by_rater.values()),
        counts={grade: sum(found.counts[grade] for found in by_rater.values()) for grade in GRADES},
    )


def rows_by_source(rows: Sequence[RatedRow]) -> dict[str, list[RatedRow]]:
    """Rows of each source, sources by name."""
    sources = sorted({row.row.source for row in rows})
    return {source: [row for row in rows if row.row.source == source] for source in sources}


def worst_rows(rows: Sequence[RatedRow], num_rows: int) -> list[RatedRow]:
    """The rows with the lowest mean, the most disputed first among equals; none that all found good."""
    flawed = [row for row in rows if row.mean < GRADES[-1]]
    return sorted(flawed, key=lambda row: (row.mean, -row.spread))[:num_rows]


def disputed_rows(rows: Sequence[RatedRow], num_rows: int) -> list[RatedRow]:
    """The rows whose grades lie furthest apart, by two grades or more, the lowest mean first among equals."""
    disputed = [row for row in rows if row.spread >= 2]
    return sorted(disputed, key=lambda row: (-row.spread, row.mean))[:num_rows]


def _counted(grades: Iterable[int]) -> dict[int, int]:
    counts = Counter(grades)
    return {grade: counts[grade] for grade in GRADES}

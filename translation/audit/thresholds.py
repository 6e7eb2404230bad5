"""Find the quality columns that separate badly rated translations from others, and propose thresholds for checks.

A threshold is proposed only if the ratings support it. Its error rates come from leave-one-out: each row is judged by
the threshold that is fitted on all other rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import binomtest, mannwhitneyu

from translation.audit.agreement import CONFIDENCE
from translation.audit.ratings import AuditRow

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# With fewer bad rows any threshold fits, and leave-one-out means nothing.
MIN_BAD_ROWS = 10
NUM_BANDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """A quality column with the direction of bad values, and the recipe settings that use it.

    Args:
        column: name in `translation.audit.ratings.NUMBER_COLUMNS`.
        bad_is_low: low values are bad, otherwise high ones.
        settings: keys of the recipe's section that take the threshold; empty if no check uses the column.
        section: the section.
        also: further keys without which the check would not drop all rows beyond the threshold.
        bound: limit of the settings: the maximum if low values are bad, else the minimum.
    """

    column: str
    bad_is_low: bool
    settings: tuple[str, ...] = ()
    section: str = "check"
    also: tuple[tuple[str, int], ...] = ()
    bound: float | None = None


CRITERIA = (
    Criterion(column="translation_score", bad_is_low=True, settings=("min_translation_score",), bound=0),
    Criterion(column="round_trip_chrf", bad_is_low=True, settings=("min_round_trip_chrf",), bound=100),
    Criterion(
        column="length_ratio",
        bad_is_low=True,
        settings=("min_length_ratio",),
        also=(("shorter_slack_letters", 0),),
        bound=1,
    ),
    Criterion(
        column="length_ratio",
        bad_is_low=False,
        settings=("max_length_ratio",),
        also=(("longer_slack_letters", 0),),
        bound=1,
    ),
    # The language pack decides which of the two settings a run uses.
    Criterion(
        column="copied_share", bad_is_low=False, settings=("max_copied_share", "max_copied_share_unlisted"), bound=0
    ),
    Criterion(column="repeated_ngrams", bad_is_low=False, settings=("max_repetitions",), bound=1),
    Criterion(column="language_margin", bad_is_low=True),
    Criterion(column="image_text_score", bad_is_low=True, settings=("min_score",), section="image_text"),
    Criterion(column="image_text_drop", bad_is_low=False, settings=("max_drop",), section="image_text"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of rows, with Wilson's 95 % confidence interval."""

    count: int
    num_rows: int
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A threshold with its error rates on rows that it was not fitted on.

    Args:
        threshold: rows beyond it would be dropped: below it if low values are bad, else above it.
        bad_kept: share of the bad rows that would be kept.
        good_dropped: share of the good rows that would be dropped.
    """

    threshold: float
    bad_kept: Rate
    good_dropped: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result for a criterion: how well it separates bad rows from good ones.

    Args:
        criterion: the column and its direction.
        num_rows: rated rows with a value.
        num_bad: number of bad rows among them.
        auc: area under the ROC curve: the probability that, of a bad and a good row, the bad one has the worse value;
            ties count half. None without bad rows or without good ones.
        auc_interval: its 95 % confidence interval.
        proposal: None if the ratings support no threshold.
        reason: why there is no proposal, else "".
    """

    criterion: Criterion
    num_rows: int
    num_bad: int
    auc: float | None
    auc_interval: tuple[float, float] | None
    proposal: Proposal | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Rows whose value in a column is in a range, both ends included, and their mean rating."""

    lowest: float
    highest: float
    num_rows: int
    mean: float


def judge_columns(rows: Sequence[AuditRow], *, bad_below: float, max_good_dropped: float) -> list[Verdict]:
    """Judge every criterion whose column is in the audit; all rows have the same weight.

    Args:
        rows: rated rows.
        bad_below: a row is bad if its mean rating is lower, 1 to 4.
        max_good_dropped: largest share of good rows, 0 to 1, that a threshold may drop of the rows that it is fitted
            on. Among the thresholds within it, the one that drops the most bad rows is proposed.
    """
    return [
        _verdict(criterion, rows, bad_below, max_good_dropped)
        for criterion in CRITERIA
        if any(row.quality.get(criterion.column) is not None for row in rows)
    ]


def recipe_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the sections of a recipe with all proposed thresholds that a check uses; [] if there are none."""
    sections: dict[str, dict[str, float]] = {}
    for verdict in verdicts:
        if verdict.proposal and verdict.criterion.settings:
            settings = sections.setdefault(verdict.criterion.section, {})
            settings |= dict.fromkeys(verdict.criterion.settings, verdict.proposal.threshold)
            settings |= verdict.criterion.also
    return [
        line
        for section, settings in sections.items()
        for line in (f"[{section}]", *(f"{name} = {value:.12g}" for name, value in settings.items()))
    ]


def rating_bands(rows: Sequence[AuditRow], column: str) -> list[Band]:
    """Return mean ratings by quarters of a column's values; equal values share a band, so some may be missing."""
    measured = [(value, row.mean) for row in rows if (value := row.quality.get(column)) is not None]
    if not measured:
        return []
    values, means = (np.array(side) for side in zip(*measured, strict=True))
    edges = np.unique(np.quantile(values, np.arange(1, NUM_BANDS) / NUM_BANDS, method="higher"))
    places = np.searchsorted(edges, values, side="left")
    return [
        Band(
            lowest=float(values[places == place].min()),
            highest=float(values[places == place].max()),
            num_rows=int((places == place).sum()),
            mean=float(means[places == place].mean()),
        )
        for place in np.unique(places)
    ]


def _verdict(criterion: Criterion, rows: Sequence[AuditRow], bad_below: float, max_good_dropped: float) -> Verdict:
    measured = [(row, value) for row in rows if (value := row.quality.get(criterion.column)) is not None]
    values = np.array([value for _, value in measured]) * (1 if criterion.bad_is_low else -1)
    bad = np.array([row.mean < bad_below for row, _ in measured])
    num_bad, num_good = int(bad.sum()), int((~bad).sum())
    auc = auc_interval = proposal = None
    if num_bad and num_good:
        auc = float(mannwhitneyu(values[~bad], values[bad], method="asymptotic").statistic) / (num_bad * num_good)
        # Newcombe's score interval (Statistics in Medicine 25, 2006, 559-573, method 5), valid up to the ends 0 and 1.
        auc_interval = _lowest_area(auc, num_bad, num_good), 1 - _lowest_area(1 - auc, num_bad, num_good)
    if num_bad < MIN_BAD_ROWS:
        reason = f"only {num_bad} bad rows, {MIN_BAD_ROWS} are needed"
    elif num_good < MIN_BAD_ROWS:
        reason = f"only {num_good} good rows, {MIN_BAD_ROWS} are needed"
    elif auc_interval is None or auc_interval[0] <= 0.5:
        reason = "may be no better than chance"
    else:
        proposal = _proposal(values, bad, criterion, max_good_dropped)
        reason = "" if proposal else "no threshold drops a bad row within --max-good-dropped"
    return Verdict(
        criterion=criterion,
        num_rows=len(measured),
        num_bad=num_bad,
        auc=auc,
        auc_interval=auc_interval,
        proposal=proposal,
        reason=reason,
    )


def _lowest_area(auc: float, num_bad: int, num_good: int) -> float:
    """Return the lower end of the 95 % confidence interval of `auc`, with Hanley and McNeil's variance at that end."""
    if auc == 0:
        return 0.0
    quantile = ndtri((1 + CONFIDENCE) / 2)

    def excess(area: float) -> float:
        others = (num_bad + num_good) / 2 - 1
        spread = 1 + others * ((1 - area) / (2 - area) + area / (1 + area))
        variance = area * (1 - area) * spread / (num_bad * num_good)
        return float((area - auc) ** 2 - quantile**2 * variance)

    # Positive at 0, negative at `auc`. An `auc` of 1 is itself a root, but not the one that is needed.
    return float(brentq(excess, 0.0, min(auc, 1 - 1e-9)))


def _proposal(values: Floats, bad: Flags, criterion: Criterion, max_good_dropped: float) -> Proposal | None:
    """Return the threshold fitted on all rows, with leave-one-out error rates; low values are bad."""
    threshold = _fit(values, bad, criterion, max_good_dropped)
    if threshold is None:
        return None
    dropped = np.zeros(len(values), dtype=bool)
    for place in range(len(values)):
        others = np.arange(len(values)) != place
        found = _fit(values[others], bad[others], criterion, max_good_dropped)
        dropped[place] = found is not None and values[place] < found
    return Proposal(
        threshold=(threshold if criterion.bad_is_low else -threshold) + 0.0,  # not -0.0
        bad_kept=_rate(~dropped[bad]),
        good_dropped=_rate(dropped[~bad]),
    )


def _fit(values: Floats, bad: Flags, criterion: Criterion, max_good_dropped: float) -> float | None:
    """Return the threshold that drops the most bad rows within the limit for good rows, or None; low values are bad."""
    levels = np.unique(values)
    bound = np.inf if criterion.bound is None else criterion.bound if criterion.bad_is_low else -criterion.bound
    kept, dropped = levels[1:], levels[:-1]  # neighbours: a threshold lies between them
    kept, dropped = kept[dropped < bound], dropped[dropped < bound]
    num_bad = np.searchsorted(np.sort(values[bad]), kept)
    num_good = np.searchsorted(np.sort(values[~bad]), kept)
    gain = np.where(num_good <= max_good_dropped * (~bad).sum() + 1e-9, num_bad, 0)
    if not gain.any():
        return None
    best = int(gain.argmax())  # the lowest among equals, which drops the fewest good rows
    low, high = float(dropped[best]), float(kept[best])
    # The fewest digits of the upper value that are still above the lower one.
    shorter = (float(f"{high:.{digits}g}") for digits in range(1, 17))
    return min(next((found for found in shorter if low < found <= high), high), float(bound))


def _rate(happened: Flags) -> Rate:
    count, num_rows = int(happened.sum()), len(happened)
    found = binomtest(count, num_rows).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Rate(count=count, num_rows=num_rows, interval=(float(found.low), float(found.high)))

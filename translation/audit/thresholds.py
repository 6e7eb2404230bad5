"""Find the quality columns that separate badly rated translations from others, and propose thresholds for checks.

A threshold is proposed only if the ratings support it. Its error rates come from leave-one-out: each row is judged by
the threshold that is fitted on all other rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

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


class Criterion(NamedTuple):
    """A quality column (see `NUMBER_COLUMNS`) with the direction of bad values, and the settings that use it."""

    column: str
    bad_is_low: bool
    settings: tuple[str, ...] = ()  # keys of the recipe's section that take the threshold; () if no check uses it
    section: str = "check"
    also: str = ""  # a setting that must be 0, or the check would not drop all rows beyond the threshold
    bound: float | None = None  # limit of the settings: the maximum if low values are bad, else the minimum


CRITERIA = (
    Criterion("translation_score", True, ("min_translation_score",), bound=0),
    Criterion("round_trip_chrf", True, ("min_round_trip_chrf",), bound=100),
    Criterion("length_ratio", True, ("min_length_ratio",), also="shorter_slack_letters", bound=1),
    Criterion("length_ratio", False, ("max_length_ratio",), also="longer_slack_letters", bound=1),
    # The language pack decides which of the two settings a run uses.
    Criterion("copied_share", False, ("max_copied_share", "max_copied_share_unlisted"), bound=0),
    Criterion("repeated_ngrams", False, ("max_repetitions",), bound=1),
    Criterion("language_margin", True),
    Criterion("image_text_score", True, ("min_score",), section="image_text"),
    Criterion("image_text_drop", False, ("max_drop",), section="image_text"),
)


class Rate(NamedTuple):
    """A share of rows, with Wilson's 95 % confidence interval."""

    part: int
    whole: int
    interval: tuple[float, float]


class Proposal(NamedTuple):
    """A threshold with its error rates on rows that it was not fitted on."""

    threshold: float  # rows beyond it would be dropped: below it if low values are bad, else above it
    bad_kept: Rate
    good_dropped: Rate


class Verdict(NamedTuple):
    """Separation of bad rows from good ones by a criterion, with a threshold if the ratings support one.

    The AUC is the area under the ROC curve: the probability that, of a bad and a good row, the bad one has the worse
    value; ties count half. It is None without bad rows or without good ones. Its interval is at 95 % confidence.
    """

    criterion: Criterion
    num_rows: int  # rated rows with a value
    num_bad: int
    auc: float | None
    auc_interval: tuple[float, float] | None
    proposal: Proposal | None
    reason: str  # why there is no proposal, else ""


def judge_columns(rows: Sequence[AuditRow], *, bad_below: float, max_good_dropped: float) -> list[Verdict]:
    """Judge every criterion whose column is in the audit; all rated rows have the same weight.

    A row is bad if its mean rating is below `bad_below`. A threshold may drop at most a share `max_good_dropped` of the
    good rows that it is fitted on. Among those within it, the one that drops the most bad rows is proposed.
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
            settings |= {verdict.criterion.also: 0} if verdict.criterion.also else {}
    return [
        line
        for section, settings in sections.items()
        for line in (f"[{section}]", *(f"{name} = {value:.12g}" for name, value in settings.items()))
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
    return Verdict(criterion, len(measured), num_bad, auc, auc_interval, proposal, reason)


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
    shown = (threshold if criterion.bad_is_low else -threshold) + 0.0  # not -0.0
    return Proposal(shown, _rate(~dropped[bad]), _rate(dropped[~bad]))


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
    part, whole = int(happened.sum()), len(happened)
    found = binomtest(part, whole).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Rate(part, whole, (float(found.low), float(found.high)))

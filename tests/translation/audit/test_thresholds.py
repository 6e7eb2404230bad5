"""Thresholds: what tells bad rows from good ones, what is proposed, and that the error rates are honest."""

import tomllib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.checks import CheckConfig
from data_catalog.language_pack import LanguagePack
from flows.recipe.settings import read
from translation.audit.ratings import NUMBER_COLUMNS, AuditRow
from translation.audit.thresholds import Verdict, judge_columns, rating_bands, recipe_lines


def rated(grade: int, **quality: float | None) -> AuditRow:
    return AuditRow(row_id="", source_text="", text="", source="", weight=1.0, quality=quality, grades={"Ann": grade})


def verdicts(rows: Sequence[AuditRow], max_good_dropped: float = 0.05) -> list[Verdict]:
    return judge_columns(rows, bad_below=3, max_good_dropped=max_good_dropped)


def scored(bad: Sequence[float], good: Sequence[float], column: str = "translation_score") -> list[AuditRow]:
    return [rated(1, **{column: value}) for value in bad] + [rated(4, **{column: value}) for value in good]


def test_a_column_that_tells_all_gets_a_threshold_between() -> None:
    (found,) = verdicts(scored([-2 - place / 100 for place in range(20)], [-1 + place / 100 for place in range(80)]))
    assert (found.num_rows, found.num_bad, found.auc, found.reason) == (100, 20, 1.0, "")
    assert found.auc_interval is not None
    assert 0.8 < found.auc_interval[0] < found.auc_interval[1] == 1
    assert found.proposal is not None
    assert found.proposal.threshold == -1
    assert (found.proposal.bad_kept.count, found.proposal.bad_kept.num_rows) == (0, 20)
    assert (found.proposal.good_dropped.count, found.proposal.good_dropped.num_rows) == (0, 80)
    # Wilson's interval of 0 in 20 ends at z^2 / (20 + z^2).
    assert found.proposal.bad_kept.interval == pytest.approx((0, 3.8415 / 23.8415), abs=1e-4)


CHANCE = np.random.default_rng(3).normal(size=100).tolist()


@pytest.mark.parametrize(
    ("bad", "good", "max_good_dropped", "auc", "reason"),
    [
        ([-5.0] * 9, [-1.0] * 91, 0.05, 1, "only 9 bad rows, 10 are needed"),
        ([-5.0] * 91, [-1.0] * 9, 0.05, 1, "only 9 good rows, 10 are needed"),
        ([-5.0] * 10, [-1.0] * 10, 0.05, 1, ""),
        (CHANCE[:30], CHANCE[30:], 0.05, None, "may be no better than chance"),
        ([-1.0] * 20, [-1.0] * 20, 0.05, 0.5, "may be no better than chance"),
        ([-1.5, -0.5] * 20, [-2.0] + [-0.5] * 79, 0.0, None, "no threshold drops a bad row within --max-good-dropped"),
    ],
)
def test_few_rows_and_chance_get_no_threshold(
    bad: list[float], good: list[float], max_good_dropped: float, auc: float | None, reason: str
) -> None:
    (found,) = verdicts(scored(bad, good), max_good_dropped)
    assert (found.reason, found.proposal is None) == (reason, bool(reason))
    assert auc is None or found.auc == auc


def test_rows_without_a_value_are_left_out() -> None:
    (found,) = verdicts([*scored([-3.0] * 12, [-1.0] * 20), *(rated(1, translation_score=None) for _ in range(5))])
    assert (found.num_rows, found.num_bad) == (32, 12)
    (found,) = verdicts(scored([], [-1.0] * 20))
    assert (found.auc, found.auc_interval, found.reason) == (None, None, "only 0 bad rows, 10 are needed")
    assert verdicts([]) == verdicts([rated(1, translation_score=None)]) == []


def test_error_rates_are_those_of_unseen_rows() -> None:
    # Overlapping scores: the rates told must be those of fresh rows, within twice the error that 400 rows leave.
    generator = np.random.default_rng(11)

    def draw(num_rows: int) -> tuple[list[float], list[float]]:
        return generator.normal(-1.5, 0.5, num_rows).tolist(), generator.normal(-0.5, 0.5, num_rows).tolist()

    (found,) = verdicts(scored(*draw(200)))
    assert found.proposal is not None
    fresh_bad, fresh_good = (np.array(side) for side in draw(20_000))
    bad_kept, good_dropped = found.proposal.bad_kept, found.proposal.good_dropped
    threshold = found.proposal.threshold
    assert bad_kept.count / bad_kept.num_rows == pytest.approx((fresh_bad >= threshold).mean(), abs=0.07)
    assert good_dropped.count / good_dropped.num_rows == pytest.approx((fresh_good < threshold).mean(), abs=0.03)
    assert bad_kept.interval[0] < (fresh_bad >= threshold).mean() < bad_kept.interval[1]


def test_the_area_and_its_interval_against_a_bootstrap() -> None:
    generator = np.random.default_rng(5)
    bad, good = generator.normal(-1, 1, 80), generator.normal(0, 1, 120)
    (found,) = verdicts(scored(bad.tolist(), good.tolist()))
    assert found.auc == pytest.approx((bad[:, None] < good).mean())
    resampled = [(generator.choice(bad, 80)[:, None] < generator.choice(good, 120)).mean() for _ in range(2000)]
    # Both intervals are some 0.13 wide; ends of 2.5 % tails differ by a tenth of that between sound methods.
    assert found.auc_interval == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))), abs=0.02)


values = st.floats(-1e300, 1e300, allow_subnormal=False) | st.integers(-3, 3).map(float)


@given(bad=st.lists(values, min_size=10, max_size=30), good=st.lists(values, min_size=10, max_size=30))
def test_a_proposal_does_what_it_promises(bad: list[float], good: list[float]) -> None:
    (found,) = verdicts(scored(bad, good, "language_margin"), max_good_dropped=0.2)
    assert found.auc is not None
    assert found.auc_interval is not None
    assert 0 <= found.auc_interval[0] <= found.auc <= found.auc_interval[1] <= 1
    mirrored = verdicts(scored([-value for value in bad], [-value for value in good], "length_ratio"))[1]
    assert mirrored.auc == pytest.approx(found.auc)
    if found.proposal:
        threshold = found.proposal.threshold
        assert sum(value < threshold for value in good) <= 0.2 * len(good) + 1e-9
        assert sum(value < threshold for value in bad) > 0


def test_proposals_are_settings_that_the_checks_obey() -> None:
    # Each column tells some bad rows by itself; one file of settings drops those, and no more good rows than allowed.
    generator = np.random.default_rng(2)
    ranges = {  # of bad rows and of good ones
        "translation_score": ((-2, -0.5), (-0.8, 0)),
        "round_trip_chrf": ((0, 60), (40, 100)),
        "length_ratio": ((1, 2), (0.8, 1.3)),
        "copied_share": ((0, 0.3), (0, 0.1)),
        "repeated_ngrams": ((1, 4), (1, 2)),
        "language_margin": ((-1, 1), (0.5, 1)),
    }
    assert set(ranges) == set(NUMBER_COLUMNS)
    stored = {
        name: np.concatenate([generator.uniform(*bad, 60), generator.uniform(*good, 140)]).astype(np.float32)
        for name, (bad, good) in ranges.items()
    } | {"repeated_ngrams": np.concatenate([generator.integers(1, 4, 60), np.ones(140, int)]).astype(np.int32)}
    rows = [
        rated(1 if place < 60 else 4, **{name: float(column[place]) for name, column in stored.items()})
        for place in range(200)
    ]
    found = verdicts(rows)
    proposed = {(v.criterion.column, v.criterion.bad_is_low): v.proposal.threshold for v in found if v.proposal}
    assert set(proposed) >= {
        (name, name in ("translation_score", "round_trip_chrf", "language_margin")) for name in stored
    }
    lines = recipe_lines(found)
    assert lines[0] == "[check]"
    config = read(CheckConfig, tomllib.loads("\n".join(lines))["check"], "check")
    table = pa.table(
        {**stored, "clean_caption": ["a" * 300] * 200, "caption": ["b" * 300] * 200}
        | {name: [[]] * 200 for name in ("numbers_lost", "numbers_invented")}
        | {name: [False] * 200 for name in ("translation_repetitive", "translation_truncated")}
    )
    rules = [rule for rule in config.rules(LanguagePack.minimal("it")) if rule.translations_only]
    dropped = [any(drops) for drops in zip(*(rule.check(table.select(rule.columns)) for rule in rules), strict=True)]
    assert dropped == [
        any(
            row.quality[name] < threshold if bad_is_low else row.quality[name] > threshold  # type: ignore[operator]
            for (name, bad_is_low), threshold in proposed.items()
            if name != "language_margin"  # no check reads it
        )
        for row in rows
    ]


def test_the_recipe_is_never_beyond_what_settings_allow() -> None:
    rising = [place / 100 for place in range(40)]
    found = verdicts(scored([1.5 + value for value in rising], [3 + value for value in rising], "length_ratio"))
    assert recipe_lines(found) == []
    assert "no threshold drops a bad row within --max-good-dropped" in [verdict.reason for verdict in found]
    straddling = scored([0.9 + value / 10 for value in rising], [2 + 100 * value for value in rising], "length_ratio")
    assert recipe_lines(verdicts(straddling)) == ["[check]", "min_length_ratio = 1", "shorter_slack_letters = 0"]


def test_bands_are_quarters_of_what_differs() -> None:
    rows = [rated(1 + place // 25, translation_score=place / 100) for place in range(100)]
    found = rating_bands(rows, "translation_score")
    assert [(band.lowest, band.highest, band.num_rows, band.mean) for band in found] == [
        (0, 0.25, 26, pytest.approx(27 / 26)),
        (0.26, 0.5, 25, pytest.approx(2.04)),
        (0.51, 0.75, 25, pytest.approx(3.04)),
        (0.76, 0.99, 24, pytest.approx(4)),
    ]
    (only,) = rating_bands([rated(4, copied_share=0.0), rated(2, copied_share=0.0), rated(1)], "copied_share")
    assert (only.lowest, only.highest, only.num_rows, only.mean) == (0, 0, 2, 3)
    assert rating_bands(rows, "copied_share") == []

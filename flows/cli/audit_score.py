"""What `audit score` prints: what raters say of a sample, beside the paper's numbers, and what follows for a recipe."""

from collections.abc import Sequence
from pathlib import Path

from data_catalog.errors import InputError, PipelineError, SettingsError
from flows.cli.output import say
from flows.tables import cell_text, plain_table
from translation.audit.agreement import Agreement, gwet_agreement, ordinal_weights
from translation.audit.ratings import GRADES, NUMBER_COLUMNS, AuditSheet, RatingSheet, read_audit, read_ratings
from translation.audit.sheets import AUDIT_FILE
from translation.audit.summary import (
    GradeCount,
    MeanRating,
    RatedRow,
    all_grades,
    disputed_rows,
    grade_counts,
    mean_rating,
    rated_rows,
    rating_table,
    rows_by_source,
    worst_rows,
)
from translation.audit.thresholds import Rate, Verdict, judge_columns, rating_bands, recipe_lines

# Bianchi et al., Contrastive Language-Image Pre-training for the Italian Language, 2021, arXiv 2108.08688.
PAPER_MEAN, PAPER_AGREEMENT = 3.78, 0.858
PAPER = "the paper: 3 raters, 100 captions that DeepL translated into Italian (Bianchi et al., 2021)"


def tell_scores(
    ratings: Sequence[Path], sheet: Path | None, *, bad_below: float, max_good_dropped: float, worst: int
) -> None:
    """Print means, agreement, grades, what quality columns tell, proposed thresholds, and the worst rows.

    Args:
        ratings: what the form saved, one file a rater.
        sheet: the audit; None: beside the first ratings.
        bad_below: a lower mean rating is bad.
        max_good_dropped: share of the other rows that a threshold may cost.
        worst: how many rows are listed.

    Raises:
        PipelineError: an option is out of bounds, or a file is missing or not what it should be; see `read_audit` and
            `read_ratings`.
    """
    if not GRADES[0] < bad_below <= GRADES[-1]:
        raise SettingsError(f"--bad-below {bad_below:g} is no rating above 1 and up to 4: 3 is the default")
    if not 0 <= max_good_dropped < 1:
        raise SettingsError(f"--max-good-dropped {max_good_dropped:g} is no share of 0 or more and below 1")
    if worst < 0:
        raise SettingsError(f"--worst {worst} is negative: 0 lists no rows")
    audit = read_audit(sheet or _beside(ratings[0]))
    sheets = read_ratings(ratings, audit)
    rows = rated_rows(audit, sheets)
    _say_means(audit, sheets, rows)
    _say_grades(audit, sheets)
    _say_sources(rows)
    _say_columns(rows, bad_below, max_good_dropped)
    _say_rows("lowest ratings", worst_rows(rows, worst))
    _say_rows("ratings furthest apart", disputed_rows(rows, worst))


def _beside(ratings: Path) -> Path:
    path = ratings.parent / AUDIT_FILE
    if not path.is_file():
        raise InputError(f"{path} is no file: put the audit's CSV beside {ratings}, or name it with --audit")
    return path


def _say_means(audit: AuditSheet, sheets: Sequence[RatingSheet], rows: Sequence[RatedRow]) -> None:
    total = all_grades(grade_counts(audit, sheets))
    num_missing = len(audit.rows) * len(sheets) - total.num_ratings
    say(
        f"audit {cell_text(audit.audit_id)}: {len(audit.rows):,} rows, of which {len(rows):,} are rated, by "
        f"{len(sheets)} {'rater' if len(sheets) == 1 else 'raters'}; ratings missing: {num_missing:,}\n"
    )
    agreement = _agreement(sheets, rows)
    cells = [
        ("mean rating, 1 to 4", _mean(mean_rating(rows)), f"{PAPER_MEAN}"),
        ("mean rating, estimate for the dataset", _mean(mean_rating(rows, weighted=True)), ""),
        ("Gwet's AC1, ordinal weights", _coefficient(agreement), f"{PAPER_AGREEMENT}"),
    ]
    say(plain_table([{"": name, "here (95 % interval)": here, "the paper": paper} for name, here, paper in cells]))
    say(agreement if isinstance(agreement, str) else _agreement_note(agreement))
    say(PAPER)


def _agreement(sheets: Sequence[RatingSheet], rows: Sequence[RatedRow]) -> Agreement | str:
    """Return the agreement, or why there is none: a mean is worth telling without it."""
    try:
        return gwet_agreement(rating_table(rows, sheets), categories=GRADES, weights=ordinal_weights(len(GRADES)))
    except PipelineError as error:
        return f"no AC1: {error}"


def _agreement_note(found: Agreement) -> str:
    return (
        f"pairs of raters agree to {found.observed:.1%}, near misses in part; {found.by_chance:.1%} would be chance; "
        f"{found.num_shared_items:,} rows have two ratings or more"
    )


def _coefficient(found: Agreement | str) -> str:
    return "-" if isinstance(found, str) else _with_interval(found.coefficient, found.interval, digits=3)


def _mean(found: MeanRating) -> str:
    return _with_interval(found.value, found.interval, digits=2)


def _with_interval(value: float, interval: tuple[float, float] | None, *, digits: int) -> str:
    if interval is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def _say_grades(audit: AuditSheet, sheets: Sequence[RatingSheet]) -> None:
    by_rater = grade_counts(audit, sheets)
    lines = [_grades(name, found) for name, found in by_rater.items()]
    say("\n" + plain_table([*lines, _grades("(all)", all_grades(by_rater))]))


def _grades(name: str, found: GradeCount) -> dict[str, object]:
    return {
        "rater": name,
        "ratings": found.num_ratings,
        "missing": found.num_rows - found.num_ratings,
        "mean": f"{found.mean:.2f}",
        **{f"rated {grade}": f"{found.share(grade):.0%}" for grade in GRADES},
    }


def _say_sources(rows: Sequence[RatedRow]) -> None:
    lines = [
        {"source": source, "rated rows": len(found), "mean rating (95 % interval)": _mean(mean_rating(found))}
        for source, found in rows_by_source(rows).items()
    ]
    say("\n" + plain_table(lines))


def _say_columns(rows: Sequence[RatedRow], bad_below: float, max_good_dropped: float) -> None:
    verdicts = judge_columns(rows, bad_below=bad_below, max_good_dropped=max_good_dropped)
    if not verdicts:
        say("\nthe audit has no quality columns with numbers: no threshold can be fitted")
        return
    num_bad = sum(row.mean < bad_below for row in rows)
    say(f"\nhow well quality columns tell the {num_bad:,} bad rows (mean rating below {bad_below:g}) from the others")
    say(plain_table([_verdict(verdict) for verdict in verdicts]))
    say("AUC: 1 tells all bad rows, 0.5 is chance; rates are those of rows left out of the fit; 95 % intervals")
    settings = recipe_lines(verdicts)
    if settings:
        price = f"each dropping at most {max_good_dropped:.0%} of the others where it was fitted"
        say(f"\nthresholds for a recipe, {price}\n" + "\n".join(settings))
    _say_bands(rows)


def _say_bands(rows: Sequence[RatedRow]) -> None:
    bands = {column: rating_bands(rows, column) for column in NUMBER_COLUMNS}
    lines = [
        {
            "column": column,
            "from": _bound(band.lowest),
            "to": _bound(band.highest),
            "rows": band.num_rows,
            "mean rating": band.mean,
        }
        for column, found in bands.items()
        if len(found) > 1  # one band is the mean of all
        for band in found
    ]
    if lines:
        say("\nmean rating by quarters of each column that varies\n" + plain_table(lines))


def _bound(value: float) -> str:
    return f"{value:.6g}"  # margins are mostly close to 1


def _verdict(verdict: Verdict) -> dict[str, object]:
    found, low = verdict.proposal, verdict.criterion.bad_is_low
    return {
        "column": verdict.criterion.column,
        "rows": verdict.num_rows,
        "AUC": "-" if verdict.auc is None else _with_interval(verdict.auc, verdict.auc_interval, digits=2),
        "drop": f"{'below' if low else 'above'} {found.threshold:.12g}" if found else "low" if low else "high",
        "bad kept": _rate(found.bad_kept) if found else "-",
        "others dropped": _rate(found.good_dropped) if found else "-",
        "remark": verdict.reason or ("" if verdict.criterion.settings else "no check of a recipe reads it"),
    }


def _rate(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.count} of {rate.num_rows} ({low:.0%} to {high:.0%})"


def _say_rows(title: str, rows: Sequence[RatedRow]) -> None:
    if not rows:
        return
    say(f"\n{title}")
    for row in rows:
        grades = ", ".join(f"{cell_text(rater)} {grade}" for rater, grade in row.grades.items())
        say(f"  {cell_text(row.row.row_id)}  {cell_text(row.row.source)}  mean {row.mean:.2f}  ({grades})")
        say(f"    {cell_text(row.row.source_text)}\n    {cell_text(row.row.text)}")
        for rater, comment in row.comments.items():
            say(f"    {cell_text(rater)}: {cell_text(comment)}")

"""The report of an audit, as text: its numbers next to the paper's, and the rows to look at."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_catalog.base.errors import InputError
from data_catalog.base.plain_text import cell_text, plain_table
from translation.audit.agreement import gwet_agreement, ordinal_weights
from translation.audit.form import AUDIT_FILE, GRADES
from translation.audit.ratings import (
    AuditRow,
    Mean,
    disputed_rows,
    mean_rating,
    read_audit,
    read_ratings,
    worst_rows,
)

# Bianchi et al., Contrastive Language-Image Pre-training for the Italian Language, 2021, arXiv 2108.08688.
PAPER_MEAN, PAPER_AGREEMENT = 3.78, 0.858
PAPER = "the paper: 3 raters, 100 captions that DeepL translated into Italian (Bianchi et al., 2021)"


def audit_report(ratings: Sequence[Path], sheet: Path | None, *, worst: int) -> Iterator[str]:
    """Yield the report's lines: means, agreement, grades, and the worst rows.

    `ratings` are the files that the form saved, one for each rater; `sheet` is the audit's, by default beside them.
    """
    audit = read_audit(sheet or ratings[0].parent / AUDIT_FILE)
    raters = read_ratings(ratings, audit)
    rows = [row for row in audit if row.grades]
    yield from _means(audit, raters, rows)
    yield from ("", plain_table(_grade_rows(audit, raters)))
    by_source = {name: [row for row in rows if row.source == name] for name in sorted({row.source for row in rows})}
    table: list[dict[str, object]] = [
        {"source": name, "rated rows": len(found), "mean rating (95 % interval)": _mean(mean_rating(found))}
        for name, found in by_source.items()
    ]
    yield from ("", plain_table(table))
    yield from _listed("lowest ratings", worst_rows(rows, worst))
    yield from _listed("ratings furthest apart", disputed_rows(rows, worst))


def _means(audit: Sequence[AuditRow], raters: Sequence[str], rows: Sequence[AuditRow]) -> Iterator[str]:
    num_missing = len(audit) * len(raters) - sum(len(row.grades) for row in audit)
    yield (
        f"audit {cell_text(audit[0].audit_id)}: {len(audit):,} rows, {len(rows):,} of them rated by "
        f"{len(raters)} {'rater' if len(raters) == 1 else 'raters'}; missing ratings: {num_missing:,}\n"
    )
    coefficient = "-"
    try:
        table = [[row.grades.get(rater) for rater in raters] for row in rows]
        found = gwet_agreement(table, categories=GRADES, weights=ordinal_weights(len(GRADES)))
    except InputError as error:  # the mean is still reported
        note = f"no AC1: {error}"
    else:
        coefficient = _with_interval(found.coefficient, found.interval, digits=3)
        note = (
            f"{found.observed:.1%} of the pairs of raters agree (near misses count in part); {found.by_chance:.1%} "
            f"would agree by chance; {found.num_shared_items:,} rows have two or more ratings"
        )
    cells = [
        ("mean rating, 1 to 4", _mean(mean_rating(rows)), f"{PAPER_MEAN}"),
        ("mean rating, estimate for the dataset", _mean(mean_rating(rows, weighted=True)), ""),
        ("Gwet's AC1, ordinal weights", coefficient, f"{PAPER_AGREEMENT}"),
    ]
    yield plain_table([{"": name, "here (95 % interval)": here, "the paper": paper} for name, here, paper in cells])
    yield note
    yield PAPER


def _mean(found: Mean) -> str:
    return _with_interval(*found, digits=2)


def _with_interval(value: float, interval: tuple[float, float] | None, *, digits: int) -> str:
    ends = "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
    return f"{value:.{digits}f}{ends}"


def _grade_rows(audit: Sequence[AuditRow], raters: Sequence[str]) -> list[dict[str, object]]:
    given = {rater: [row.grades[rater] for row in audit if rater in row.grades] for rater in raters}
    every = [grade for row in audit for grade in row.grades.values()]
    return [
        {
            "rater": name,
            "ratings": len(grades),
            "missing": num_rows - len(grades),
            "mean": f"{sum(grades) / len(grades):.2f}",
            **{f"rated {grade}": f"{grades.count(grade) / len(grades):.0%}" for grade in GRADES},
        }
        for name, grades, num_rows in (
            *((rater, grades, len(audit)) for rater, grades in given.items()),
            ("(all)", every, len(audit) * len(raters)),
        )
    ]


def _listed(title: str, rows: Sequence[AuditRow]) -> Iterator[str]:
    if rows:
        yield f"\n{title}"
    for row in rows:
        grades = ", ".join(f"{cell_text(rater)} {grade}" for rater, grade in row.grades.items())
        yield f"  {cell_text(row.row_id)}  {cell_text(row.source)}  mean {row.mean:.2f}  ({grades})"
        yield f"    {cell_text(row.source_text)}\n    {cell_text(row.text)}"
        for rater, comment in row.comments.items():
            yield f"    {cell_text(rater)}: {cell_text(comment)}"

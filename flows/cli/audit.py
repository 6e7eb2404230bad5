"""Commands around the audit of translations by people: audit draw, audit score."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from data_catalog.errors import DiskError, SettingsError
from flows.cli.options import DEFAULT_ROOT, DatasetName, Number, Root
from flows.cli.output import say, say_table


def draw(
    dataset: DatasetName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    num_rows: Annotated[Number, Parameter(name="--n")] = 100,
    seed: Number = 1,
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
) -> None:
    """Draw translated captions, and write a form on which people rate them.

    Args:
        num_rows: How many captions.
        seed: Another one draws others.
        out: Where audit.csv and audit.html go (default: in the root).
    """
    from data_catalog.storage.shards import write_bytes
    from translation.audit.draw import AUDIT_COLUMNS, draw_audit
    from translation.audit.form import AUDIT_FILE, FORM_FILE, render_form, sheet_text

    drawn = draw_audit(root, dataset, num_rows=num_rows, seed=seed)
    folder = out or root / "audits" / f"{drawn.dataset}-{drawn.audit_id}"
    sheet, path = sheet_text(AUDIT_COLUMNS, drawn.rows).encode(), folder / AUDIT_FILE
    try:
        if path.is_file() and path.read_bytes() != sheet:
            raise SettingsError(f"{path} is another audit, which may have ratings: give another --out")
        write_bytes(folder / FORM_FILE, render_form(drawn).encode())
        write_bytes(path, sheet)
    except OSError as error:
        raise DiskError(f"--out {folder} cannot be written to: {error.strerror}") from error
    rows = [{"stratum": found.name, "pairs": found.num_pairs, "drawn": found.num_drawn} for found in drawn.strata]
    say_table(rows)
    if len(drawn.rows) < num_rows:
        say(f"{len(drawn.rows):,} distinct pairs are all that there are, fewer than {num_rows:,}: all are drawn")
    if num_missed := sum(not stratum.num_drawn for stratum in drawn.strata):
        say(f"{num_missed} strata are without a row: --n {len(drawn.strata)} or more gives each one")
    say(f"\nwrote {folder / AUDIT_FILE} and {folder / FORM_FILE}: audit {drawn.audit_id}, {len(drawn.rows):,} pairs")
    say(f"give each rater {FORM_FILE}, which opens in any browser; keep {AUDIT_FILE} to yourself: it holds the scores")


def score(
    ratings: Annotated[tuple[Path, ...], Parameter(name="RATINGS.csv")],
    /,
    *,
    sheet: Annotated[Path | None, Parameter(name="--audit", metavar="FILE")] = None,
    bad_below: Annotated[float, Parameter(metavar="RATING")] = 3.0,
    max_good_dropped: Annotated[float, Parameter(metavar="SHARE")] = 0.05,
    worst: Number = 5,
) -> None:
    """Say what raters found, and which thresholds follow for a recipe.

    Args:
        ratings: What the form saved, one file a rater.
        sheet: What `draw` wrote (default: audit.csv beside the first ratings).
        bad_below: A lower mean rating is bad.
        max_good_dropped: Of the rows that are not bad, how many a threshold may cost.
        worst: How many bad rows are listed.
    """
    from translation.audit.report import audit_report

    for line in audit_report(ratings, sheet, bad_below=bad_below, max_good_dropped=max_good_dropped, worst=worst):
        say(line)

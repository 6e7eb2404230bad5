"""Commands around the audit of translations by people: audit draw, audit score."""

from argparse import Namespace
from pathlib import Path

from data_catalog.errors import ConfigError
from flows.commands.output import say
from flows.tables import plain_table
from translation.audit.draw import AUDIT_COLUMNS, Audit, draw_audit
from translation.audit.form import render_form
from translation.audit.sheets import AUDIT_FILE, FORM_FILE, sheet_text, write_text


def draw(options: Namespace) -> None:
    """Draw translated captions of a dataset, and write the sheet and the form on which people rate them."""
    audit = draw_audit(options.root, options.dataset, num_rows=options.num_rows, seed=options.seed)
    folder = options.out or options.root / "audits" / f"{audit.dataset}-{audit.audit_id}"
    _write(audit, folder)
    say(
        plain_table(
            [
                {"stratum": stratum.name, "pairs": stratum.num_pairs, "drawn": stratum.num_drawn}
                for stratum in audit.strata
            ]
        )
    )
    for line in _remarks(audit, options.num_rows):
        say(line)
    say(f"\nwrote {folder / AUDIT_FILE} and {folder / FORM_FILE}: audit {audit.audit_id}, {len(audit.rows):,} pairs")
    say(f"give each rater {FORM_FILE}, which opens in any browser; keep {AUDIT_FILE} to yourself: it holds the scores")


def _write(audit: Audit, folder: Path) -> None:
    """Ratings belong to one audit: a folder that holds another one is not written to."""
    sheet = sheet_text(AUDIT_COLUMNS, audit.rows)
    path = folder / AUDIT_FILE
    try:
        if path.is_file() and path.read_bytes() != sheet.encode():
            raise ConfigError(f"{path} is another audit, which may have ratings: give another --out")
        write_text(folder / FORM_FILE, render_form(audit))
        write_text(path, sheet)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be written to: {error.strerror}") from error


def _remarks(audit: Audit, num_rows: int) -> list[str]:
    lines = []
    if len(audit.rows) < num_rows:
        lines.append(
            f"{len(audit.rows):,} distinct pairs are all that there are, fewer than {num_rows:,}: all are drawn"
        )
    num_missed = sum(not stratum.num_drawn for stratum in audit.strata)
    if num_missed:
        lines.append(f"{num_missed} strata are without a row: --n {len(audit.strata)} or more gives each one")
    return lines

"""The commands translate, which translates a file without a catalog, and audit, with which people rate translations."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from data_catalog.base.boundary import about
from data_catalog.base.errors import DiskError, SettingsError
from flows.cli.output import say, say_table
from flows.options import (
    DEFAULT_ROOT,
    DatasetName,
    EngineOptions,
    From,
    Number,
    Root,
    To,
    WholeNumber,
    Words,
    no_option,
)

if TYPE_CHECKING:
    from translation.files import CaptionFiles


@Parameter(name="*", group=Group("Files", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Options of the input and the output."""

    out: Annotated[str | None, Parameter(allow_leading_hyphen=True, metavar="OUTPUT")] = None
    """Output file in the format of INPUT, or - for standard output (default)."""
    force: bool = False
    """Replace OUTPUT if it exists."""
    format: Literal["lines", "csv", "tsv", "parquet"] | None = None
    """Format of INPUT (default: from its file name, else lines)."""
    column: Annotated[str | None, Parameter(metavar="NAME")] = None
    """Column to translate (default: caption)."""
    write_column: Annotated[str | None, Parameter(metavar="NAME")] = None
    """Name of the new column (default: COLUMN_LANG, such as caption_it)."""
    scores: bool = False
    """Add the columns score, truncated and repetitive; in format lines, write the score and a tab before each line."""


@Parameter(name="*", group=Group("Engine", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class AnyEngineOptions(EngineOptions):
    """Options of the engine."""

    model: Annotated[Words, Parameter(metavar="DIR")] = ()
    """For ctranslate2: folder of a converted model with its tokenizer. For transformers: folder, or name on the hub."""


_FILES, _ENGINE = FileOptions(), AnyEngineOptions()


def translate(
    source: Annotated[str | None, Parameter(name="INPUT", allow_leading_hyphen=True, converter=no_option)] = None,
    /,
    *,
    from_code: From,
    to_code: To,
    files: FileOptions = _FILES,
    engine: AnyEngineOptions = _ENGINE,
) -> None:
    """Translate lines of text, or one column of a CSV, TSV or Parquet file.

    Examples:
      echo "two red stars" | vernaclip translate --from en --to it --package en_it.argosmodel
      vernaclip translate captions.txt.gz --out italian.txt.gz --from en --to it --scores
      vernaclip translate captions.csv --out italian.csv --from en --to it --column title --write-column titolo
      vernaclip translate captions.parquet --out italian.parquet --from en --to it --memory catalog/memory
      cut -f1 no-header.tsv | vernaclip translate --from en --to it --engine deepl

    Line N of the output is the translation of line N of the input. Tables keep their rows, order and columns; new
    columns come last, and null stays null. Text is UTF-8. OUTPUT appears only when it is complete. Standard output is
    written after every 20,000 lines (fewer with a paid engine) and at the end of INPUT, so an open pipe may wait. With
    --memory, an interrupted command resumes when it is run again.

    Args:
        source: Input file, or - for standard input (default).
    """
    from data_catalog.base.progress import Progress
    from flows.recipe.engines import open_one_way
    from translation.files import count_rows, translate_files

    found = _caption_files(source, to_code, files)
    with tempfile.TemporaryDirectory() as cache:
        translator = open_one_way(
            engine.values(),
            from_code,
            to_code,
            language_packs=engine.language_packs,
            memory=engine.memory,
            cache_dir=Path(cache),
        )
        num_rows = count_rows(found)
        if found.target is None and sys.stdout.isatty():  # a progress bar would appear between the lines
            translate_files(found, translator)
            return
        with Progress("translate", total=num_rows, unit="captions") as progress:
            translate_files(found, translator, progress.advance)


def _caption_files(name: str | None, to_code: str, options: FileOptions) -> "CaptionFiles":
    """Return the input, output, format and columns that the options name."""
    from translation.files import CaptionFiles, format_of

    source, target = (None if each in (None, "-") else Path(each) for each in (name, options.out))
    named = options.format or ("lines" if source is None else format_of(source))
    if named == "lines" and (options.column or options.write_column):
        raise SettingsError("the format lines has no columns: leave --column and --write-column out, or set --format")
    column = options.column or "caption"
    return CaptionFiles(
        source=source,
        target=target,
        format=named,
        column=column,
        write_column=options.write_column or f"{column}_{to_code}",
        scores=options.scores,
        overwrite=options.force,
    )


def draw(
    dataset: DatasetName,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    num_rows: Annotated[Number, Parameter(name="--n")] = 100,
    seed: Number = 1,
    out: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
) -> None:
    """Draw a sample of translated captions, and write a form in which people rate them.

    Args:
        num_rows: Number of captions.
        seed: Seed of the sample.
        out: Folder for audit.csv and audit.html (default: in audits/ of the root).
    """
    from data_catalog.disk.files import write_bytes
    from data_catalog.report.forms import sheet_text
    from translation.audit.draw import AUDIT_COLUMNS, draw_audit
    from translation.audit.form import AUDIT_FILE, FORM_FILE, render_audit

    drawn = draw_audit(root, dataset, num_rows=num_rows, seed=seed)
    folder = out or root / "audits" / f"{drawn.dataset}-{drawn.audit_id}"
    sheet, path = sheet_text(AUDIT_COLUMNS, drawn.rows).encode(), folder / AUDIT_FILE
    with about(f"--out {folder} cannot be written to", kind=DiskError):
        if path.is_file() and path.read_bytes() != sheet:
            raise SettingsError(f"{path} belongs to another audit, which may have ratings: choose another --out")
        write_bytes(folder / FORM_FILE, render_audit(drawn).encode())
        write_bytes(path, sheet)
    say_table([{"stratum": each.name, "pairs": each.num_pairs, "drawn": each.num_drawn} for each in drawn.strata])
    if len(drawn.rows) < num_rows:
        say(f"only {len(drawn.rows):,} distinct pairs exist, fewer than {num_rows:,}: all are drawn")
    if num_missed := sum(not stratum.num_drawn for stratum in drawn.strata):
        say(f"{num_missed} strata have no row in the sample: --n {len(drawn.strata)} or more gives each one a row")
    say(f"\nwrote {folder / AUDIT_FILE} and {folder / FORM_FILE}: audit {drawn.audit_id}, {len(drawn.rows):,} pairs")
    say(f"give {FORM_FILE} to each rater (any browser opens it); do not give them {AUDIT_FILE}: it contains the scores")


def score(
    ratings: Annotated[tuple[Path, ...], Parameter(name="RATINGS.csv")],
    /,
    *,
    sheet: Annotated[Path | None, Parameter(name="--audit", metavar="FILE")] = None,
    worst: WholeNumber = 5,
) -> None:
    """Summarize the ratings of an audit.

    Args:
        ratings: Files that the form saved, one for each rater.
        sheet: The audit.csv that `draw` wrote (default: audit.csv beside the first ratings).
        worst: Number of bad rows to list.
    """
    from translation.audit.report import audit_report

    for line in audit_report(ratings, sheet, worst=worst):
        say(line)

"""Commands around translations: translate (a file, without a catalog), audit draw, audit score (by people)."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from data_catalog.errors import DiskError, SettingsError
from flows.cli.options import DEFAULT_ROOT, DatasetName, From, LanguagePacks, Number, Root, To, Words, no_option
from flows.cli.output import say, say_table

if TYPE_CHECKING:
    from translation.engine import Translator
    from translation.files import CaptionFiles


@Parameter(name="*", group=Group("Files", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Options of the input and the output."""

    out: Annotated[str | None, Parameter(allow_leading_hyphen=True, metavar="OUTPUT")] = None
    """A file, of INPUT's format, or - for standard output (default)."""
    force: bool = False
    """Replace OUTPUT if it exists."""
    format: Literal["lines", "csv", "tsv", "parquet"] | None = None
    """Default: told by INPUT's name, else lines."""
    column: Annotated[str | None, Parameter(metavar="NAME")] = None
    """The column to translate (default: caption)."""
    write_column: Annotated[str | None, Parameter(metavar="NAME")] = None
    """The new column (default: COLUMN_LANG, as caption_it)."""
    scores: bool = False
    """Write score, truncated and repetitive too; of lines, score and a tab first."""


@Parameter(name="*", group=Group("Engine", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of the engine."""

    engine: Annotated[str | None, Parameter(metavar="NAME")] = None
    """argos (default), ctranslate2, transformers, deepl, apertium, command, or one of a package (docs/engines.md)."""
    package: Annotated[Words, Parameter(metavar="FILE")] = ()
    """argos: .argosmodel file or folder (default: the installed one)."""
    model: Annotated[Words, Parameter(metavar="DIR")] = ()
    """ctranslate2: folder of a converted model, with its tokenizer; transformers: a folder, or a hub's name."""
    language_packs: LanguagePacks = ()
    """TOML file of a language's codes, for --from, --to or --pivot; may be given often."""
    pivot: Annotated[str | None, Parameter(metavar="LANG")] = None
    """Go through this language; takes two packages or models."""
    memory: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Record translations here, and never ask again for recorded ones."""
    overrides: Annotated[Words, Parameter(name="--set", metavar="KEY=VALUE")] = ()
    """Any setting of a recipe's [translate] table, such as beam_size=1; may be given often."""


_FILES, _ENGINE = FileOptions(), EngineOptions()


def translate(
    source: Annotated[str | None, Parameter(name="INPUT", allow_leading_hyphen=True, converter=no_option)] = None,
    /,
    *,
    from_code: From,
    to_code: To,
    files: FileOptions = _FILES,
    engine: EngineOptions = _ENGINE,
) -> None:
    """Translate lines of text, or a column of a CSV, TSV or Parquet file.

    Examples:
      echo "two red stars" | vernaclip translate --from en --to it --package en_it.argosmodel
      vernaclip translate captions.txt.gz --out italian.txt.gz --from en --to it --scores
      vernaclip translate captions.csv --out italian.csv --from en --to it --column title --write-column titolo
      vernaclip translate captions.parquet --out italian.parquet --from en --to it --memory catalog/memory
      cut -f1 no-header.tsv | vernaclip translate --from en --to it --engine apertium --pivot ca

    Line N of the output is the translation of line N of the input. Rows of a table stay as they are, in order, with
    the new columns behind; null stays null. Text is UTF-8. OUTPUT appears when it is whole, and not before. Standard
    output gets its lines whenever 20,000 have been read and translated, fewer with a paid engine, and at the end of
    INPUT: a pipe that stays open waits. With --memory, a command that was stopped goes on where it was when run again.

    Args:
        source: A file, or - for standard input (default).
    """
    from data_catalog.progress import Progress
    from translation.files import count_rows, translate_files

    found = _caption_files(source, to_code, files)
    with tempfile.TemporaryDirectory() as cache:
        translator = _opened(from_code, to_code, engine, Path(cache))
        num_rows = count_rows(found)
        if found.target is None and sys.stdout.isatty():  # a bar would stand amid the lines
            translate_files(found, translator)
            return
        with Progress("translate", total=num_rows, unit="captions") as progress:
            translate_files(found, translator, progress.advance)


def _caption_files(name: str | None, to_code: str, options: FileOptions) -> "CaptionFiles":
    """Return input, output, format and columns as the options name them.

    Raises:
        PipelineError: they cannot be read or written, or columns are named for lines, which have none.
    """
    from translation.files import CaptionFiles, Columns, format_of

    source, target = (None if each in (None, "-") else Path(each) for each in (name, options.out))
    named = options.format or ("lines" if source is None else format_of(source))
    if named == "lines" and (options.column or options.write_column):
        raise SettingsError("lines have no columns: leave --column and --write-column out, or give --format")
    column = options.column or "caption"
    columns = Columns(read=column, write=options.write_column or f"{column}_{to_code}", scores=options.scores)
    return CaptionFiles(source=source, target=target, format=named, columns=columns, overwrite=options.force)


def _opened(from_code: str, to_code: str, options: EngineOptions, cache_dir: Path) -> "Translator":
    """Return the engine that the options and `--set` name.

    Raises:
        PipelineError: a setting is unknown or wrong, is given twice, or is about the way back, which is not gone here;
            or the engine cannot be opened.
    """
    from flows.recipe.engines import one_way_config, packs_of, route_codes, setting_values
    from translation.memory import with_memory
    from translation.registry import open_translator

    values = setting_values(options.overrides)
    named = {"engine": options.engine, "package": list(options.package), "model": list(options.model)}
    for name, given in {**named, "pivot": options.pivot}.items():
        if given and name in values:
            raise SettingsError(f"translate.{name} is given twice, as --{name} and as --set {name}=...")
        if given:
            values[name] = given
    config = one_way_config(values)
    codes = route_codes(from_code, config, to_code)
    packs = packs_of(codes, options.language_packs)
    engine = open_translator(config, [packs[code] for code in codes], cache_dir=cache_dir)
    return with_memory(engine, options.memory)


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

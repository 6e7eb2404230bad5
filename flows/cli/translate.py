"""The command `translate`: a file, or standard input, into another language, without a catalog."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from data_catalog.errors import SettingsError
from flows.cli.options import From, LanguagePacks, To, Words, no_option

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
    from translation.memory import remembering
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
    return remembering(engine, options.memory)

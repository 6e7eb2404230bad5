"""Options and examples of `vernaclip translate`."""

import argparse
from pathlib import Path
from typing import Any

Group = Any  # argparse has no public name for what add_argument_group returns

_EXAMPLES = """examples:
  echo "two red stars" | vernaclip translate --from en --to it --package en_it.argosmodel
  vernaclip translate captions.txt.gz --out italian.txt.gz --from en --to it --scores
  vernaclip translate captions.csv --out italian.csv --from en --to it --column title --write-column titolo
  vernaclip translate captions.parquet --out italian.parquet --from en --to it --memory catalog/memory
  cut -f1 no-header.tsv | vernaclip translate --from en --to it --engine apertium --pivot ca

Line N of the output is the translation of line N of the input. Rows of a table stay as they are, in order, with
the new columns behind; null stays null. Text is UTF-8. OUTPUT appears when it is whole, and not before. Standard
output gets its lines whenever 20,000 have been read and translated, fewer with a paid engine, and at the end of
INPUT: a pipe that stays open waits. With --memory, a command that was stopped goes on where it was when run again."""


def add_translate_options(command: argparse.ArgumentParser) -> None:
    """Add all options but the pair of languages, and examples that stand as they are."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    command.add_argument("input", nargs="?", metavar="INPUT", help="a file, or - for standard input (default)")
    _add_files(command.add_argument_group("files"))
    _add_engine(command.add_argument_group("engine"))


def _add_files(files: Group) -> None:
    files.add_argument("--out", metavar="OUTPUT", help="a file, of INPUT's format, or - for standard output (default)")
    files.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    files.add_argument(
        "--format", choices=("lines", "csv", "tsv", "parquet"), help="default: told by INPUT's name, else lines"
    )
    files.add_argument("--column", metavar="NAME", help="the column to translate (default: caption)")
    files.add_argument("--write-column", metavar="NAME", help="the new column (default: COLUMN_LANG, as caption_it)")
    files.add_argument(
        "--scores",
        action="store_true",
        help="write score, truncated and repetitive too; of lines, score and a tab first",
    )


def _add_engine(engine: Group) -> None:
    engine.add_argument(
        "--engine",
        metavar="NAME",
        help="argos (default), ctranslate2, transformers, deepl, apertium, command, or one of a package "
        "(docs/engines.md)",
    )
    engine.add_argument(
        "--package",
        action="append",
        metavar="FILE",
        help="argos: .argosmodel file or folder (default: the installed one)",
    )
    engine.add_argument(
        "--model",
        action="append",
        metavar="DIR",
        help="ctranslate2: folder of a converted model, with its tokenizer; transformers: a folder, or a hub's name",
    )
    engine.add_argument(
        "--language-pack",
        action="append",
        default=[],
        dest="language_packs",
        metavar="FILE",
        help="TOML file of a language's codes, for --from, --to or --pivot; may be given often",
    )
    engine.add_argument("--pivot", metavar="LANG", help="go through this language; takes two packages or models")
    engine.add_argument(
        "--memory", type=Path, metavar="DIR", help="record translations here, and never ask again for recorded ones"
    )
    engine.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="any setting of a recipe's [translate] table, such as beam_size=1; may be given often",
    )

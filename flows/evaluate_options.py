"""Options and examples of `vernaclip mt evaluate`."""

import argparse
from pathlib import Path

from translation.scores import TOKENIZERS

_EXAMPLES = """examples:
  vernaclip mt evaluate val.tsv --from en --to de --system mine package=en_de.argosmodel
  vernaclip mt evaluate val.tsv --from en --to de --system mine package=en_de.argosmodel \\
      --system wide package=en_de.argosmodel beam_size=4 --system opus engine=ctranslate2 model=opus-en-de \\
      --system theirs output=theirs.txt --out evaluation

The first system is what the others are compared with. PAIRS.tsv is UTF-8, source, tab, reference, one pair a line;
every line counts: lines that are no pair are named, and nothing is evaluated. BLEU, chrF and the paired bootstrap
(1,000 resamples, seeded) are sacrebleu's. Speed is of one pass over all captions, without loading; other work on the
machine slows it down."""


def add_evaluate_options(command: argparse.ArgumentParser) -> None:
    """Add all options but the pair of languages, and examples that stand as they are."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    command.add_argument("pairs", type=Path, metavar="PAIRS.tsv", help="source text, tab, reference; one pair a line")
    command.add_argument(
        "--system",
        action="append",
        nargs="+",
        required=True,
        dest="systems",
        metavar=("NAME", "KEY=VALUE"),
        help="an engine by any settings of a recipe's [translate] table, such as package=FILE or engine=apertium; or "
        "output=FILE, translations that are there already, one a line; may be given often",
    )
    command.add_argument(
        "--language-pack",
        action="append",
        default=[],
        dest="language_packs",
        metavar="FILE",
        help="TOML file of a language's codes, for --from, --to or a pivot; may be given often",
    )
    command.add_argument(
        "--memory", type=Path, metavar="DIR", help="keep here what a paid engine translates; its speed is not measured"
    )
    command.add_argument(
        "--tokenize",
        choices=TOKENIZERS,
        help="sacrebleu's tokenizer for BLEU (default: 13a; zh for zh; char for ja, ko, th, lo, km and my)",
    )
    command.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write scores.json, and NAME.txt with what each engine made"
    )
    command.add_argument("--force", action="store_true", help="replace what FOLDER holds of an earlier evaluation")

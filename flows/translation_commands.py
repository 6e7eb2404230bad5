"""The commands of translating without a catalog, of packages and memories, and of audits, with all of their options."""

import argparse
from pathlib import Path

from flows.download_options import add_private_hosts
from flows.evaluate_options import add_evaluate_options
from flows.job_options import add_root
from flows.subcommands import Commands, add_command
from flows.translate_options import add_translate_options

TRAIN_EPILOG = """A killed training goes on where it was when the same command is run again.

examples:
  vernaclip mt train captions.tsv --from en --to de --preset small --out en_de.argosmodel
  vernaclip mt train more.tsv --from en --to de --preset small --continue en_de.argosmodel --out en_de-2.argosmodel
"""

INSTALL_EPILOG = """examples:
  vernaclip mt install --from en --to it
  vernaclip mt install translate-en_it-1_0.argosmodel

A package goes where Argos Translate looks for packages (ARGOS_PACKAGES_DIR), and serves both. The index is Argos
Translate's own (ARGOS_PACKAGE_INDEX). An interrupted download goes on where it stopped."""


def add_translation_commands(commands: Commands) -> None:
    """Add `translate` and all of `mt`."""
    _add_translate(commands)
    mt = commands.add_parser("mt", help="train, evaluate or install translation packages").add_subparsers(
        metavar="COMMAND", required=True
    )
    train = add_command(mt, "train", "mt:train", "train a compact translation package from parallel captions")
    train.formatter_class, train.epilog = argparse.RawDescriptionHelpFormatter, TRAIN_EPILOG
    train.add_argument(
        "pairs", type=Path, nargs="+", metavar="PAIRS.tsv", help="source text, tab, target text; one pair a line"
    )
    _add_pair(train)
    train.add_argument("--out", type=Path, required=True, metavar="FILE.argosmodel")
    train.add_argument(
        "--preset",
        choices=["tiny", "small", "base"],
        default="tiny",
        help="settings for templates of a small world (tiny, the default), tens of thousands of captions (small), "
        "or hundreds of thousands and more (base)",
    )
    train.add_argument(
        "--held-out", type=Path, metavar="PAIRS.tsv", help="pairs to validate on, instead of some of the given ones"
    )
    train.add_argument(
        "--continue",
        type=Path,
        dest="continued",
        metavar="FILE.argosmodel",
        help="start from the weights of a package that was trained here, with its vocabulary and sizes",
    )
    train.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="override a training setting"
    )
    _add_evaluate(mt)
    _add_packages(mt)
    _add_memory(mt)


def _add_evaluate(mt: Commands) -> None:
    text = "score translation engines on parallel captions, side by side: BLEU, chrF and speed"
    command = add_command(mt, "evaluate", "mt_evaluate:evaluate", text)
    _add_pair(command)
    add_evaluate_options(command)


def _add_packages(mt: Commands) -> None:
    install = add_command(
        mt,
        "install",
        "mt_packages:install",
        "install a package from the Argos index, or offline from an .argosmodel file",
    )
    install.formatter_class, install.epilog = argparse.RawDescriptionHelpFormatter, INSTALL_EPILOG
    install.add_argument("file", nargs="?", type=Path, metavar="FILE", help="an .argosmodel file, instead of the index")
    _add_pair(install, required=False)
    install.add_argument("--sha256", metavar="HEX", help="refuse a file with another sha256; the index has none")
    show = add_command(mt, "packages", "mt_packages:show", "list what the Argos index offers, or what is installed")
    show.add_argument("--installed", action="store_true", help="list what is installed; no network is used")
    _add_pair(show, required=False)
    for command in (install, show):
        add_private_hosts(command)


def _add_memory(mt: Commands) -> None:
    text = "list, export and import what a catalog remembers of its translations"
    memory = mt.add_parser("memory", help=text, description=text).add_subparsers(metavar="COMMAND", required=True)
    add_root(add_command(memory, "list", "mt_memory:show", "list the engines whose translations are remembered"))
    export = add_command(memory, "export", "mt_memory:export", "write an engine's translations to a Parquet file")
    export.add_argument("fingerprint", metavar="FINGERPRINT", help="of the engine, as `list` shows it")
    export.add_argument("file", type=Path, metavar="OUT.parquet")
    export.add_argument("--force", action="store_true", help="replace a file that is there")
    add_root(export)
    merge = add_command(
        memory, "import", "mt_memory:merge", "merge an exported file; captions known already stay as they are"
    )
    merge.add_argument("file", type=Path, metavar="FILE.parquet")
    add_root(merge)


def _add_translate(commands: Commands) -> None:
    command = add_command(
        commands,
        "translate",
        "translate:translate",
        "translate lines of text, or a column of a CSV, TSV or Parquet file",
    )
    _add_pair(command)
    add_translate_options(command)


def _add_pair(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    command.add_argument(
        "--from", required=required, dest="from_code", metavar="LANG", help="language of the input, such as en"
    )
    command.add_argument(
        "--to", required=required, dest="to_code", metavar="LANG", help="language of the output, such as it"
    )


def add_audit_commands(commands: Commands) -> None:
    """Add `audit draw` and `audit score`."""
    text = "have people rate a sample of translations, as the CLIP-Italian paper did"
    audit = commands.add_parser("audit", help=text, description=text).add_subparsers(metavar="COMMAND", required=True)
    draw = add_command(
        audit, "draw", "audit:draw", "draw translated captions, and write a form on which people rate them"
    )
    draw.add_argument("dataset", metavar="DATASET", help="name of a dataset (see `vernaclip catalog`)")
    add_root(draw)
    draw.add_argument("--n", type=int, default=100, dest="num_rows", metavar="N", help="captions (default: 100)")
    draw.add_argument("--seed", type=int, default=1, metavar="N", help="another one draws others (default: 1)")
    draw.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where audit.csv and audit.html go (default: in the root)"
    )
    _add_audit_score(audit)


def _add_audit_score(audit: Commands) -> None:
    score = add_command(
        audit, "score", "audit_score:score", "say what raters found, and which thresholds follow for a recipe"
    )
    score.add_argument(
        "ratings", nargs="+", type=Path, metavar="RATINGS.csv", help="what the form saved, one file a rater"
    )
    score.add_argument(
        "--audit", type=Path, metavar="FILE", help="what `draw` wrote (default: audit.csv beside the first ratings)"
    )
    score.add_argument(
        "--bad-below", type=float, default=3.0, metavar="RATING", help="a lower mean rating is bad (default: 3)"
    )
    score.add_argument(
        "--max-good-dropped",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of the rows that are not bad, how many a threshold may cost (default: 0.05)",
    )
    score.add_argument("--worst", type=int, default=5, metavar="N", help="how many bad rows are listed (default: 5)")

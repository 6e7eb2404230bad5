"""The command line: `vernaclip --help`. Only argparse is loaded here; commands load what they need."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from flows.ability_options import add_classify_options, add_localize_options, add_search_options
from flows.download_options import add_download_options
from flows.evaluate_options import add_evaluate_options
from flows.export_model_options import add_export_model_options
from flows.export_options import add_export_options
from flows.forget_options import add_forget_options
from flows.job_options import add_dry_run_options, add_job_options, add_root
from flows.question_options import add_catalog_options, add_sql_options, add_why_options
from flows.report_options import add_report_options
from flows.scoreboard_options import add_scoreboard_options
from flows.snapshot_options import (
    add_diff_options,
    add_prune_options,
    add_snapshots_options,
    add_verify_options,
)
from flows.tables import visible_text
from flows.translate_options import add_translate_options
from training.processes import process_rank

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = """Give any language its own CLIP: translated, cleaned, queryable image-caption data, and a compact
open_clip model trained and scored on it."""

EPILOG = """exit codes: 0 done; 1 failed, with one sentence that says what to do; 2 wrong usage"""

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    _set_up_logging(debug=options.debug, quiet=getattr(options, "quiet", False) or process_rank() > 0)
    from data_catalog.disk_errors import disk_errors
    from data_catalog.errors import PipelineError

    try:
        with disk_errors(Path(getattr(options, "root", None) or ".") / "catalog"):
            return int(_handler(options.handler)(options) or EXIT_OK)
    except PipelineError as error:
        return _fail(str(error), debug=options.debug)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: run the same command again to go on\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (a pager, head) has gone: that is its right.
        sys.stderr.close()
        return EXIT_OK
    except Exception as error:  # noqa: BLE001 - the outermost boundary: a defect, told in one line
        text = f"unexpected {type(error).__name__}: {error}; this is a defect: --debug shows where, please report it"
        return _fail(text, debug=options.debug)


def _handler(name: str) -> Any:
    module, function = name.split(":")
    return getattr(import_module(f"flows.commands.{module}"), function)


def _fail(text: str, *, debug: bool) -> int:
    if debug:
        raise
    shown = "\n".join(map(visible_text, text.split("\n")))  # it may quote what a dataset or a file name holds
    sys.stderr.write(f"vernaclip: {shown}\n")
    return EXIT_FAILED


def _set_up_logging(*, debug: bool, quiet: bool) -> None:
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    for package in ("flows", "data_catalog", "translation", "cleaning", "training"):
        logging.getLogger(package).setLevel(level)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="vernaclip", description=DESCRIPTION, epilog=EPILOG)
    top.add_argument("--debug", action="store_true", help="show tracebacks and debug messages")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_jobs(commands)
    _add_scoreboard(commands)
    _add_download(commands)
    _add_questions(commands)
    _add_abilities(commands)
    _add_report(commands)
    _add_forget(commands)
    _add_export(commands)
    _add_export_model(commands)
    _add_services(commands)
    _add_translation(commands)
    _add_audit(commands)
    _add_sample(commands)
    return top


Commands = Any  # argparse has no public name for what add_subparsers returns


def _add(commands: Commands, name: str, handler: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(handler=handler)
    return command


def _add_jobs(commands: Commands) -> None:
    for name, text in (
        ("run", "build the dataset of a recipe, train a model on it, evaluate it"),
        ("build", "build the dataset of a recipe; run it again to go on after an interruption"),
        ("train", "train the recipe's model on the dataset that was built"),
        ("evaluate", "score the trained model on the dataset's held-out images"),
    ):
        command = _add(commands, name, f"jobs:{name}", text)
        add_job_options(command, builds=name in ("build", "run"))
        if name == "build":
            add_dry_run_options(command)


def _add_scoreboard(commands: Commands) -> None:
    text = "score models side by side: yours, others', an English one with translated queries; on any test set"
    add_scoreboard_options(_add(commands, "scoreboard", "scoreboard:scoreboard", text))


def _add_download(commands: Commands) -> None:
    text = "list the annotation files of upstream datasets and their licences, or download those of one"
    add_download_options(_add(commands, "download", "download:download", text))


def _add_report(commands: Commands) -> None:
    text = "write the page of a dataset: what is in it, with pictures, and what became of the rest"
    add_report_options(_add(commands, "report", "report:report", text))


def _add_questions(commands: Commands) -> None:
    text = "answer an SQL query on the catalog's views, of which `FROM duckdb_views()` says what they hold"
    add_sql_options(_add(commands, "sql", "sql:sql", text))
    text = "tell why a sample, a caption or an image is in a dataset or not: its story, from the upstream line on"
    add_why_options(_add(commands, "why", "why:why", text))
    _add_snapshots(commands)
    text = "say what a root holds: datasets, rows kept and dropped, splits, sources, licences, exports"
    add_catalog_options(_add(commands, "catalog", "overview:catalog", text))
    _add(commands, "recipes", "questions:recipes", "list the recipes that come with vernaclip")


def _add_abilities(commands: Commands) -> None:
    text = "find the images of a dataset, or of a folder, that fit a text, and write them as a contact sheet"
    add_search_options(_add(commands, "search", "abilities:search", text))
    text = "say which of several texts fits an image best, with a picture of the probabilities"
    add_classify_options(_add(commands, "classify", "abilities:classify", text))
    text = "find where in an image a text is, with a heat map over the image"
    add_localize_options(_add(commands, "localize", "abilities:localize", text))


def _add_forget(commands: Commands) -> None:
    text = "take images down: in every dataset of a root, now and in later builds"
    add_forget_options(_add(commands, "forget", "forget:forget", text))


def _add_snapshots(commands: Commands) -> None:
    text = "check that every byte of the catalog is what was written"
    add_verify_options(_add(commands, "verify", "verify:verify", text))
    text = "list all committed snapshots: which is current, when each was published, what it holds"
    add_snapshots_options(_add(commands, "snapshots", "snapshots:snapshots", text))
    text = "say which rows two snapshots of a dataset have or judge differently, and which settings and files differ"
    add_diff_options(_add(commands, "diff", "snapshots:diff", text))
    text = "remove old snapshots that nothing needs, and what killed builds left of theirs"
    add_prune_options(_add(commands, "prune", "snapshots:prune", text))


def _add_export(commands: Commands) -> None:
    text = "write a dataset as a folder that other tools read: Hugging Face, WebDataset, or URLs without pixels"
    add_export_options(_add(commands, "export", "export:export", text))


def _add_export_model(commands: Commands) -> None:
    text = "write a trained model as a folder that open_clip, transformers or ONNX Runtime reads, with a model card"
    add_export_model_options(_add(commands, "export-model", "export_model:export_model_command", text))


def _add_services(commands: Commands) -> None:
    text = "start Prefect's server, a worker and the deployments, on this machine only, or what is gone of them"
    up = _add(commands, "up", "services:up", text)
    up.add_argument("--port", type=int, help="where a new server listens (default: 4200, or the next free one)")
    down = _add(commands, "down", "services:down", "stop what `up` started, after the runs that have begun")
    down.add_argument("--now", action="store_true", help="kill runs that have begun; they go on when run again")
    doctor = _add(
        commands, "doctor", "services:doctor", "say what is wrong with this environment, or what a language lacks"
    )
    doctor.add_argument("--fix", action="store_true", help="mend what can be mended")
    doctor.add_argument("--quiet", action="store_true", help="say nothing where nothing is wrong")
    doctor.add_argument(
        "--language",
        metavar="LANG",
        help="say instead what this language has and lacks here, and what that costs: a code such as el, or the TOML "
        "file of a language pack",
    )


def _add_translation(commands: Commands) -> None:
    _add_translate(commands)
    mt = commands.add_parser("mt", help="train, evaluate or install translation packages").add_subparsers(
        metavar="COMMAND", required=True
    )
    train = _add(mt, "train", "mt:train", "train a compact translation package from parallel captions")
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
    command = _add(mt, "evaluate", "mt_evaluate:evaluate", text)
    _add_pair(command)
    add_evaluate_options(command)


def _add_packages(mt: Commands) -> None:
    install = _add(
        mt,
        "install",
        "mt_packages:install",
        "install a package from the Argos index, or offline from an .argosmodel file",
    )
    install.formatter_class, install.epilog = argparse.RawDescriptionHelpFormatter, INSTALL_EPILOG
    install.add_argument("file", nargs="?", type=Path, metavar="FILE", help="an .argosmodel file, instead of the index")
    _add_pair(install, required=False)
    install.add_argument("--sha256", metavar="HEX", help="refuse a file with another sha256; the index has none")
    show = _add(mt, "packages", "mt_packages:show", "list what the Argos index offers, or what is installed")
    show.add_argument("--installed", action="store_true", help="list what is installed; no network is used")
    _add_pair(show, required=False)


def _add_memory(mt: Commands) -> None:
    text = "list, export and import what a catalog remembers of its translations"
    memory = mt.add_parser("memory", help=text, description=text).add_subparsers(metavar="COMMAND", required=True)
    add_root(_add(memory, "list", "mt_memory:show", "list the engines whose translations are remembered"))
    export = _add(memory, "export", "mt_memory:export", "write an engine's translations to a Parquet file")
    export.add_argument("fingerprint", metavar="FINGERPRINT", help="of the engine, as `list` shows it")
    export.add_argument("file", type=Path, metavar="OUT.parquet")
    export.add_argument("--force", action="store_true", help="replace a file that is there")
    add_root(export)
    merge = _add(memory, "import", "mt_memory:merge", "merge an exported file; captions known already stay as they are")
    merge.add_argument("file", type=Path, metavar="FILE.parquet")
    add_root(merge)


def _add_translate(commands: Commands) -> None:
    command = _add(
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


def _add_audit(commands: Commands) -> None:
    text = "have people rate a sample of translations, as the CLIP-Italian paper did"
    audit = commands.add_parser("audit", help=text, description=text).add_subparsers(metavar="COMMAND", required=True)
    draw = _add(audit, "draw", "audit:draw", "draw translated captions, and write a form on which people rate them")
    draw.add_argument("dataset", metavar="DATASET", help="name of a dataset (see `vernaclip catalog`)")
    add_root(draw)
    draw.add_argument("--n", type=int, default=100, dest="num_rows", metavar="N", help="captions (default: 100)")
    draw.add_argument("--seed", type=int, default=1, metavar="N", help="another one draws others (default: 1)")
    draw.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where audit.csv and audit.html go (default: in the root)"
    )
    _add_audit_score(audit)


def _add_audit_score(audit: Commands) -> None:
    score = _add(audit, "score", "audit_score:score", "say what raters found, and which thresholds follow for a recipe")
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


def _add_sample(commands: Commands) -> None:
    pairs = _add(
        commands,
        "scenes-pairs",
        "mt:scenes_pairs",
        "write parallel captions of the sample's grammar, to train a package on",
    )
    pairs.add_argument("out", type=Path, metavar="PAIRS.tsv")
    pairs.add_argument("--to", default="it", metavar="LANG", help="language beside the English: it or de (default: it)")
    pairs.add_argument("--seed", type=int, default=1)
    pairs.add_argument("--num-pairs", type=int, default=60_000, metavar="N")


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `vernaclip --help`. Only argparse is loaded here; commands load what they need."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from flows.ability_options import add_classify_options, add_localize_options, add_search_options
from flows.ablate_options import add_ablate_options
from flows.download_options import add_download_options
from flows.export_model_options import add_export_model_options
from flows.export_options import add_export_options
from flows.forget_options import add_forget_options
from flows.job_options import add_dry_run_options, add_job_options
from flows.question_options import add_catalog_options, add_sql_options, add_why_options
from flows.report_options import add_report_options
from flows.scoreboard_options import add_scoreboard_options
from flows.snapshot_options import (
    add_diff_options,
    add_prune_options,
    add_snapshots_options,
    add_verify_options,
)
from flows.subcommands import Commands, add_command
from flows.tables import visible_text
from flows.translation_commands import add_audit_commands, add_translation_commands
from training.processes import process_rank

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = """Give any language its own CLIP: translated, cleaned, queryable image-caption data, and a compact
open_clip model trained and scored on it."""

EPILOG = """exit codes: 0 done; 1 failed, with one sentence that says what to do; 2 wrong usage"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    _set_up_logging(debug=options.debug, quiet=getattr(options, "quiet", False) or process_rank() > 0)
    from data_catalog.errors import PipelineError
    from data_catalog.storage.disk_errors import disk_errors
    from data_catalog.storage.reading import reading

    root = getattr(options, "root", None)
    try:
        if root is not None:
            from data_catalog.storage.roots import open_root

            # `sql` writes nothing, and does not read through links.
            open_root(root, writes=options.handler != "sql:sql")
        with disk_errors((root or Path()) / "catalog"), reading():
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
    _add_ablate(commands)
    _add_scoreboard(commands)
    _add_download(commands)
    _add_questions(commands)
    _add_abilities(commands)
    _add_report(commands)
    _add_forget(commands)
    _add_export(commands)
    _add_export_model(commands)
    _add_services(commands)
    add_translation_commands(commands)
    add_audit_commands(commands)
    _add_sample(commands)
    return top


def _add_jobs(commands: Commands) -> None:
    for name, text in (
        ("run", "build the dataset of a recipe, train a model on it, evaluate it"),
        ("build", "build the dataset of a recipe; run it again to go on after an interruption"),
        ("train", "train the recipe's model on the dataset that was built"),
        ("evaluate", "score the trained model on the dataset's held-out images"),
    ):
        command = add_command(commands, name, f"jobs:{name}", text)
        add_job_options(command, builds=name in ("build", "run"))
        if name == "build":
            add_dry_run_options(command)


def _add_ablate(commands: Commands) -> None:
    text = "say which filters of a recipe help: models with and without each, of equal training, compared"
    add_ablate_options(add_command(commands, "ablate", "ablate:ablate", text))


def _add_scoreboard(commands: Commands) -> None:
    text = "score models side by side: yours, others', an English one with translated queries; on any test set"
    add_scoreboard_options(add_command(commands, "scoreboard", "scoreboard:scoreboard", text))


def _add_download(commands: Commands) -> None:
    text = "list the annotation files of upstream datasets and their licences, or download those of one"
    add_download_options(add_command(commands, "download", "download:download", text))


def _add_report(commands: Commands) -> None:
    text = "write the page of a dataset: what is in it, with pictures, and what became of the rest"
    add_report_options(add_command(commands, "report", "report:report", text))


def _add_questions(commands: Commands) -> None:
    text = "answer an SQL query on the catalog's views, of which `FROM duckdb_views()` says what they hold"
    add_sql_options(add_command(commands, "sql", "sql:sql", text))
    text = "tell why a sample, a caption or an image is in a dataset or not: its story, from the upstream line on"
    add_why_options(add_command(commands, "why", "why:why", text))
    _add_snapshots(commands)
    text = "say what a root holds: datasets, rows kept and dropped, splits, sources, licences, exports"
    add_catalog_options(add_command(commands, "catalog", "overview:catalog", text))
    add_command(commands, "recipes", "questions:recipes", "list the recipes that come with vernaclip")


def _add_abilities(commands: Commands) -> None:
    text = "find the images of a dataset, or of a folder, that fit a text, and write them as a contact sheet"
    add_search_options(add_command(commands, "search", "abilities:search", text))
    text = "say which of several texts fits an image best, with a picture of the probabilities"
    add_classify_options(add_command(commands, "classify", "abilities:classify", text))
    text = "find where in an image a text is, with a heat map over the image"
    add_localize_options(add_command(commands, "localize", "abilities:localize", text))


def _add_forget(commands: Commands) -> None:
    text = "take images down: in every dataset of a root, now and in later builds"
    add_forget_options(add_command(commands, "forget", "forget:forget", text))


def _add_snapshots(commands: Commands) -> None:
    text = "check that every byte of the catalog is what was written"
    add_verify_options(add_command(commands, "verify", "verify:verify", text))
    text = "list all committed snapshots: which is current, when each was published, what it holds"
    add_snapshots_options(add_command(commands, "snapshots", "snapshots:snapshots", text))
    text = "say which rows two snapshots of a dataset have or judge differently, and which settings and files differ"
    add_diff_options(add_command(commands, "diff", "snapshots:diff", text))
    text = "remove old snapshots that nothing needs, and what killed builds left of theirs"
    add_prune_options(add_command(commands, "prune", "snapshots:prune", text))


def _add_export(commands: Commands) -> None:
    text = "write a dataset as a folder that other tools read: Hugging Face, WebDataset, or URLs without pixels"
    add_export_options(add_command(commands, "export", "export:export", text))


def _add_export_model(commands: Commands) -> None:
    text = "write a trained model as a folder that open_clip, transformers or ONNX Runtime reads, with a model card"
    add_export_model_options(add_command(commands, "export-model", "export_model:export_model_command", text))


def _add_services(commands: Commands) -> None:
    text = "start Prefect's server, a worker and the deployments, on this machine only, or what is gone of them"
    up = add_command(commands, "up", "services:up", text)
    up.add_argument("--port", type=int, help="where a new server listens (default: 4200, or the next free one)")
    down = add_command(commands, "down", "services:down", "stop what `up` started, after the runs that have begun")
    down.add_argument("--now", action="store_true", help="kill runs that have begun; they go on when run again")
    doctor = add_command(
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


def _add_sample(commands: Commands) -> None:
    pairs = add_command(
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

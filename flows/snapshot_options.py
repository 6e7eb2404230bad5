"""What the commands on snapshots take on the command line: `vernaclip verify|snapshots|diff|prune`."""

import argparse

from flows.job_options import add_root

PRUNE_EPILOG = """What stays besides: the snapshot that the newest model saw, the one that an interrupted --retry-failed
goes on with, and all of a dataset while a model is trained on it. A program that has catalog.duckdb open still sees the
views of when it opened it: if their snapshot is removed, its next query says so, and opening the file again helps."""

KEEP = 1
EXAMPLES = 3


def add_verify_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `verify`."""
    add_root(command)
    command.add_argument("--dataset", metavar="NAME", help="only the files of this dataset, and its exports")
    command.add_argument("--snapshot", metavar="ID", help="only the files of this snapshot")


def add_snapshots_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `snapshots`."""
    command.add_argument("dataset", nargs="?", metavar="DATASET", help="only this one (default: all)")
    add_root(command)
    _add_format(command)


def add_diff_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `diff`."""
    for name, text in (("a", "the earlier one"), ("b", "the later one")):
        command.add_argument(
            name,
            metavar=name.upper(),
            help=f"{text}: a snapshot's id or its first letters, `current`, or `previous`, which was current before",
        )
    command.add_argument("--dataset", metavar="NAME", help="of which dataset, where ids do not tell")
    add_root(command)
    command.add_argument(
        "--examples",
        type=int,
        default=EXAMPLES,
        metavar="N",
        help=f"rows that are shown of each change (default: {EXAMPLES})",
    )
    _add_format(command)


def add_prune_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `prune`."""
    command.epilog = PRUNE_EPILOG
    command.add_argument("dataset", nargs="?", metavar="DATASET", help="only of this one (default: all)")
    add_root(command)
    command.add_argument(
        "--keep",
        type=int,
        default=KEEP,
        metavar="N",
        help=f"how many of the newest stay, the current one among them (default: {KEEP})",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")


def _add_format(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("table", "csv", "json"), default="table")

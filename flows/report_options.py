"""What `vernaclip report` takes on the command line."""

import argparse
from pathlib import Path

from data_catalog.errors import ConfigError
from flows.job_options import add_root

DEFAULT_EXAMPLES = 3
# Of each reason: with more, the page would be a list of the dataset.
MAX_EXAMPLES = 50


def add_report_options(command: argparse.ArgumentParser) -> None:
    """Add the dataset and every option of the command."""
    command.add_argument("dataset", metavar="DATASET", help="name of a dataset (see `vernaclip catalog`)")
    add_root(command)
    command.add_argument(
        "--out", type=Path, metavar="FILE.html", help="where the page goes (default: report.html of the dataset)"
    )
    command.add_argument(
        "--examples",
        type=int,
        default=DEFAULT_EXAMPLES,
        metavar="N",
        help=f"captions shown for each reason, at most {MAX_EXAMPLES} (default: {DEFAULT_EXAMPLES})",
    )


def check_report_options(options: argparse.Namespace) -> None:
    """Refuse what makes no page.

    Raises:
        ConfigError: too few or too many examples, or there can be no such file.
    """
    if not 0 <= options.examples <= MAX_EXAMPLES:
        raise ConfigError(f"--examples must be from 0 to {MAX_EXAMPLES}, got {options.examples}")
    if options.out is not None and options.out.is_dir():
        raise ConfigError(f"--out names the folder {options.out}: name a file in it, such as {options.out}/report.html")

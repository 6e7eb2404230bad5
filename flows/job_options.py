"""What the main jobs take on the command line: `vernaclip run|build|train|evaluate`."""

import argparse
from pathlib import Path


def add_root(command: argparse.ArgumentParser) -> None:
    """Add the option that says where the catalog is."""
    command.add_argument(
        "--root", type=Path, default=Path("catalog"), metavar="DIR", help="folder of the catalog (default: catalog)"
    )


def add_job_options(command: argparse.ArgumentParser, *, builds: bool) -> None:
    """Add every option of a job; `builds` says whether it builds a dataset."""
    command.add_argument("recipe", metavar="RECIPE", help="name of a recipe (see `vernaclip recipes`) or a TOML file")
    add_root(command)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="override a setting of the recipe; may be given often",
    )
    command.add_argument(
        "--executor",
        choices=("prefect", "local"),
        default="prefect",
        help="through Prefect (default), or the same steps in threads without it",
    )
    if builds:
        command.add_argument(
            "--retry-failed",
            action="store_true",
            help="of a dataset that is there, ask once more for the images that failed for reasons that may pass",
        )

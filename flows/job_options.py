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


def add_dry_run_options(command: argparse.ArgumentParser) -> None:
    """Add what says what rules would drop, instead of building."""
    group = command.add_argument_group("instead of building")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the rules would drop of a sample of each source, with examples",
    )
    group.add_argument(
        "--rows", type=int, default=1000, metavar="N", help="rows of each source, 0 for all (default: 1000)"
    )
    group.add_argument(
        "--examples", type=int, default=3, metavar="N", help="captions shown of each rule and source (default: 3)"
    )
    group.add_argument("--seed", type=int, default=1, metavar="N", help="another one draws others (default: 1)")
    group.add_argument(
        "--translate", action="store_true", help="translate the sample as well, and judge the translations"
    )
    group.add_argument("--page", type=Path, metavar="OUT.html", help="write it as a page, too")

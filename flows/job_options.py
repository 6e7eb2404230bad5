"""What the main jobs take on the command line: `vernaclip run|build|train|evaluate`."""

import argparse
import os
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError


def add_root(command: argparse.ArgumentParser) -> None:
    """Add the option that says where the catalog is."""
    command.add_argument(
        "--root", type=Path, default=Path("catalog"), metavar="DIR", help="folder of the catalog (default: catalog)"
    )


def add_overrides(command: argparse.ArgumentParser, text: str) -> None:
    """Add the option that overrides settings of a recipe; `text` is what `--help` says of it."""
    command.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE", help=text)


def add_job_options(command: argparse.ArgumentParser, *, builds: bool, retries: bool = True) -> None:
    """Add every option of a job; `builds` and `retries` say whether it builds a dataset, and tries images again."""
    command.add_argument("recipe", metavar="RECIPE", help="name of a recipe (see `vernaclip recipes`) or a TOML file")
    add_root(command)
    add_overrides(command, "override a setting of the recipe; may be given often")
    command.add_argument(
        "--executor",
        choices=("prefect", "local", "dask") if builds else ("prefect", "local"),
        default="prefect",
        help="through Prefect (default), or the same steps in threads without it"
        + (", or through Prefect on a Dask cluster (docs/clusters.md)" if builds else ""),
    )
    if builds:
        command.add_argument(
            "--dask-address",
            metavar="ADDRESS",
            help="with --executor dask: the scheduler of a cluster, such as tcp://10.0.0.5:8786 "
            "(default: build.dask_address of the recipe, else processes of this machine)",
        )
    if builds and retries:
        command.add_argument(
            "--retry-failed",
            action="store_true",
            help="of a dataset that is there, ask once more for the images that failed for reasons that may pass",
        )


DRY_RUN_DEFAULTS = {"rows": 1000, "examples": 3, "seed": 1, "translate": False, "page": None}


def add_dry_run_options(command: argparse.ArgumentParser) -> None:
    """Add what says what rules would drop, instead of building; `dry_run_options` reads it."""
    group = command.add_argument_group("instead of building")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the rules would drop of a sample of each source, with examples",
    )
    group.add_argument("--rows", type=int, metavar="N", help="rows of each source, 0 for all (default: 1000)")
    group.add_argument("--examples", type=int, metavar="N", help="captions shown of each rule and source (default: 3)")
    group.add_argument("--seed", type=int, metavar="N", help="another one draws others (default: 1)")
    group.add_argument(
        "--translate",
        action="store_const",
        const=True,
        help="translate the sample as well, and judge the translations",
    )
    group.add_argument("--page", type=Path, metavar="OUT.html", help="write it as a page, too")


def dry_run_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a dry run with their defaults.

    Raises:
        ConfigError: one is given for a build that is none, a number is negative, or there can be no such page.
    """
    given = {name: getattr(options, name) for name in DRY_RUN_DEFAULTS if getattr(options, name) is not None}
    if given and not options.dry_run:
        raise ConfigError(f"{', '.join(f'--{name}' for name in given)}: only with --dry-run")
    if options.dry_run and options.retry_failed:
        raise ConfigError("--retry-failed: not with --dry-run, which asks for no images")
    for name in ("rows", "examples"):
        if given.get(name, 0) < 0:
            raise ConfigError(f"--{name} must not be negative, got {given[name]}")
    if "page" in given:
        _require_writable(given["page"])
    return {**DRY_RUN_DEFAULTS, **given}


def _require_writable(page: Path) -> None:
    if page.is_dir():
        raise ConfigError(f"--page names the folder {page}: name a file in it, such as {page / 'dry-run.html'}")
    folder = next(place for place in page.absolute().parents if place.exists())
    if not folder.is_dir():
        raise ConfigError(f"--page names {page}, and {folder} is no folder")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--page names {page}, and nothing can be written into {folder}")

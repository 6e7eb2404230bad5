"""What `vernaclip ablate` takes on the command line."""

import argparse

from flows.job_options import add_job_options

EPILOG = """A filter is a switch of [clean], [check], [repeats], [duplicates] or [leaks], as check.proper_noun_check;
`cleaning.NAME` finds the one of them that has NAME, `_check` may be left out (cleaning.proper_nouns), A+B switches
both at once, and what is neither on nor off is given another value: check.min_words=0.

Each variant is a dataset of its own in the same root, and none of their images is downloaded twice. All models get the
same number of optimizer steps and are scored on the same held-out images, which none of them saw. The same command goes
on where it was killed. The table, the record and a plot go to ROOT/ablations.

example:
  vernaclip ablate scenes --toggle clean.language+check.language --toggle cleaning.proper_nouns --steps 200 --root DIR
"""

SEEDS = 3


def add_ablate_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `ablate`."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    add_job_options(command, builds=True, retries=False)
    command.add_argument(
        "--toggle",
        action="append",
        default=[],
        dest="toggles",
        metavar="FILTER",
        help="a filter that one variant has switched the other way; may be given often",
    )
    command.add_argument("--list", action="store_true", help="list what can be switched and what it is now, and end")
    command.add_argument(
        "--steps",
        type=int,
        default=0,
        metavar="N",
        help="optimizer steps of every model (default: as many as the recipe's epochs have on its own dataset)",
    )
    command.add_argument(
        "--seeds",
        type=int,
        default=SEEDS,
        metavar="K",
        help=f"models of each variant (default: {SEEDS}); with one nobody knows what training anew would change",
    )
    command.add_argument(
        "--split",
        choices=("val", "test"),
        default="",
        help="whose images they are scored on (default: evaluate.split of the recipe)",
    )
    command.add_argument("--dry-run", action="store_true", help="print the variants, what they change and the cost")

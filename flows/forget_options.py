"""What `vernaclip forget` takes on the command line."""

import argparse

from flows.job_options import add_root

_MEANINGS = {
    "url": ("URL", "the image at this address, or that it redirects to, or all images of the page"),
    "domain": ("HOST", "all images of this host and the hosts below it, and of its pages"),
    "sample": ("SOURCE:ID", "the image of this sample"),
    "phash": ("HASH", "images that look so: 16 hexadecimal digits, as the column `phash` has them"),
}


def add_forget_options(command: argparse.ArgumentParser) -> None:
    """Add every option of `vernaclip forget`."""
    add_root(command)
    for kind, (metavar, text) in _MEANINGS.items():
        command.add_argument(
            f"--{kind}", action="append", default=[], metavar=metavar, help=f"{text}; may be given often"
        )
    command.add_argument(
        "--distance",
        type=int,
        default=0,
        metavar="BITS",
        help="by how many bits of 64 the hash of --phash may differ (default: 0)",
    )
    command.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME",
        help="in this dataset alone; may be given often (default: in all, those of later builds included)",
    )
    command.add_argument("--reason", metavar="TEXT", help="kept with the tombstone, for whoever reads the list")
    command.add_argument("--dry-run", action="store_true", help="list what is meant, and change nothing")
    command.add_argument("--list", action="store_true", dest="lists", help="list what was forgotten so far")

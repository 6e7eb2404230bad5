"""What `vernaclip download` takes on the command line."""

import argparse
from pathlib import Path

EPILOG = """examples:
  vernaclip download
  vernaclip download wit --to data --accept "CC BY-SA 3.0" --only "*-00000-of-*"

Files go where the recipes expect them below the folder, which recipes take as --set data=DIR. An interrupted download
goes on where it stopped; sizes and checksums are compared with those that are published. What came, from where and
under which licence is in downloads.json beside the files."""


def add_download_options(command: argparse.ArgumentParser) -> None:
    """Add every option of `download` to its parser."""
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    command.add_argument("source", nargs="?", metavar="SOURCE", help="whose files; without it, all are listed")
    command.add_argument(
        "--to", type=Path, default=Path("data"), metavar="DIR", help="folder of all upstream data (default: data)"
    )
    command.add_argument("--accept", metavar="LICENCE", help="accept the source's licence, by the name that is listed")
    command.add_argument("--only", metavar="PATTERN", help="only files whose path or name fits, such as '*-00000-of-*'")
    command.add_argument(
        "--check", action="store_true", help="compare what is there with the record, and see whether it can be read"
    )
    command.add_argument(
        "--registry", type=Path, metavar="FILE.toml", help="other URLs, such as a mirror's (default: those that ship)"
    )
    add_private_hosts(command)


def add_private_hosts(command: argparse.ArgumentParser) -> None:
    """Add the option that lets a download leave the public internet."""
    command.add_argument(
        "--private-host",
        action="append",
        default=[],
        dest="private_hosts",
        metavar="HOST",
        help="also ask this host, such as a mirror on your own network, at whatever address and port; may be repeated",
    )

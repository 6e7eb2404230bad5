"""The folder of real files that benchmarks read: as publishers have them, where `vernaclip download` puts them."""

import argparse
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# Of files that may be large, so many lines are enough.
CC3M_LINES, FLICKR8K_LINES = 8000, 5000


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add `--data`."""
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real files (see docs/cleaning.md)")


def absent(data: Path, patterns: Iterable[str]) -> list[str]:
    """Those of some patterns that no file of the folder has."""
    return [pattern for pattern in patterns if not any(data.glob(pattern))]


def cc3m_captions(data: Path) -> list[str]:
    """The first of Conceptual Captions' captions, those of validation where both files are there."""
    return _column(sorted(data.glob("cc3m/*.tsv"), reverse=True), 0, CC3M_LINES)


def flickr8k_captions(data: Path) -> list[str]:
    """The first of Flickr8k's captions."""
    return _column(sorted(data.glob("flickr8k/Flickr8k.token*.txt")), 1, FLICKR8K_LINES)


def _column(paths: Iterable[Path], column: int, count: int) -> list[str]:
    for path in paths:
        with path.open(encoding="utf-8") as file:
            return [line.rstrip("\n").split("\t")[column] for line in islice(file, count)]
    return []

"""The folder of real files that benchmarks read: the publishers' files, where `vernaclip download` puts them."""

import argparse
import gzip
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from harness import exit_without, options_of

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PHOTOS = "coco/train2017"
# Lines that are read of files that may be large.
CC3M_LINES, FLICKR8K_LINES = 8000, 5000


def options_with_data(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of options that has `--quick` and `--data`."""
    parser = options_of(description)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real files (see docs/captions.md)")
    return parser


def require_files(data: Path, patterns: Iterable[str]) -> None:
    """Exit if no file of the folder matches one of the patterns."""
    if missing := [pattern for pattern in patterns if not any(data.glob(pattern))]:
        exit_without(f"{data} lacks {', '.join(missing)}")


def cc3m_captions(data: Path) -> list[str]:
    """Return the first captions of Conceptual Captions, of the validation file if both files are there."""
    return _column(sorted(data.glob("cc3m/*.tsv"), reverse=True), 0, CC3M_LINES)


def flickr8k_captions(data: Path) -> list[str]:
    """Return the first captions of Flickr8k."""
    return _column(sorted(data.glob("flickr8k/Flickr8k.token*.txt")), 1, FLICKR8K_LINES)


def multi30k(data: Path, language: str, parts: Iterable[str] = ("train",)) -> list[str]:
    """Return Multi30k's captions in a language, as far as its files are there."""
    paths = [path for part in parts for path in sorted(data.glob(f"multi30k/{part}.{language}.gz"))]
    return [line for path in paths for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()]


def mscoco_it(data: Path, kind: str) -> list[str]:
    """Return MSCOCO-IT's captions, "validated" or "unvalidated", if they are there."""
    paths = data.glob(f"mscoco_it/captions_ita_devset_{kind}.json.gz")
    return [row["caption"] for path in paths for row in json.loads(gzip.decompress(path.read_bytes()))["annotations"]]


def _column(paths: Iterable[Path], column: int, count: int) -> list[str]:
    for path in paths:
        with path.open(encoding="utf-8") as file:
            return [line.rstrip("\n").split("\t")[column] for line in islice(file, count)]
    return []

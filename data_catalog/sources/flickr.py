"""Reader of Flickr8k and Flickr30k: captions of images in a folder or an archive.

The content of a file decides its format, in the same way for both datasets:
  tokens      `name.jpg#0<TAB>caption`             Flickr8k.token.txt, results_20130124.token
  results     `image_name| comment_number| comment`   results.csv of Flickr30k
  captions    `image,caption`, quoted as CSV       captions.txt of repackaged copies
  Karpathy    JSON, first character `{`            dataset_flickr8k.json, dataset_flickr30k.json
Flickr8k's official splits are lists of names in the folder of the captions: Flickr_8k.trainImages.txt, ...
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from data_catalog.base.errors import InputError
from data_catalog.base.settings import PATH
from data_catalog.sources.delimited import read_records
from data_catalog.sources.files import FilesConfig, Line, Trouble, first_text, read_lines, upstream_files
from data_catalog.sources.json_documents import open_object
from data_catalog.sources.mscoco import LISTS, karpathy_sentences
from data_catalog.sources.rows import Candidate, Location, OpenFiles, Records, normalised_split

_EXPECTED = "Flickr captions (tokens, results.csv, captions.txt or Karpathy's JSON)"
# One name in Flickr8k has a stray copy number: "2258277193_586949ec62.jpg.1#0".
_TOKEN = re.compile(
    r"(?P<name>[^\t#]*\.(?:jpe?g|png))(?:\.\d+)?#(?P<index>\d+)\t(?P<caption>.*)", re.IGNORECASE | re.DOTALL
)
_RESULT = re.compile(r"(?P<name>[^|]+?)\s*\|\s*(?P<index>\d+)\s*\| ?(?P<caption>.*)", re.DOTALL)
# One line of Flickr30k lacks a delimiter: "2199200615.jpg| 4   A dog runs across the grass ."
_RESULT_UNDELIMITED = re.compile(r"(?P<name>[^|]+?)\s*\|\s*(?P<index>\d+)\s+(?P<caption>[^|]*\S[^|]*)", re.DOTALL)
_RESULTS_HEADER = re.compile(r"\s*image_name\s*\|")
_CAPTIONS_HEADER = "image,caption"
_LISTS = "Flickr_8k.*Images.txt"
_LISTED = re.compile(r"Flickr_8k\.(.*)Images\.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlickrConfig(FilesConfig):
    """Captions files of Flickr8k or Flickr30k, and the location of their images."""

    EXPECTED: ClassVar = _EXPECTED

    files: tuple[str, ...] = field(metadata=PATH)
    """Captions files. Flickr8k's split lists are read from the same folder."""
    images: str = field(metadata=PATH)
    """Folder, zip or tar of the images, or a glob of them."""


def read_flickr(config: FlickrConfig) -> OpenFiles:
    """Yield each captions file with a record for each caption (English), with the split of its photo if it has one."""
    splits = _listed_splits(config)

    def with_splits(records: Records) -> Records:
        for location, found in records:
            if isinstance(found, Candidate):
                found.split = splits.get(found.sample_key) or found.split
            yield location, found

    captions = (path for path in upstream_files(config) if not _LISTED.fullmatch(path.name))
    return ((path, with_splits(read_captions(path))) for path in captions)


def flickr_files(config: FlickrConfig) -> list[Path]:
    """Return the files of the settings and the lists of splits in their folders, sorted by path."""
    named = upstream_files(config)
    return sorted({*named, *(found for path in named for found in path.parent.glob(_LISTS))}, key=str)


def read_captions(path: Path) -> Records:
    """Return a record for each caption of a file, in any of the formats."""
    first = first_text(path)
    if first.startswith("{"):
        return _read_karpathy(path)
    if first.replace(" ", "").lower() == _CAPTIONS_HEADER:
        return _read_table(path)
    if _RESULTS_HEADER.match(first):
        layout = "image_name| comment_number| comment"
        return _matched(path, _after_header(path), layout, _RESULT, _RESULT_UNDELIMITED)
    return _matched(path, read_lines(path), "name.jpg#number<TAB>caption", _TOKEN)


def _listed_splits(config: FlickrConfig) -> dict[str, str | None]:
    """Return the split of each listed photo; refuse a photo in two lists."""
    found: dict[str, tuple[str, Path]] = {}
    for path in flickr_files(config):
        if listed := _LISTED.fullmatch(path.name):
            for name in filter(None, (line.text.strip() for line in read_lines(path))):
                split, other = found.setdefault(_stem(name), (listed[1], path))
                if split != listed[1]:
                    raise InputError(f"{name} is in {other} and in {path}: remove it from one of them")
    return {photo: normalised_split(split) for photo, (split, _) in found.items()}


def _after_header(path: Path) -> Iterator[Line]:
    """Return the lines after the header, which is the first line that is not blank."""
    lines = read_lines(path)
    _ = next((line for line in lines if line.text.strip()), None)
    return lines


def _matched(path: Path, lines: Iterator[Line], layout: str, *patterns: re.Pattern[str]) -> Records:
    for line in lines:
        location = Location(str(path), line.number, line.text)
        found = next((match for pattern in patterns if (match := pattern.fullmatch(line.text))), None)
        if line.trouble:
            yield location, line.trouble
        elif found:
            yield location, _caption(found["name"].strip(), str(int(found["index"])), found["caption"])
        elif line.text:
            yield location, Trouble("malformed_row", f"not {layout}")


def _caption(name: str, caption_key: str, caption: str) -> Candidate:
    return Candidate(sample_key=_stem(name), caption_key=caption_key, path=name, caption=caption, lang="en")


def _stem(name: str) -> str:
    """Return the id of a photo: its file name without folder and suffix."""
    return name.rpartition("/")[2].rpartition(".")[0] or name


def _read_table(path: Path) -> Records:
    """Yield records of `image,caption`; the key of a caption is its index among the captions of its image.

    An unquoted caption may contain commas: all after the first comma is the caption.
    """

    def starts_row(cells: list[str]) -> bool:
        return len(cells) == 2 and cells[0].lower().endswith((".jpg", ".jpeg", ".png"))

    previous, index = "", 0
    for record in read_records(_after_header(path), delimiter=",", num_cells=2, starts_row=starts_row):
        location, cells, trouble = Location(str(path), record.line, record.text), record.cells, record.trouble
        if not cells and trouble and trouble.reason == "malformed_row" and '"' not in record.text:
            name, comma, caption = record.text.partition(",")
            cells, trouble = [name, caption], None if comma else trouble
        if trouble:
            yield location, trouble
            continue
        name, caption = cells[0].strip(), cells[1]
        index = index + 1 if name == previous else 0
        previous = name
        yield location, _caption(name, str(index), caption)


def _read_karpathy(path: Path) -> Records:
    for location, found in karpathy_sentences(path, open_object(path, expected=_EXPECTED, names=LISTS)):
        if isinstance(found, Candidate):
            found.sample_key, found.url = _stem(found.path or ""), None
        yield location, found

"""Reader of Flickr8k and Flickr30k: captions of images in a folder or an archive.

The content of a file decides its format, in the same way for both datasets:
  tokens      `name.jpg#0<TAB>caption`             Flickr8k.token.txt, results_20130124.token
  results     `image_name| comment_number| comment`   results.csv of Flickr30k
  captions    `image,caption`, quoted as CSV       captions.txt of repackaged copies
  Karpathy    JSON, first character `{`            dataset_flickr8k.json, dataset_flickr30k.json
Flickr8k's official splits are lists of names in the folder of the captions: Flickr_8k.trainImages.txt, ...
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from data_catalog.errors import InputError, SettingsError
from data_catalog.settings import PATH
from data_catalog.sources.delimited import read_records
from data_catalog.sources.files import (
    FilesConfig,
    Line,
    Trouble,
    check_text_file,
    excerpt,
    head_lines,
    read_lines,
    upstream_files,
)
from data_catalog.sources.mscoco import karpathy_captions, open_captions
from data_catalog.sources.rows import Candidate, Location, Records, normalised_split

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

    EXPECTED_FILES: ClassVar = "at least one captions file of Flickr8k or Flickr30k"

    files: tuple[str, ...] = field(metadata=PATH)
    """Captions files. Flickr8k's split lists are read from the same folder."""
    images: str = field(metadata=PATH)
    """Folder, zip or tar of the images, or a glob of them."""

    def __post_init__(self) -> None:
        """Raise `SettingsError` for no files or no images."""
        FilesConfig.__post_init__(self)
        if not self.images:
            raise SettingsError("images must name the folder, zip or tar that contains the images")


def check_flickr(config: FlickrConfig) -> None:
    """Refuse a file that is incomplete, of an unknown format or without rows."""
    _listed_splits(config)
    for path in _captions_files(config):
        check_text_file(path, expected=_EXPECTED)
        reader = _reader_for(path)
        if next(reader(path), None) is None:
            raise InputError(f"{path} has a header but no rows: expected {_EXPECTED}")


def read_flickr(config: FlickrConfig) -> Records:
    """Yield a record for each caption (English), with the split of its photo if a list states one."""
    splits = _listed_splits(config)
    for location, found in read_flickr_captions(_captions_files(config)):
        if isinstance(found, Candidate):
            found.split = splits.get(found.sample_key) or found.split
        yield location, found


def read_flickr_captions(paths: Iterable[Path]) -> Records:
    """Yield a record for each caption of the files, in any of the formats."""
    for path in paths:
        yield from _reader_for(path)(path)


def flickr_files(config: FlickrConfig) -> list[Path]:
    """Return the files of the settings and the lists of splits in their folders, sorted by path."""
    named = upstream_files(config)
    return sorted({*named, *(found for path in named for found in path.parent.glob(_LISTS))}, key=str)


def _captions_files(config: FlickrConfig) -> list[Path]:
    found = [path for path in upstream_files(config) if not _LISTED.fullmatch(path.name)]
    if not found:
        raise InputError(f"files names lists of splits but no captions: add {_EXPECTED}")
    return found


def _listed_splits(config: FlickrConfig) -> dict[str, str | None]:
    """Return the split of each listed photo; refuse a photo in two lists."""
    found: dict[str, tuple[str, Path]] = {}
    for path in flickr_files(config):
        if listed := _LISTED.fullmatch(path.name):
            check_text_file(path, expected="a list of names of images")
            for line in read_lines(path):
                if not (name := line.text.strip()):
                    continue
                split, other = found.setdefault(_stem(name), (listed[1], path))
                if split != listed[1]:
                    raise InputError(f"{name} is in {other} and in {path}: remove it from one of them")
    return {photo: normalised_split(split) for photo, (split, _) in found.items()}


def _reader_for(path: Path) -> Callable[[Path], Records]:
    """Return the reader for a file, by its first lines."""
    lines = [line for line in head_lines(path) if line.text.strip()]
    first = lines[0].text if lines else ""
    if first.lstrip().startswith("{"):
        return _read_karpathy
    if _RESULTS_HEADER.match(first):
        return _read_results
    if first.replace(" ", "").lower() == _CAPTIONS_HEADER:
        return _read_captions
    if any(_TOKEN.fullmatch(line.text) for line in lines):
        return _read_tokens
    raise InputError(f"{path} is not {_EXPECTED}: its first line is {excerpt(first)[:200]!r}")


def _read_tokens(path: Path) -> Records:
    return _matched(path, read_lines(path), "name.jpg#number<TAB>caption", _TOKEN)


def _read_results(path: Path) -> Records:
    return _matched(path, _after_header(path), "image_name| comment_number| comment", _RESULT, _RESULT_UNDELIMITED)


def _after_header(path: Path) -> Iterator[Line]:
    """Return the lines after the header, which is the first line that is not blank."""
    lines = read_lines(path)
    for line in lines:
        if line.text.strip():
            break
    return lines


def _matched(path: Path, lines: Iterator[Line], layout: str, *patterns: re.Pattern[str]) -> Records:
    """Yield a record for each line, by the first pattern that it matches."""
    for line in lines:
        if line.text:
            found = next((match for pattern in patterns if (match := pattern.fullmatch(line.text))), None)
            location = Location(str(path), line.number, line.text)
            if line.trouble or found is None:
                yield location, line.trouble or Trouble("malformed_row", f"not {layout}")
            else:
                yield location, _caption(found["name"].strip(), str(int(found["index"])), found["caption"])


def _caption(name: str, caption_key: str | None, caption: str | None, split: str | None = None) -> Candidate:
    return Candidate(
        sample_key=_stem(name), caption_key=caption_key, path=name, caption=caption, lang="en", split=split
    )


def _stem(name: str) -> str:
    """Return the id of a photo: its file name without folder and suffix."""
    return name.rpartition("/")[2].rpartition(".")[0] or name


def _read_captions(path: Path) -> Records:
    """Yield records of `image,caption`; the key of a caption is its index among the captions of its image.

    An unquoted caption may contain commas: all after the first comma is the caption.
    """

    def starts_row(cells: list[str]) -> bool:
        return len(cells) == 2 and cells[0].lower().endswith((".jpg", ".jpeg", ".png"))

    previous, index = "", 0
    for record in read_records(_after_header(path), delimiter=",", num_cells=2, starts_row=starts_row):
        location, trouble = Location(str(path), record.line, record.text), record.trouble
        name, caption = record.cells or ("", "")
        is_plain = "," in record.text and '"' not in record.text
        if not record.cells and is_plain and trouble and trouble.reason == "malformed_row":
            name, _, caption = record.text.partition(",")
            trouble = None
        if trouble:
            yield location, trouble
            continue
        name = name.strip()
        index = index + 1 if name == previous else 0
        previous = name
        yield location, _caption(name, str(index), caption)


def _read_karpathy(path: Path) -> Records:
    document = open_captions(path, expected=_EXPECTED)
    for caption in karpathy_captions(path, document, expected=_EXPECTED):
        location = Location(str(path), caption.number, caption.raw)
        yield location, _caption(caption.filename, caption.caption_id, caption.text, caption.split)

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from data_catalog.errors import InputError, SettingsError
from data_catalog.settings import PATH
from data_catalog.sources.delimited import read_records
from data_catalog.sources.files import (
    FilesConfig,
    Line,
    check_text_file,
    excerpt,
    head_lines,
    read_lines,
    upstream_files,
)
from data_catalog.sources.image_files import check_images
from data_catalog.sources.mscoco import karpathy_captions, open_captions
from data_catalog.sources.rows import (
    Candidate,
    JudgedRow,
    Location,
    UpstreamRow,
    malformed_row,
    normalised_split,
    validate_row,
)

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
    """Raise `InputError` unless every file is complete and of a known format, and `images` can be opened."""
    check_images(config.images)
    _listed_splits(config)
    for path in _captions_files(config):
        check_text_file(path, expected=_EXPECTED)
        reader = _reader_for(path)
        if next(reader(path), None) is None:
            raise InputError(f"{path} has a header but no rows: expected {_EXPECTED}")


def read_flickr(config: FlickrConfig) -> Iterator[JudgedRow]:
    """Yield one row for each caption (English), with the split of its photo if a list states one."""
    splits = _listed_splits(config)
    for row in read_flickr_captions(_captions_files(config)):
        listed = splits.get(row.sample_key) if isinstance(row, UpstreamRow) else None
        yield replace(row, split=listed) if listed and isinstance(row, UpstreamRow) else row


def read_flickr_captions(paths: Iterable[Path]) -> Iterator[JudgedRow]:
    """Yield one row for each caption of the files, in any of the formats."""
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
    """Return the split of each listed photo. Raises `InputError` if a photo is in two lists."""
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


def _reader_for(path: Path) -> Callable[[Path], Iterator[JudgedRow]]:
    """Return the reader for a file, by its first lines. Raises `InputError` for an unknown format."""
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


def _read_tokens(path: Path) -> Iterator[JudgedRow]:
    for line in read_lines(path):
        if line.text:
            yield _line_row(path, line, _TOKEN.fullmatch(line.text), "name.jpg#number<TAB>caption")


def _read_results(path: Path) -> Iterator[JudgedRow]:
    for line in _after_header(path):
        if line.text:
            found = _RESULT.fullmatch(line.text) or _RESULT_UNDELIMITED.fullmatch(line.text)
            yield _line_row(path, line, found, "image_name| comment_number| comment")


def _after_header(path: Path) -> Iterator[Line]:
    """Return the lines after the header, which is the first line that is not blank."""
    lines = read_lines(path)
    for line in lines:
        if line.text.strip():
            break
    return lines


def _line_row(path: Path, line: Line, found: re.Match[str] | None, layout: str) -> JudgedRow:
    location = Location(str(path), line.number, line.text)
    if line.trouble:
        return malformed_row(location, *line.trouble)
    if found is None:
        return malformed_row(location, "malformed_row", f"not {layout}")
    return _flickr_row(location, found["name"].strip(), str(int(found["index"])), found["caption"])


def _flickr_row(
    location: Location, name: str, caption_key: str | None, caption: str | None, split: str | None = None
) -> JudgedRow:
    found = Candidate(
        sample_key=_stem(name), caption_key=caption_key, path=name, caption=caption, lang="en", split=split
    )
    return validate_row(location, found)


def _stem(name: str) -> str:
    """Return the id of a photo: its file name without folder and suffix."""
    return name.rpartition("/")[2].rpartition(".")[0] or name


def _read_captions(path: Path) -> Iterator[JudgedRow]:
    """Yield rows of `image,caption`; the key of a caption is its index among the captions of its image.

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
            yield malformed_row(location, *trouble)
            continue
        name = name.strip()
        index = index + 1 if name == previous else 0
        previous = name
        yield _flickr_row(location, name, str(index), caption)


def _read_karpathy(path: Path) -> Iterator[JudgedRow]:
    document = open_captions(path, expected=_EXPECTED)
    for caption in karpathy_captions(path, document, expected=_EXPECTED):
        location = Location(str(path), caption.number, caption.raw)
        yield _flickr_row(location, caption.filename, caption.caption_id, caption.text, caption.split)

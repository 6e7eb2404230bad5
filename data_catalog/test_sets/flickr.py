"""The test images of Flickr8k and Flickr30k: by a list of names or numbers beside the captions, or by Karpathy's JSON.

Which file is which is told by its first line: a name or number by itself (Flickr_8k.testImages.txt, the test.txt of
Flickr30k Entities) starts a list, "{" Karpathy's JSON; all others are captions as `sources.flickr` reads them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import InputError, SettingsError
from data_catalog.settings import PATH, how, path_setting
from data_catalog.sources.files import Held, check_text_file, first_text, read_lines, upstream_files
from data_catalog.sources.flickr import FlickrConfig, read_flickr
from data_catalog.sources.rows import MalformedRow, Origin, UpstreamRow, refuse
from data_catalog.test_sets.identities import photo_identities
from data_catalog.test_sets.images import TestSetRow, sightings
from data_catalog.test_sets.karpathy import karpathy_split_rows, require_splits

_EXPECTED = "a list of image names or photo numbers, captions (tokens, results.csv, captions.txt) or Karpathy's JSON"
_LISTED = re.compile(r"\d+(?:_[0-9a-f]+)?(?:\.jpe?g)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlickrTestConfig:
    """Files that tell the test images and their captions."""

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs, plain or gzipped, of lists of test images and captions files, or of Karpathy's JSON. Without
    captions files the images of the lists have no captions."""
    splits: tuple[str, ...] = ("test",)
    """Splits of Karpathy's JSON that are test images: "test", "val" and "train"."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, if they are here. Without it the set guards by identity and
    caption only."""
    num_images: int = how(0)
    """Images that the set must have; with another number the build is refused before it starts. 0 takes any number."""

    def __post_init__(self) -> None:
        """Refuse a test set without files or splits."""
        if not self.files:
            raise SettingsError(f"files must name at least one file: {_EXPECTED}")
        require_splits(self.splits)


def flickr_rows(config: FlickrTestConfig) -> Iterator[TestSetRow]:
    """Yield what the files say of each test image."""
    documents: list[Path] = []
    lists: list[Path] = []
    captions: list[Path] = []
    for path in upstream_files(config):
        check_text_file(path, expected=_EXPECTED)
        first = first_text(path)
        kind = documents if first.startswith("{") else lists if _LISTED.fullmatch(first) else captions
        kind.append(path)
    if captions and not lists:
        names = ", ".join(map(str, captions))
        raise InputError(f"files has captions ({names}) and nothing that tells the test images: add their list")
    for path in documents:
        yield from karpathy_split_rows(path, config.splits)
    if lists:
        yield from _listed_rows(lists, captions)


def _listed_rows(lists: Iterable[Path], captions: list[Path]) -> Iterator[TestSetRow]:
    listed: dict[str, tuple[Origin, str]] = {}
    for path in lists:
        for line in read_lines(path):
            origin, name = Origin(str(path), line.number, line.text), line.text.strip()
            if _LISTED.fullmatch(name):
                listed.setdefault(_photo(name), (origin, name))
            elif name:
                yield refuse(origin, *(line.trouble or ("image_missing", f"no name or number of a photo: {name}")))
    named = dict.fromkeys(listed, "")
    rows, held = [], Held("the captions")
    for row in _captions(captions):
        if isinstance(row, MalformedRow):
            yield row
        elif (photo := _photo(row.path or "")) in listed:
            named[photo] = named[photo] or row.path or ""
            held.add(row.caption, row.path)
            rows.append((photo, row))
    for photo, (origin, name) in listed.items():
        if captions and not named[photo]:
            yield refuse(origin, "caption_missing", f"no captions of {name}")
        named[photo] = named[photo] or (name if "." in name else f"{name}.jpg")
        yield from sightings(origin, named[photo], photo_identities(name), [])
    for photo, row in rows:
        origin = Origin(row.upstream_file, row.upstream_line)
        yield from sightings(origin, named[photo], photo_identities(named[photo]), [row.caption])


def _photo(name: str) -> str:
    """The number of a photo, by which lists and captions are joined; a name without one as it is."""
    return min(photo_identities(name), default=name)


def _captions(paths: list[Path]) -> Iterator[UpstreamRow | MalformedRow]:
    if paths:
        # The reader opens no image: it only wants to be told of a place.
        for row in read_flickr(FlickrConfig(files=tuple(map(str, paths)), images=str(paths[0].parent))):
            if isinstance(row, UpstreamRow | MalformedRow):
                yield row

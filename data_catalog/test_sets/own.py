"""Test sets of anybody's own: tables with columns that the settings name, and plain lists of images."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import SettingsError
from data_catalog.settings import PATH, how, path_setting
from data_catalog.sources.files import check_text_file, read_lines, upstream_files
from data_catalog.sources.pairs import is_image_name
from data_catalog.sources.rows import Origin, refuse
from data_catalog.sources.tables import FORMATS, Entry, Wanted, check_table, read_table
from data_catalog.sources.urls import is_web_url
from data_catalog.test_sets.identities import name_identities, url_identities, written_identities
from data_catalog.test_sets.images import TestSetRow, sightings

_SCHEMES = ("coco:", "flickr:", "wikimedia:", "openimages:", "url:")
_EXPECTED = "a list of file names, URLs or identities such as coco:391895, one a line"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsTestConfig:
    """Tables of your own test set, and what their columns are called; at least one column tells the image."""

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of CSV, TSV, JSON Lines or Parquet files. The name's suffix tells the format."""
    path_column: str | None = None
    """Column of the images' names inside `images`."""
    url_column: str | None = None
    """Column of the images' URLs."""
    identity_column: str | None = None
    """Column of identities such as "coco:391895", parted by spaces."""
    caption_column: str | None = None
    """Column of the captions; of JSON Lines also of lists of them."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, if they are here. Without it the set guards by identity and
    caption only."""
    num_images: int = how(0)
    """Images that the set must have; with another number the build is refused before it starts. 0 takes any number."""

    def __post_init__(self) -> None:
        """Refuse what names no files or no image."""
        if not self.files:
            raise SettingsError(f"files must name at least one file: {FORMATS}")
        if not (self.path_column or self.url_column or self.identity_column):
            raise SettingsError("one of path_column, url_column and identity_column must be set, to tell the images")
        if self.images and not self.path_column:
            raise SettingsError("images goes with path_column, which says what the images are called")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTestConfig:
    """Lists that hold the test images."""

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of text files, plain or gzipped: a file name, a URL or an identity in each line."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, if they are here. Without it the set guards by identity and
    caption only."""
    num_images: int = how(0)
    """Images that the set must have; with another number the build is refused before it starts. 0 takes any number."""

    def __post_init__(self) -> None:
        """Refuse a test set without files."""
        if not self.files:
            raise SettingsError(f"files must name at least one file: {_EXPECTED}")


def pairs_rows(config: PairsTestConfig) -> Iterator[TestSetRow]:
    """Yield what the tables say of each image."""
    image_columns = [name for name in (config.path_column, config.url_column, config.identity_column) if name]
    wanted = Wanted(
        required=[*image_columns, *([config.caption_column] if config.caption_column else [])],
        image_column=image_columns[0],
        is_image=_is_image,
    )
    for path in upstream_files(config):
        check_table(path, wanted)
        for entry in read_table(path, wanted):
            yield from _pair_rows(Origin(str(path), entry.line, entry.raw), entry, config)


def _pair_rows(origin: Origin, entry: Entry, config: PairsTestConfig) -> Iterator[TestSetRow]:
    if entry.trouble:
        yield refuse(origin, *entry.trouble)
        return
    name = _text(entry, config.path_column)
    url = _text(entry, config.url_column)
    written = _text(entry, config.identity_column)
    identities = written_identities(written)
    if identities is None:
        yield refuse(origin, "malformed_row", f"no identities: {written}; expected such as coco:391895")
        return
    if url and not is_web_url(url):
        yield refuse(origin, "image_missing", f"not an http or https URL: {url}")
        return
    identities |= (name_identities(name) if name else frozenset()) | (url_identities(url) if url else frozenset())
    yield from sightings(origin, name or url or written, identities, _entry_captions(entry, config))


def _text(entry: Entry, column: str | None) -> str:
    value = entry.values.get(column) if column else None
    return value.strip() if isinstance(value, str) else ""


def _entry_captions(entry: Entry, config: PairsTestConfig) -> list[object]:
    if not config.caption_column:
        return []
    value = entry.values.get(config.caption_column)
    return value if isinstance(value, list) else [value]


def _is_image(text: str) -> bool:
    return text.startswith(_SCHEMES) or is_web_url(text) or is_image_name(text)


def list_rows(config: ListTestConfig) -> Iterator[TestSetRow]:
    """Yield the images of the lists."""
    for path in upstream_files(config):
        check_text_file(path, expected=_EXPECTED)
        yield from _listed(path)


def _listed(path: Path) -> Iterator[TestSetRow]:
    for line in read_lines(path):
        origin, text = Origin(str(path), line.number, line.text), line.text.strip()
        if line.trouble:
            yield refuse(origin, *line.trouble)
        elif text.startswith(_SCHEMES):
            identities = written_identities(text)
            if identities is None:
                yield refuse(origin, "malformed_row", f"no identities: {text}; expected such as coco:391895")
            else:
                yield from sightings(origin, text, identities, [])
        elif text:
            yield from sightings(origin, text, url_identities(text) if is_web_url(text) else name_identities(text), [])

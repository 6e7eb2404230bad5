"""Crossmodal-3600: 3,600 images of Open Images with captions in 36 languages, one JSON object a line.

Source: Thapliyal et al., Crossmodal-3600 (2022). A line of captions.jsonl is `{"image/key": "000411001ff7dd4f",
"image/locale": "bn", "bn": {"caption": [...], "caption/tokenized": [...]}, "it": {...}, ...}`. The table of
attributions that comes with the images, in the form of Open Images, tells where on Flickr they are.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import InputError, SettingsError
from data_catalog.settings import PATH, how, path_setting
from data_catalog.sources.files import upstream_files
from data_catalog.sources.rows import Origin, refuse
from data_catalog.sources.tables import Wanted, check_table, read_table
from data_catalog.test_sets.identities import canonical_identities
from data_catalog.test_sets.images import TestSetRow, sightings

_KEY_FIELD = "image/key"
_KEY = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)
_URL_COLUMNS = ("OriginalURL", "OriginalLandingURL")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossmodalConfig:
    """Files of Crossmodal-3600, languages, and where the images are."""

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs, plain or gzipped, of captions.jsonl, and perhaps of the CSV of attributions (columns ImageID,
    OriginalURL, OriginalLandingURL)."""
    languages: tuple[str, ...] = ()
    """Codes of the languages that are read, as the file has them ("it", "quz"). Left out of a recipe, it is the target
    language; an empty list takes all."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, if they are here, named `<key>.jpg`. Without it the set
    guards by identity and caption only."""
    num_images: int = how(3600)
    """Images that the set must have; with another number the build is refused before it starts. 0 takes any number."""

    def __post_init__(self) -> None:
        """Refuse a test set without files."""
        if not self.files:
            raise SettingsError("files must name Crossmodal-3600's captions.jsonl")


def crossmodal_rows(config: CrossmodalConfig) -> Iterator[TestSetRow]:
    """Yield what the files say of each image."""
    paths = upstream_files(config)
    tables = [path for path in paths if path.name.lower().removesuffix(".gz").endswith(".csv")]
    captions = [path for path in paths if path not in tables]
    if not captions:
        raise InputError(f"files has no captions.jsonl, only {', '.join(map(str, tables))}")
    seen: set[str] = set()
    languages: set[str] = set()
    for path in captions:
        yield from _captions_rows(path, config.languages, seen, languages)
    if missing := sorted({*config.languages} - languages):
        raise InputError(f"no image has captions in {', '.join(missing)}: found are {', '.join(sorted(languages))}")
    for path in tables:
        yield from _attribution_rows(path, seen)


def _captions_rows(path: Path, wanted: tuple[str, ...], seen: set[str], languages: set[str]) -> Iterator[TestSetRow]:
    columns = Wanted(required=[_KEY_FIELD], image_column=_KEY_FIELD, is_image=_is_key)
    check_table(path, columns)
    for entry in read_table(path, columns):
        origin = Origin(str(path), entry.line, entry.raw)
        key = entry.values.get(_KEY_FIELD)
        if entry.trouble or not isinstance(key, str) or not _is_key(key):
            yield refuse(origin, *(entry.trouble or ("image_missing", f"no key of 16 hexadecimal digits: {key!r}")))
            continue
        seen.add(key.lower())
        found = _captions(entry.values)
        languages.update(found)
        chosen = [caption for language, texts in found.items() if not wanted or language in wanted for caption in texts]
        yield from _image_rows(origin, key.lower(), frozenset(), chosen)


def _captions(values: Mapping[str, object]) -> dict[str, list[object]]:
    """Captions by language: whatever field is an object with a list called "caption"."""
    found: dict[str, list[object]] = {}
    for language, value in values.items():
        captions = value.get("caption") if isinstance(value, dict) else None
        if captions is not None:
            found[language] = captions if isinstance(captions, list) else [captions]
    return found


def _attribution_rows(path: Path, seen: set[str]) -> Iterator[TestSetRow]:
    """Flickr's addresses of images that have captions; the table may have others."""
    columns = Wanted(required=["ImageID", *_URL_COLUMNS], image_column="ImageID", is_image=_is_key)
    check_table(path, columns)
    for entry in read_table(path, columns):
        if entry.trouble:
            yield refuse(Origin(str(path), entry.line, entry.raw), *entry.trouble)
            continue
        key = str(entry.values.get("ImageID")).strip().lower()
        if key in seen:
            url, page = (str(entry.values.get(column) or "").strip() for column in _URL_COLUMNS)
            identities = canonical_identities(
                source_kind="crossmodal3600", sample_id=key, url=url or None, path=None, page_url=page or None
            )
            yield from _image_rows(Origin(str(path), entry.line, entry.raw), key, identities, [])


def _image_rows(origin: Origin, key: str, identities: frozenset[str], captions: list[object]) -> Iterator[TestSetRow]:
    return sightings(origin, f"{key}.jpg", identities | {f"openimages:{key}"}, captions)


def _is_key(text: str) -> bool:
    return _KEY.fullmatch(text.strip()) is not None

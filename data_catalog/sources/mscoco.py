"""MSCOCO captions: the JSON of 2014 and 2017, MSCOCO-IT's Italian captions in the same shape, and Karpathy's splits.

Images of MSCOCO have licences of their own, by a table in the JSON; the licence of the row is that of its image.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_catalog.errors import ConfigError
from data_catalog.sources.admission import Origin, admit, refuse
from data_catalog.sources.files import load_json, upstream_files
from data_catalog.sources.image_files import check_images
from data_catalog.sources.json_fields import describe, id_field, records_of, text_field
from data_catalog.sources.karpathy import KarpathyCaption, check_karpathy, karpathy_captions
from data_catalog.sources.rows import SourceRow
from data_catalog.sources.urls import flickr_page

_EXPECTED = "a COCO captions JSON ('images' and 'annotations' with 'caption') or Karpathy's dataset_coco.json"
_IMAGE_HOST = "http://images.cocodataset.org"
_DEAD_HOST = "mscoco.org/images/"  # the `coco_url` of the first 2014 files
_SPLIT_AND_YEAR = re.compile(r"(train|val|test)(20\d\d)")
_LEGACY_NAME = re.compile(r"COCO_(train|val|test)(20\d\d)_\d{12}\.jpg")
_BARE_NAME = re.compile(r"\d{12}\.jpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class MscocoConfig:
    """Which captions files, and where the images are.

    Args:
        files: paths or globs of JSON files, plain or gzipped.
        images: folder, zip or tar, or a glob of them, that holds the images by `file_name`; none means by URL.
    """

    files: tuple[str, ...]
    images: str | None = None

    def __post_init__(self) -> None:
        """Refuse a source without files."""
        if not self.files:
            raise ConfigError("files must name at least one COCO captions JSON")


class _Image(NamedTuple):
    """What the rows of one image share."""

    url: str | None
    path: str | None
    split: str | None
    license: str | None
    page_url: str | None


def check_mscoco(config: MscocoConfig) -> None:
    """Raise ConfigError unless every file is whole and of a known shape, and `images`, if given, can be opened."""
    if config.images is not None:
        check_images(config.images)
    for path in upstream_files(config):
        _load(path)


def read_mscoco(config: MscocoConfig) -> Iterator[SourceRow]:
    """Yield what becomes of every annotation of MSCOCO (English)."""
    return _read(config, "en")


def read_mscoco_it(config: MscocoConfig) -> Iterator[SourceRow]:
    """Yield what becomes of every annotation of MSCOCO-IT (Italian, by people or machine-translated and checked)."""
    return _read(config, "it")


def _read(config: MscocoConfig, lang: str) -> Iterator[SourceRow]:
    local = config.images is not None
    for path in upstream_files(config):
        document = _load(path)
        if "annotations" in document:
            yield from _read_annotations(path, document, lang, local=local)
        else:
            for caption in karpathy_captions(document):
                yield _karpathy_row(path, caption, lang, local=local)


def _load(path: Path) -> Mapping[str, object]:
    document = load_json(path, expected=_EXPECTED)
    if not isinstance(document, dict) or records_of(document.get("images")) is None:
        raise ConfigError(f"{path} is {describe(document)}: expected {_EXPECTED}")
    if "annotations" not in document:
        check_karpathy(path, document, expected=_EXPECTED)
        return document
    annotations = records_of(document["annotations"])
    if not annotations:
        raise ConfigError(f"{path} has no annotations: expected {_EXPECTED}")
    if not any("caption" in annotation for annotation in annotations):
        found = ", ".join(annotations[0]) or "none"
        raise ConfigError(f"{path} has annotations without captions (keys: {found}): expected {_EXPECTED}")
    _licences(path, document)
    return document


def _read_annotations(path: Path, document: Mapping[str, object], lang: str, *, local: bool) -> Iterator[SourceRow]:
    licences = _licences(path, document)
    images = {
        image_id: _image(path, entry, licences, local=local)
        for entry in records_of(document["images"]) or []
        if (image_id := id_field(entry, "id")) is not None
    }
    for number, annotation in enumerate(records_of(document["annotations"]) or [], start=1):
        yield _row(Origin(str(path), number, repr(annotation)), annotation, images, lang)


def _licences(path: Path, document: Mapping[str, object]) -> dict[str, str | None]:
    """Return the words of each licence by its id; one without id is no image's."""
    licences: dict[str, str | None] = {}
    for entry in records_of(document.get("licenses")) or []:
        licence_id = id_field(entry, "id")
        if licence_id in licences:
            raise ConfigError(f"{path} has several licences with the id {licence_id}: correct it or download it again")
        if licence_id is not None:
            licences[licence_id] = _licence_text(entry)
    return licences


def _row(origin: Origin, annotation: Mapping[str, object], images: Mapping[str, _Image], lang: str) -> SourceRow:
    image_id, caption = id_field(annotation, "image_id"), annotation.get("caption")
    if caption is not None and not isinstance(caption, str):
        return refuse(origin, "malformed_row", f"the caption is {describe(caption)}")
    image = images.get(image_id) if image_id is not None else None
    if image_id is None or image is None:
        return refuse(origin, "image_missing", f"no image has the id {image_id}" if image_id else "no image_id")
    return admit(
        origin,
        sample_key=image_id,
        caption_key=id_field(annotation, "id"),
        caption=caption,
        lang=lang,
        **image._asdict(),
    )


def _image(path: Path, entry: Mapping[str, object], licences: Mapping[str, str | None], *, local: bool) -> _Image:
    name, coco_url = text_field(entry, "file_name"), text_field(entry, "coco_url")
    if coco_url is not None and _DEAD_HOST in coco_url:
        coco_url = None
    place = _place(name, coco_url, path.name)
    return _Image(
        url=None if local else coco_url or _image_url(name, place),
        path=name if local else None,
        split=place[0] if place else None,
        license=licences.get(id_field(entry, "license") or ""),
        page_url=flickr_page(text_field(entry, "flickr_url") or text_field(entry, "url")),
    )


def _place(name: str | None, coco_url: str | None, json_name: str) -> tuple[str, str] | None:
    """Split and year of an image, by the first that tells: its file name, its URL, the name of the JSON file."""
    for text in (name, coco_url, json_name):
        if text and (found := _SPLIT_AND_YEAR.search(text)):
            return found.group(1), found.group(2)
    return None


def _image_url(name: str | None, place: tuple[str, str] | None) -> str | None:
    """The URL that MSCOCO's own naming gives a file name."""
    if name and (found := _LEGACY_NAME.fullmatch(name)):
        return f"{_IMAGE_HOST}/{found.group(1)}{found.group(2)}/{name}"
    if name and place and _BARE_NAME.fullmatch(name):
        return f"{_IMAGE_HOST}/{place[0]}{place[1]}/{name}"
    return None


def _licence_text(entry: Mapping[str, object]) -> str | None:
    name, url = text_field(entry, "name"), text_field(entry, "url")
    return f"{name} ({url})" if name and url else name or url


def _karpathy_row(path: Path, caption: KarpathyCaption, lang: str, *, local: bool) -> SourceRow:
    return admit(
        Origin(str(path), caption.number, caption.raw),
        sample_key=caption.coco_id or caption.filename,
        caption_key=caption.caption_id,
        url=None if local else _image_url(caption.filename, _place(caption.filename, None, "")),
        path=caption.filename if local else None,
        caption=caption.text,
        lang=lang,
        split=caption.split,
    )

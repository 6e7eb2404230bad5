"""Test sets in the JSON of COCO captions: MSCOCO's own, MSCOCO-IT's, and any other in that shape."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import InputError, SettingsError
from data_catalog.settings import PATH, how, path_setting
from data_catalog.sources.files import Held, upstream_files
from data_catalog.sources.json_documents import describe, id_field, missing_id, open_json, records_of, text_field
from data_catalog.sources.rows import Origin, refuse
from data_catalog.test_sets.identities import name_identities, url_identities
from data_catalog.test_sets.images import TestSetRow, sightings

_EXPECTED = "a COCO captions JSON ('images' with 'id' and 'file_name', 'annotations' with 'caption')"
# `url` is what MSCOCO-IT and the first files of 2014 call `flickr_url`.
_URL_FIELDS = ("coco_url", "flickr_url", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoTestConfig:
    """Files that hold the test set: all of their images are test images."""

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of JSON files, plain or gzipped. One without `annotations` has images without captions."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, if they are here, named as `file_name` says. Without it the
    set guards by identity and caption only."""
    num_images: int = how(0)
    """Images that the set must have; with another number the build is refused before it starts. 0 takes any number."""

    def __post_init__(self) -> None:
        """Refuse a test set without files."""
        if not self.files:
            raise SettingsError("files must name at least one COCO captions JSON")


def coco_rows(config: CocoTestConfig) -> Iterator[TestSetRow]:
    """Yield what the files say of each image, then each caption."""
    for path in upstream_files(config):
        document = _load(path)
        names: dict[str, tuple[str, frozenset[str]]] = {}
        held = Held(path)
        for number, image in enumerate(records_of(document["images"]) or (), start=1):
            yield from _image_rows(Origin(str(path), number, repr(image)), image, names, held)
        for number, annotation in enumerate(records_of(document.get("annotations")) or (), start=1):
            yield from _caption_rows(Origin(str(path), number, repr(annotation)), annotation, names)


def _load(path: Path) -> Mapping[str, object]:
    document = open_json(path, expected=_EXPECTED)
    if not isinstance(document, dict) or not records_of(document.get("images")):
        raise InputError(f"{path} is {describe(document)} and lists no images: expected {_EXPECTED}")
    annotations = records_of(document.get("annotations", []))
    if annotations is None or (annotations and not any("caption" in one for one in annotations)):
        raise InputError(f"{path} has annotations without captions: expected {_EXPECTED}")
    return document


def _image_rows(
    origin: Origin, image: Mapping[str, object], names: dict[str, tuple[str, frozenset[str]]], held: Held
) -> Iterator[TestSetRow]:
    image_id, name = id_field(image, "id"), text_field(image, "file_name")
    if image_id is None or name is None:
        yield refuse(origin, "image_missing", "an image without id or file_name")
        return
    urls = (text_field(image, field) for field in _URL_FIELDS)
    identities = name_identities(name).union(*(url_identities(url) for url in urls if url))
    held.add(name, *identities)
    if names.setdefault(image_id, (name, identities))[0] != name:
        raise InputError(
            f"{origin.upstream_file} has several images with the id {image_id}: correct it or download it again"
        )
    yield from sightings(origin, name, identities, [])


def _caption_rows(
    origin: Origin, annotation: Mapping[str, object], names: Mapping[str, tuple[str, frozenset[str]]]
) -> Iterator[TestSetRow]:
    image_id = id_field(annotation, "image_id")
    if image_id is None or image_id not in names:
        found = missing_id(annotation, "image_id") if image_id is None else f"no image has the id {image_id}"
        yield refuse(origin, "image_missing", found)
        return
    name, identities = names[image_id]
    yield from sightings(origin, name, identities, [annotation.get("caption")])

"""Reader of MSCOCO captions: the JSON of 2014 and 2017, MSCOCO-IT (same format, in Italian) and Karpathy's splits.

Each image of MSCOCO has its own license, from a table in the JSON; a row has the license of its image. Karpathy's
`dataset_*.json` (Karpathy and Fei-Fei, Deep Visual-Semantic Alignments, 2015) also exists for Flickr8k and Flickr30k.
It contains images with their sentences and a split. MSCOCO's "restval" images are training images.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from data_catalog.errors import InputError
from data_catalog.schema import NATIVE
from data_catalog.settings import PATH, path_setting
from data_catalog.sources.files import FilesConfig, Trouble, upstream_files
from data_catalog.sources.json_documents import (
    describe,
    id_field,
    missing_id,
    names_of,
    open_json,
    records_of,
    text_field,
)
from data_catalog.sources.origins import CORRECTED, MACHINE_TRANSLATION, CaptionOrigin
from data_catalog.sources.rows import Candidate, Location, Records
from data_catalog.sources.urls import flickr_page

_EXPECTED = "a COCO captions JSON ('images' and 'annotations' with 'caption') or Karpathy's dataset_coco.json"
_LISTS = ("images", "annotations", "licenses", "sentences", "caption")  # a caption may be a list by mistake
_IMAGE_HOST = "http://images.cocodataset.org"
_DEAD_HOST = "mscoco.org/images/"  # the `coco_url` of the first 2014 files
_SPLIT_AND_YEAR = re.compile(r"(train|val|test)(20\d\d)")
_LEGACY_NAME = re.compile(r"COCO_(train|val|test)(20\d\d)_\d{12}\.jpg")
_NUMBERED_NAME = re.compile(r"(?:.*/)?(?:COCO_[a-z]+20\d\d_)?(\d{12}\.jpg)", re.DOTALL)
_BARE_NAME = re.compile(r"\d{12}\.jpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class MscocoConfig(FilesConfig):
    """Captions files of MSCOCO, and the location of the images."""

    EXPECTED_FILES: ClassVar = "at least one COCO captions JSON"

    files: tuple[str, ...] = field(metadata=PATH)
    """JSON files."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, named as in `file_name`. By default images are fetched by
    URL."""
    origin: str | None = None
    """Origin of the captions: "native", "human_translation", "machine_translation" or "machine_translation_corrected".
    By default the source's own; for MSCOCO-IT, the file names decide."""
    translator: str | None = None
    """Person, service or program that translated the captions."""

    def __post_init__(self) -> None:
        """Raise `SettingsError` for no files, or for settings that contradict each other."""
        FilesConfig.__post_init__(self)
        _ = mscoco_origin(self)


class _Image(NamedTuple):
    """Fields that all rows of one image share."""

    url: str | None
    path: str | None
    split: str | None
    license: str | None
    page_url: str | None


class KarpathyCaption(NamedTuple):
    """A sentence about an image; `number` counts all sentences of the file from 1."""

    number: int
    filename: str
    coco_id: str | None
    caption_id: str | None
    text: str | None
    split: str | None
    raw: str


def open_captions(path: Path, *, expected: str) -> Mapping[str, object]:
    """Read a COCO or Karpathy document; refuse one without a list of images."""
    document = open_json(path, expected=expected, names=_LISTS)
    if not isinstance(document, dict) or records_of(document.get("images")) is None:
        raise InputError(f"{path} is {describe(document)} and lists no images: expected {expected}")
    return document


def karpathy_captions(path: Path, document: Mapping[str, object], *, expected: str) -> Iterator[KarpathyCaption]:
    """Yield every sentence; an image without sentences yields one caption without text, so that it is counted.

    A document in which no image has a file name and sentences is refused.
    """
    images = records_of(document["images"]) or []
    if not any("filename" in image and records_of(image.get("sentences")) for image in images):
        found = f"keys: {names_of(images[0])}" if images else "it lists no images"
        raise InputError(f"{path} has images without 'filename' and 'sentences' ({found}): expected {expected}")
    number = 0
    for image in images:
        split = text_field(image, "split")
        for sentence in records_of(image.get("sentences")) or ({},):
            number += 1
            yield KarpathyCaption(
                number=number,
                filename=text_field(image, "filename") or "",
                coco_id=id_field(image, "cocoid"),
                caption_id=id_field(sentence, "sentid"),
                text=text_field(sentence, "raw"),
                split="train" if split == "restval" else split or None,
                raw=repr(sentence),
            )


def check_mscoco(config: MscocoConfig) -> None:
    """Refuse a file that is incomplete or of an unknown format."""
    for path in upstream_files(config):
        _licenses(path, _load(path))


def mscoco_origin(config: MscocoConfig, upstream_file: str = "") -> CaptionOrigin:
    """Return the origin of MSCOCO captions: native, unless the settings state another."""
    return CaptionOrigin(origin=config.origin or NATIVE, translator=config.translator)


def mscoco_it_origin(config: MscocoConfig, upstream_file: str) -> CaptionOrigin:
    """Return the origin of MSCOCO-IT captions, by the settings, else by the name of the file."""
    return mscoco_origin(config) if config.origin else origin_by_name(upstream_file)


def origin_by_name(upstream_file: str) -> CaptionOrigin:
    """Return the origin of a file by MSCOCO-IT's README: translated with Bing; people corrected "_validated" files."""
    is_corrected = "_validated" in Path(upstream_file).name
    return CaptionOrigin(origin=CORRECTED if is_corrected else MACHINE_TRANSLATION, translator="Bing")


def read_mscoco(config: MscocoConfig, lang: str = "en") -> Records:
    """Yield a record for each annotation; captions are in `lang`."""
    names, local = _FileNames(), config.images is not None
    for path in upstream_files(config):
        yield from _read_document(path, lang, names, local=local)


def _read_document(path: Path, lang: str, names: "_FileNames", *, local: bool) -> Records:
    document = _load(path)
    if "annotations" in document:
        yield from _read_annotations(path, document, lang, names, local=local)
        return
    for caption in karpathy_captions(path, document, expected=_EXPECTED):
        location = Location(str(path), caption.number, caption.raw)
        name, image_id = caption.filename, caption.coco_id
        if image_id is not None and not names.is_consistent(image_id, name):
            yield location, Trouble("image_missing", f"several images have the id {image_id}")
            continue
        found = Candidate(
            sample_key=image_id or name,
            caption_key=caption.caption_id,
            url=None if local else _image_url(name, _split_and_year(name, None, "")),
            path=name if local else None,
            caption=caption.text,
            lang=lang,
            split=caption.split,
        )
        yield location, found


def _load(path: Path) -> Mapping[str, object]:
    document = open_captions(path, expected=_EXPECTED)
    if "annotations" not in document:
        next(karpathy_captions(path, document, expected=_EXPECTED))
        return document
    annotations = records_of(document["annotations"])
    if not annotations:
        raise InputError(f"{path} has no annotations: expected {_EXPECTED}")
    if not any("caption" in annotation for annotation in annotations):
        found = f"keys: {names_of(annotations[0])}"
        raise InputError(f"{path} has annotations without captions ({found}): expected {_EXPECTED}")
    return document


class _FileNames:
    """File name of the image of each id, across files: two pictures with one id must not become one sample."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def is_consistent(self, image_id: str, name: str | None) -> bool:
        """Return whether a name equals the first name of its id; the formats of 2014 and 2017 count as equal."""
        found = _NUMBERED_NAME.fullmatch(name or "")
        name = found[1] if found else name or ""
        return self._names.setdefault(image_id, name) == name


def _read_annotations(
    path: Path, document: Mapping[str, object], lang: str, names: _FileNames, *, local: bool
) -> Records:
    licenses = _licenses(path, document)
    images: dict[str, _Image | None] = {}
    for entry in records_of(document["images"]) or ():
        if (image_id := id_field(entry, "id")) is not None:
            image = _image(path, entry, licenses, local=local)
            is_one = names.is_consistent(image_id, text_field(entry, "file_name") or image.url)
            images[image_id] = image if is_one and images.get(image_id, image) == image else None
    for number, annotation in enumerate(records_of(document["annotations"]) or (), start=1):
        yield Location(str(path), number, repr(annotation)), _record(annotation, images, lang)


def _licenses(path: Path, document: Mapping[str, object]) -> dict[str, str | None]:
    """Return the text of each license by id; a license without id applies to no image."""
    licenses: dict[str, str | None] = {}
    for entry in records_of(document.get("licenses")) or ():
        license_id = id_field(entry, "id")
        if license_id in licenses:
            raise InputError(
                f"{path} has several licenses with the id {license_id}: correct the file or download it again"
            )
        if license_id is not None:
            name, url = text_field(entry, "name"), text_field(entry, "url")
            licenses[license_id] = f"{name} ({url})" if name and url else name or url
    return licenses


def _record(annotation: Mapping[str, object], images: Mapping[str, _Image | None], lang: str) -> Candidate | Trouble:
    image_id, caption = id_field(annotation, "image_id"), annotation.get("caption")
    if caption is not None and not isinstance(caption, str):
        return Trouble("malformed_row", f"the caption is {describe(caption)}")
    if image_id is None:
        return Trouble("image_missing", missing_id(annotation, "image_id"))
    image = images.get(image_id)
    if image is None:
        how_many = "several images have" if image_id in images else "no image has"
        return Trouble("image_missing", f"{how_many} the id {image_id}")
    caption_key = id_field(annotation, "id")
    return Candidate(sample_key=image_id, caption_key=caption_key, caption=caption, lang=lang, **image._asdict())


def _image(path: Path, entry: Mapping[str, object], licenses: Mapping[str, str | None], *, local: bool) -> _Image:
    name, coco_url = text_field(entry, "file_name"), text_field(entry, "coco_url")
    if coco_url is not None and _DEAD_HOST in coco_url:
        coco_url = None
    place = _split_and_year(name, coco_url, path.name)
    return _Image(
        url=None if local else coco_url or _image_url(name, place),
        path=name if local else None,
        split=place[0] if place else None,
        license=licenses.get(id_field(entry, "license") or ""),
        page_url=flickr_page(text_field(entry, "flickr_url") or text_field(entry, "url")),
    )


def _split_and_year(name: str | None, coco_url: str | None, json_name: str) -> tuple[str, str] | None:
    """Return split and year of an image, from the first that has them: file name, URL, name of the JSON file."""
    for text in (name, coco_url, json_name):
        if text and (found := _SPLIT_AND_YEAR.search(text)):
            return found.group(1), found.group(2)
    return None


def _image_url(name: str | None, place: tuple[str, str] | None) -> str | None:
    """Return the URL of a file name on MSCOCO's server, or None for other names."""
    if name and (found := _LEGACY_NAME.fullmatch(name)):
        return f"{_IMAGE_HOST}/{found.group(1)}{found.group(2)}/{name}"
    if name and place and _BARE_NAME.fullmatch(name):
        return f"{_IMAGE_HOST}/{place[0]}{place[1]}/{name}"
    return None

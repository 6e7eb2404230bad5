"""Reader of MSCOCO captions: the JSON of 2014 and 2017, MSCOCO-IT (same format, in Italian) and Karpathy's splits.

Each image of MSCOCO has its own license, from a table in the JSON; a row has the license of its image. Karpathy's
`dataset_*.json` (Karpathy and Fei-Fei, Deep Visual-Semantic Alignments, 2015) also exists for Flickr8k and Flickr30k.
It contains images with their sentences and a split. MSCOCO's "restval" images are training images.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from data_catalog.base.errors import InputError
from data_catalog.base.settings import PATH, OneOf, path_setting
from data_catalog.rows.origins import CORRECTED, MACHINE_TRANSLATION, ORIGINS, CaptionOrigin
from data_catalog.rows.schema import NATIVE
from data_catalog.rows.urls import flickr_page
from data_catalog.sources.files import FilesConfig, Trouble, upstream_files
from data_catalog.sources.json_documents import describe, id_field, open_object, records_in, text_field
from data_catalog.sources.rows import Candidate, Location, OpenFiles, Records

LISTS = ("images", "annotations", "licenses", "sentences", "caption")  # a caption may be a list by mistake
_IMAGE_HOST = "http://images.cocodataset.org"
_DEAD_HOST = "mscoco.org/images/"  # the `coco_url` of the first 2014 files
_SPLIT_AND_YEAR = re.compile(r"(train|val|test)(20\d\d)")
_LEGACY_NAME = re.compile(r"COCO_(train|val|test)(20\d\d)_\d{12}\.jpg")
_NUMBERED_NAME = re.compile(r"(?:.*/)?(?:COCO_[a-z]+20\d\d_)?(\d{12}\.jpg)", re.DOTALL)
_BARE_NAME = re.compile(r"\d{12}\.jpg")

_SHOWN_ID_CHARS = 50

Image = TypeVar("Image")


@dataclass(frozen=True, slots=True, kw_only=True)
class MscocoConfig(FilesConfig):
    """Captions files of MSCOCO, and the location of the images."""

    EXPECTED: ClassVar = "a COCO captions JSON ('images', 'annotations' with 'caption') or Karpathy's dataset_coco.json"

    files: tuple[str, ...] = field(metadata=PATH)
    """JSON files."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, named as in `file_name`. By default images are fetched by
    URL."""
    origin: Annotated[str, OneOf(ORIGINS)] | None = None
    """Origin of the captions: "native", "human_translation", "machine_translation" or "machine_translation_corrected".
    By default the source's own; for MSCOCO-IT, the file names decide."""
    translator: str | None = None
    """Person, service or program that translated the captions."""

    def __post_init__(self) -> None:
        _ = mscoco_origin(self)


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


def read_mscoco(config: MscocoConfig, *, lang: str) -> OpenFiles:
    """Yield each file with a record for each annotation; captions are in `lang`."""
    names: dict[str, str] = {}  # of the image of each id, across files
    return ((path, _records(path, config, lang, names)) for path in upstream_files(config))


def _records(path: Path, config: MscocoConfig, lang: str, names: dict[str, str]) -> Records:
    document = open_object(path, expected=config.EXPECTED, names=LISTS)
    is_annotated, is_local = "annotations" in document, config.images is not None
    for location, found in _annotations(path, document) if is_annotated else karpathy_sentences(path, document):
        if isinstance(found, Candidate):
            name = found.path or found.url or ""
            numbered = _NUMBERED_NAME.fullmatch(name)  # the names of 2014 and 2017 count as equal
            name = numbered[1] if numbered else name
            if names.setdefault(found.sample_key, name) != name:  # two pictures must not become one sample
                yield location, Trouble("image_missing", f"several images have the id {found.sample_key}")
                continue
            found.lang = lang
            found.url = None if is_local else found.url
            found.path = found.path if is_local else None
        yield location, found


def karpathy_sentences(path: Path, document: Mapping[str, object]) -> Records:
    """Yield every sentence; an image without sentences yields one without text, so that it is counted.

    The sample key is MSCOCO's id, or the file name.
    """
    images = records_in(document, "images")
    sentences = ((image, sentence) for image in images for sentence in records_in(image, "sentences") or [{}])
    for number, (image, sentence) in enumerate(sentences, start=1):
        name, split = text_field(image, "filename") or "", text_field(image, "split")
        found = Candidate(
            sample_key=id_field(image, "cocoid") or name,
            caption_key=id_field(sentence, "sentid"),
            url=_image_url(name, _split_and_year(name)),
            path=name,
            caption=text_field(sentence, "raw"),
            lang="en",
            split="train" if split == "restval" else split or None,
        )
        yield Location(str(path), number, repr(sentence)), found


def _annotations(path: Path, document: Mapping[str, object]) -> Records:
    licenses = _licenses(path, document)
    images: dict[str, Candidate | None] = {}
    for entry in records_in(document, "images"):
        if (image_id := id_field(entry, "id")) is not None:
            image = _image(path, entry, image_id, licenses)
            images[image_id] = image if images.get(image_id, image) == image else None
    for number, annotation in enumerate(records_in(document, "annotations"), start=1):
        found, caption = image_of(annotation, images), annotation.get("caption")
        if caption is not None and not isinstance(caption, str):
            found = Trouble("malformed_row", f"the caption is {describe(caption)}")
        elif not isinstance(found, Trouble):
            found = replace(found, caption_key=id_field(annotation, "id"), caption=caption)
        yield Location(str(path), number, repr(annotation)), found


def image_of(annotation: Mapping[str, object], images: Mapping[str, Image | None]) -> Image | Trouble:
    """Return the image of an annotation, by its id; None in `images` is an id of several."""
    image_id = id_field(annotation, "image_id")
    if image_id is None:
        stated = annotation.get("image_id")
        instead = "" if stated is None else f" but {str(stated)[:_SHOWN_ID_CHARS]}"
        return Trouble("image_missing", f"no image_id{instead}")
    image = images.get(image_id)
    if image is None:
        how_many = "several images have" if image_id in images else "no image has"
        return Trouble("image_missing", f"{how_many} the id {image_id}")
    return image


def _licenses(path: Path, document: Mapping[str, object]) -> dict[str | None, str | None]:
    """Return the text of each license by id; a license without id applies to no image."""
    licenses: dict[str | None, str | None] = {}
    for entry in records_in(document, "licenses"):
        license_id, name, url = id_field(entry, "id"), text_field(entry, "name"), text_field(entry, "url")
        if license_id in licenses:
            raise InputError(
                f"{path} has several licenses with the id {license_id}: correct the file or download it again"
            )
        if license_id is not None:
            licenses[license_id] = f"{name} ({url})" if name and url else name or url
    return licenses


def _image(
    path: Path, entry: Mapping[str, object], image_id: str, licenses: Mapping[str | None, str | None]
) -> Candidate:
    """Return what all rows of an image share."""
    name, coco_url = text_field(entry, "file_name"), text_field(entry, "coco_url")
    if coco_url is not None and _DEAD_HOST in coco_url:
        coco_url = None
    place = _split_and_year(name, coco_url, path.name)
    return Candidate(
        sample_key=image_id,
        url=coco_url or _image_url(name, place),
        path=name,
        caption=None,
        lang=None,
        split=place[0] if place else None,
        license=licenses.get(id_field(entry, "license")),
        page_url=flickr_page(text_field(entry, "flickr_url") or text_field(entry, "url")),
    )


def _split_and_year(*texts: str | None) -> tuple[str, str] | None:
    """Return split and year of an image, from the first text that has them: file name, URL, name of the JSON file."""
    found = (_SPLIT_AND_YEAR.search(text) for text in texts if text)
    return next(((match[1], match[2]) for match in found if match), None)


def _image_url(name: str | None, place: tuple[str, str] | None) -> str | None:
    """Return the URL of a file name on MSCOCO's server, or None for other names."""
    if name and place and (_LEGACY_NAME.fullmatch(name) or _BARE_NAME.fullmatch(name)):
        return f"{_IMAGE_HOST}/{place[0]}{place[1]}/{name}"
    return None

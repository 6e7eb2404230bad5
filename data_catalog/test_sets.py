"""Test sets: upstream files that are read for the identities and captions of their images, by the readers of sources.

A kind of test set is a config dataclass, which reads its files: `TEST_SET_KINDS` has them by name.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from data_catalog.errors import InputError, SettingsError
from data_catalog.identities import (
    canonical_identities,
    name_identities,
    photo_identities,
    url_identities,
    written_identities,
)
from data_catalog.images.formats import is_image_name
from data_catalog.settings import PATH, how, path_setting
from data_catalog.sources.files import (
    FilesConfig,
    Held,
    Line,
    check_text_file,
    first_text,
    read_lines,
    text_trouble,
    upstream_files,
)
from data_catalog.sources.flickr import read_flickr_captions
from data_catalog.sources.image_files import check_images
from data_catalog.sources.json_documents import describe, id_field, missing_id, open_json, records_of, text_field
from data_catalog.sources.mscoco import check_karpathy, karpathy_captions
from data_catalog.sources.rows import MalformedRow, Origin, refuse
from data_catalog.sources.tables import FORMATS, Wanted, check_table, read_table
from data_catalog.sources.urls import is_web_url

logger = logging.getLogger(__name__)

_LOGGED_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TestImage:
    """One image of a test set.

    Args:
        name: its file name, or its URL where it has none: by this its pixels are found in the set's `images`.
        identities: all that it is known by, as `identities.canonical_identities` spells them; may be empty.
        captions: as the files have them, in their order and as often; in whatever languages the files are.
        caption_files: the file that each caption stands in.
    """

    name: str
    identities: frozenset[str]
    captions: tuple[str, ...]
    caption_files: tuple[str, ...] = ()


class Sighting(NamedTuple):
    """What one row says of one image; all rows of a `name` are one image."""

    name: str
    identities: frozenset[str]
    caption: str | None = None
    upstream_file: str = ""


TestSetRow = Sighting | MalformedRow


class GatheredImages(NamedTuple):
    """The images of a test set in the order of their files, and the rows that could not be read."""

    images: tuple[TestImage, ...]
    malformed: tuple[MalformedRow, ...]


def sightings(
    origin: Origin, name: str, identities: frozenset[str], captions: Iterable[object]
) -> Iterator[TestSetRow]:
    """Yield what one record is worth: its image, whose pixels and identities count even where a caption is broken.

    Args:
        origin: where the record stands.
        name: of the image, by which records are of the same one; a record without one, or with one that no file can
            have, is malformed as a whole.
        identities: of the image.
        captions: of the record, any number; one that is no text, blank or not storable is a malformed row of its own.
    """
    if trouble := text_trouble(name):
        yield refuse(origin, *trouble)
        return
    if not name.strip():
        yield refuse(origin, "image_missing", "no image is named")
        return
    yield Sighting(name, identities)
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            yield refuse(origin, "caption_missing", f"no caption: {caption!r}")
        elif trouble := text_trouble(caption):
            yield refuse(origin, *trouble)
        else:
            yield Sighting(name, identities, caption, origin.upstream_file)


def gather(rows: Iterable[TestSetRow]) -> GatheredImages:
    """Put the rows of each image together."""
    found: dict[str, tuple[set[str], list[str], list[str]]] = {}
    malformed: list[MalformedRow] = []
    held = Held("a test set")
    for row in rows:
        if isinstance(row, MalformedRow):
            held.add(row.detail, row.raw)
            malformed.append(row)
            continue
        held.add(row.name, row.caption, *(() if row.name in found else row.identities))
        identities, captions, files = found.setdefault(row.name, (set(), [], []))
        identities |= row.identities
        if row.caption is not None:
            captions.append(row.caption)
            files.append(row.upstream_file)
    images = (
        TestImage(name=name, identities=frozenset(identities), captions=tuple(captions), caption_files=tuple(files))
        for name, (identities, captions, files) in found.items()
    )
    return GatheredImages(tuple(images), tuple(malformed))


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSetConfig(FilesConfig):
    """Files of a test set, and where its images are."""

    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, named as in the files. Without it the set guards by identity
    and caption only."""
    num_images: int = how(0)
    """Number of images that the set must have, else the build is refused. 0 allows any number."""

    def rows(self) -> Iterator[TestSetRow]:
        """Yield what each row says of an image. Raises `InputError` where a file as a whole is damaged."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSetKind:
    """One family of test sets: what a recipe calls it, and the settings that read it."""

    kind: str
    config_type: type[TestSetConfig]

    def check(self, config: TestSetConfig) -> None:
        """Read the set and let go of it: what passes here can be read.

        Raises:
            InputError: files are missing, empty, damaged, of another kind or not as many images as the settings say,
                or `images` cannot be opened.
        """
        if config.images is not None:
            check_images(config.images)
        self.load(config)

    def upstream_files(self, config: TestSetConfig) -> list[Path]:
        """Return the files that rows are read from, sorted, without images."""
        return upstream_files(config)

    def load(self, config: TestSetConfig) -> GatheredImages:
        """Return all images of the set, and the rows that could not be read.

        Raises:
            InputError: as `check` does; a set is all of it or nothing.
        """
        gathered = gather(config.rows())
        names = ", ".join(config.files)
        if not gathered.images:
            first = f" ({_described(gathered.malformed[0])})" if gathered.malformed else ""
            raise InputError(f"the {self.kind} test set has no image in {names}{first}: name its files")
        if config.num_images and len(gathered.images) != config.num_images:
            counts = (
                f"{len(gathered.images)} images, not {config.num_images}, with {len(gathered.malformed)} broken rows"
            )
            raise InputError(f"the {self.kind} test set has {counts}, in {names}: get whole files, or set num_images")
        return gathered

    def image_names(self, config: TestSetConfig) -> frozenset[str]:
        """Return the names by which the pixels of its images are found, however many images there should be.

        Raises:
            InputError: files are missing, empty or damaged.
        """
        return frozenset(image.name for image in gather(config.rows()).images)

    def read(self, config: TestSetConfig) -> Iterator[TestImage]:
        """Yield the images in the order of the files, after a warning for each row that could not be read.

        Raises:
            InputError: as `load` does, before the first image.
        """
        images, malformed = self.load(config)
        for row in malformed[:_LOGGED_ROWS]:
            logger.warning("%s test set: %s", self.kind, _described(row))
        if malformed:
            logger.warning(
                "%s test set: %d rows could not be read, %d images could", self.kind, len(malformed), len(images)
            )
        yield from images


def _described(row: MalformedRow) -> str:
    return f"{row.upstream_file}, line or record {row.upstream_line}: {row.reason}, {row.detail}"


# --- COCO, Karpathy -------------------------------------------------------------------------------------------------

_COCO = "a COCO captions JSON ('images' with 'id' and 'file_name', 'annotations' with 'caption')"
# `url` is what MSCOCO-IT and the first files of 2014 call `flickr_url`.
_URL_FIELDS = ("coco_url", "flickr_url", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoTestConfig(TestSetConfig):
    """Files that hold the test set: all of their images, which `file_name` names, are test images."""

    WANTED: ClassVar = "at least one COCO captions JSON"

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of JSON files, plain or gzipped. One without `annotations` has images without captions."""

    def rows(self) -> Iterator[TestSetRow]:
        """Yield what the files say of each image, then each caption."""
        for path in upstream_files(self):
            document = open_json(path, expected=_COCO)
            if not isinstance(document, dict) or not (images := records_of(document.get("images"))):
                raise InputError(f"{path} is {describe(document)} and lists no images: expected {_COCO}")
            annotations = records_of(document.get("annotations", []))
            if annotations is None or (annotations and not any("caption" in one for one in annotations)):
                raise InputError(f"{path} has annotations without captions: expected {_COCO}")
            known: dict[str, tuple[str, frozenset[str]]] = {}
            held = Held(path)
            for number, image in enumerate(images, start=1):
                yield from _coco_image(Origin(str(path), number, repr(image)), image, known, held)
            for number, annotation in enumerate(annotations, start=1):
                origin, image_id = Origin(str(path), number, repr(annotation)), id_field(annotation, "image_id")
                if image_id is None:
                    yield refuse(origin, "image_missing", missing_id(annotation, "image_id"))
                elif image_id not in known:
                    yield refuse(origin, "image_missing", f"no image has the id {image_id}")
                else:
                    yield from sightings(origin, *known[image_id], [annotation.get("caption")])


def _coco_image(
    origin: Origin, image: Mapping[str, object], known: dict[str, tuple[str, frozenset[str]]], held: Held
) -> Iterator[TestSetRow]:
    image_id, name = id_field(image, "id"), text_field(image, "file_name")
    if image_id is None or name is None:
        yield refuse(origin, "image_missing", "an image without id or file_name")
        return
    urls = (text_field(image, field) for field in _URL_FIELDS)
    identities = name_identities(name).union(*(url_identities(url) for url in urls if url))
    held.add(name, *identities)
    if known.setdefault(image_id, (name, identities))[0] != name:
        raise InputError(
            f"{origin.upstream_file} has several images with the id {image_id}: correct it or download it again"
        )
    yield from sightings(origin, name, identities, [])


_KARPATHY = "Karpathy's dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json"
_SPLITS = ("test", "val", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpathyTestConfig(TestSetConfig):
    """Files of Karpathy's splits, and the splits that are test images."""

    WANTED: ClassVar = _KARPATHY

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of JSON files, plain or gzipped."""
    splits: tuple[str, ...] = ("test",)
    """Splits of Karpathy's JSON that are test images: "test", "val" and "train". MSCOCO's "restval" is of "train"."""

    def __post_init__(self) -> None:
        """Refuse a test set without files or splits, or with splits that Karpathy has not."""
        FilesConfig.__post_init__(self)
        if not self.splits or not set(self.splits) <= set(_SPLITS):
            raise SettingsError(f"splits must be some of {', '.join(_SPLITS)}, got {self.splits}")

    def rows(self) -> Iterator[TestSetRow]:
        """Yield what the files say of each image of the splits."""
        for path in upstream_files(self):
            yield from _split_rows(path, self.splits)


def _split_rows(path: Path, splits: tuple[str, ...]) -> Iterator[TestSetRow]:
    """Yield what one file of Karpathy's says of each image of the splits.

    MSCOCO's images have its id; those of the other two are named by their numbers on Flickr.

    Raises:
        InputError: the file is damaged, no file of Karpathy's, or has no image in one of the splits.
    """
    document = open_json(path, expected=_KARPATHY)
    found: set[str | None] = set()
    for caption in karpathy_captions(check_karpathy(path, document, expected=_KARPATHY)):
        found.add(caption.split)
        if caption.split in splits:
            if caption.coco_id is None:
                identities = photo_identities(caption.filename)
            else:
                identities = name_identities(caption.filename) | {f"coco:{caption.coco_id}"}
            origin = Origin(str(path), caption.number, caption.raw)
            yield from sightings(origin, caption.filename, identities, [caption.text])
    if missing := sorted(set(splits) - found):
        has = ", ".join(sorted(split for split in found if split)) or "none"
        raise InputError(f"{path} has no image of the split {', '.join(missing)}: it has {has}")


# --- Flickr8k, Flickr30k --------------------------------------------------------------------------------------------

_FLICKR = "a list of image names or photo numbers, captions (tokens, results.csv, captions.txt) or Karpathy's JSON"
_LISTED = re.compile(r"\d+(?:_[0-9a-f]+)?(?:\.jpe?g)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlickrTestConfig(KarpathyTestConfig):
    """Files that tell the test images and their captions."""

    WANTED: ClassVar = f"at least one file: {_FLICKR}"

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs, plain or gzipped, of lists of test images and captions files, or of Karpathy's JSON. Without
    captions files the images of the lists have no captions."""

    def rows(self) -> Iterator[TestSetRow]:
        """Yield what the files say of each test image.

        Which file is which is told by its first line: a name or number by itself (Flickr_8k.testImages.txt, the
        test.txt of Flickr30k Entities) starts a list, "{" Karpathy's JSON; all others are captions.
        """
        documents: list[Path] = []
        lists: list[Path] = []
        captions: list[Path] = []
        for path in upstream_files(self):
            check_text_file(path, expected=_FLICKR)
            first = first_text(path)
            kind = documents if first.startswith("{") else lists if _LISTED.fullmatch(first) else captions
            kind.append(path)
        if captions and not lists:
            names = ", ".join(map(str, captions))
            raise InputError(f"files has captions ({names}) and nothing that tells the test images: add their list")
        for path in documents:
            yield from _split_rows(path, self.splits)
        yield from _listed_photos(lists, captions)


def _listed_photos(lists: Iterable[Path], captions: list[Path]) -> Iterator[TestSetRow]:
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
    for row in read_flickr_captions(captions) if captions else ():
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
    """Return the number of a photo, by which lists and captions are joined; a name without one as it is."""
    return min(photo_identities(name), default=name)


# --- Crossmodal-3600, XTD10 -----------------------------------------------------------------------------------------

_KEY_FIELD = "image/key"
_KEY = re.compile(r"\s*[0-9a-f]{16}\s*", re.IGNORECASE)
_URL_COLUMNS = ("OriginalURL", "OriginalLandingURL")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossmodalConfig(TestSetConfig):
    """Files of Crossmodal-3600, languages, and where the images are, which are named `<key>.jpg`."""

    WANTED: ClassVar = "Crossmodal-3600's captions.jsonl"

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs, plain or gzipped, of captions.jsonl, and perhaps of the CSV of attributions (columns ImageID,
    OriginalURL, OriginalLandingURL)."""
    languages: tuple[str, ...] = ()
    """Codes of the languages that are read, as the file has them ("it", "quz"). Left out of a recipe, it is the target
    language; an empty list takes all."""
    num_images: int = how(3600)

    def rows(self) -> Iterator[TestSetRow]:
        """Yield what the files say of each image.

        A line of captions.jsonl is `{"image/key": "000411001ff7dd4f", "image/locale": "bn", "bn": {"caption": [...],
        "caption/tokenized": [...]}, "it": {...}, ...}` (Thapliyal et al., Crossmodal-3600, 2022). The table of
        attributions that comes with the images, in the form of Open Images, tells where on Flickr they are.
        """
        paths = upstream_files(self)
        tables = [path for path in paths if path.name.lower().removesuffix(".gz").endswith(".csv")]
        captions = [path for path in paths if path not in tables]
        if not captions:
            raise InputError(f"files has no captions.jsonl, only {', '.join(map(str, tables))}")
        seen: set[str] = set()
        languages: set[str] = set()
        for path in captions:
            yield from _crossmodal_captions(path, self.languages, seen, languages)
        if missing := sorted({*self.languages} - languages):
            raise InputError(f"no image has captions in {', '.join(missing)}: found are {', '.join(sorted(languages))}")
        for path in tables:
            yield from _crossmodal_addresses(path, seen)


def _crossmodal_captions(
    path: Path, wanted: tuple[str, ...], seen: set[str], languages: set[str]
) -> Iterator[TestSetRow]:
    columns = Wanted(required=[_KEY_FIELD], image_column=_KEY_FIELD, is_image=_is_key)
    check_table(path, columns)
    for entry in read_table(path, columns):
        origin = Origin(str(path), entry.line, entry.raw)
        key = entry.values.get(_KEY_FIELD)
        if entry.trouble or not isinstance(key, str) or not _is_key(key):
            yield refuse(origin, *(entry.trouble or ("image_missing", f"no key of 16 hexadecimal digits: {key!r}")))
            continue
        key = key.lower()
        seen.add(key)
        chosen: list[object] = []
        for language, value in entry.values.items():
            # Whatever field is an object with a list called "caption" has the captions of a language.
            found = value.get("caption") if isinstance(value, dict) else None
            if found is not None:
                languages.add(language)
                if not wanted or language in wanted:
                    chosen += found if isinstance(found, list) else [found]
        yield from sightings(origin, f"{key}.jpg", frozenset({f"openimages:{key}"}), chosen)


def _crossmodal_addresses(path: Path, seen: set[str]) -> Iterator[TestSetRow]:
    """Yield Flickr's addresses of images that have captions; the table may have others."""
    columns = Wanted(required=["ImageID", *_URL_COLUMNS], image_column="ImageID", is_image=_is_key)
    check_table(path, columns)
    for entry in read_table(path, columns):
        origin = Origin(str(path), entry.line, entry.raw)
        key = str(entry.values.get("ImageID")).strip().lower()
        if entry.trouble:
            yield refuse(origin, *entry.trouble)
        elif key in seen:
            url, page = (str(entry.values.get(column) or "").strip() or None for column in _URL_COLUMNS)
            identities = canonical_identities(
                source_kind="crossmodal3600", sample_id=key, url=url, path=None, page_url=page
            )
            yield from sightings(origin, f"{key}.jpg", identities | {f"openimages:{key}"}, [])


def _is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


_XTD10 = "XTD10's test_image_names.txt, or test_1kcaptions_<language>.txt"
_IMAGE_NAME = re.compile(r"\S+\.(?:jpe?g|png)", re.IGNORECASE)
_CAPTIONS_NAME = re.compile(r"test_1kcaptions_(\w+)\.txt(?:\.gz)?", re.IGNORECASE)
_RENAMED_LANGS = {"jp": "ja"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Xtd10Config(TestSetConfig):
    """Lists of XTD10, and where the images are."""

    WANTED: ClassVar = "XTD10's test_image_names.txt and its lists of captions"

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of the one list of image names, and of lists of captions."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the lists that are read. Left out of a recipe, it is the target language; an empty list takes
    all."""
    num_images: int = how(1000)

    def rows(self) -> Iterator[TestSetRow]:
        """Yield what the lists say of each image: names of 1,000 images of MSCOCO, captions in each language by line.

        Source: Aggarwal and Kale, Towards Zero-shot Cross-lingual Image Retrieval (2020). The lists of STAIR (Japanese)
        and MIC (German, French) that come with it have the same form.
        """
        names_path, captions_paths = self._lists()
        names = _aligned_lines(names_path)
        for line in names:
            yield from _xtd10_row(names_path, line, line, [])
        for path in captions_paths:
            captions = _aligned_lines(path)
            # The last lines may be blank, and a last blank line may be no line at all.
            if not any(line.text for line in captions[len(names) :]):
                captions = captions[: len(names)]
            if len(captions) != len(names):
                counts = f"{len(captions)} captions in {path}, {len(names)} images in {names_path}"
                raise InputError(f"{counts}: expected one caption an image; download both again")
            for name, caption in zip(names, captions, strict=True):
                yield from _xtd10_row(path, name, caption, [caption.text])

    def _lists(self) -> tuple[Path, list[Path]]:
        """Return the list of names, and those of captions in the languages wanted."""
        names: list[Path] = []
        captions: dict[Path, str] = {}
        for path in upstream_files(self):
            check_text_file(path, expected=_XTD10)
            if (language := _CAPTIONS_NAME.fullmatch(path.name)) is not None:
                captions[path] = _RENAMED_LANGS.get(language[1].lower(), language[1].lower())
            elif _IMAGE_NAME.fullmatch(first_text(path)):
                names.append(path)
            else:
                raise InputError(f"{path} is not {_XTD10}")
        if len(names) != 1:
            raise InputError(f"files has {len(names)} lists of image names: expected one, {_XTD10}")
        if missing := ", ".join(sorted({*self.languages} - {*captions.values()})):
            raise InputError(f"files has no list of captions in {missing}: add it, or leave it out of languages")
        wanted = self.languages or tuple(captions.values())
        return names[0], [path for path, language in captions.items() if language in wanted]


def _aligned_lines(path: Path) -> list[Line]:
    """Return the lines by which lists are aligned: all but blank ones at the end of a list of names."""
    lines, held = [], Held(path)
    for line in read_lines(path):
        held.add(line.text)
        lines.append(line)
    while lines and not lines[-1].text.strip() and not _CAPTIONS_NAME.fullmatch(path.name):
        lines.pop()
    return lines


def _xtd10_row(path: Path, name: Line, line: Line, captions: list[str]) -> Iterator[TestSetRow]:
    origin = Origin(str(path), line.number, line.text)
    image = name.text.strip()
    if name.trouble or not _IMAGE_NAME.fullmatch(image):
        if line is name:  # reported once, not again with each language
            yield refuse(origin, *(name.trouble or ("image_missing", f"no name of an image: {image}")))
        return
    yield from sightings(origin, image, name_identities(image), captions if not line.trouble else [])
    if line.trouble:
        yield refuse(origin, *line.trouble)


# --- Anybody's own --------------------------------------------------------------------------------------------------

_SCHEMES = ("coco:", "flickr:", "wikimedia:", "openimages:", "url:")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsTestConfig(TestSetConfig):
    """Tables of your own test set, and what their columns are called; at least one column tells the image."""

    WANTED: ClassVar = f"at least one file: {FORMATS}"

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

    def __post_init__(self) -> None:
        """Refuse what names no files or no image."""
        FilesConfig.__post_init__(self)
        if not (self.path_column or self.url_column or self.identity_column):
            raise SettingsError("one of path_column, url_column and identity_column must be set, to tell the images")
        if self.images and not self.path_column:
            raise SettingsError("images goes with path_column, which says what the images are called")

    def rows(self) -> Iterator[TestSetRow]:
        """Yield what the tables say of each image."""
        image_columns = [name for name in (self.path_column, self.url_column, self.identity_column) if name]
        wanted = Wanted(
            required=[*image_columns, *([self.caption_column] if self.caption_column else [])],
            image_column=image_columns[0],
            is_image=lambda text: text.startswith(_SCHEMES) or is_web_url(text) or is_image_name(text),
        )
        for path in upstream_files(self):
            check_table(path, wanted)
            for entry in read_table(path, wanted):
                origin = Origin(str(path), entry.line, entry.raw)
                if entry.trouble:
                    yield refuse(origin, *entry.trouble)
                else:
                    yield from self._row(origin, entry.values)

    def _row(self, origin: Origin, values: Mapping[str, object]) -> Iterator[TestSetRow]:
        columns = (self.path_column, self.url_column, self.identity_column)
        found = (values.get(column) if column else None for column in columns)
        name, url, written = (value.strip() if isinstance(value, str) else "" for value in found)
        identities = written_identities(written)
        if identities is None:
            yield refuse(origin, "malformed_row", f"no identities: {written}; expected such as coco:391895")
            return
        if url and not is_web_url(url):
            yield refuse(origin, "image_missing", f"not an http or https URL: {url}")
            return
        identities |= (name_identities(name) if name else frozenset()) | (url_identities(url) if url else frozenset())
        caption = values.get(self.caption_column) if self.caption_column else []
        captions = caption if isinstance(caption, list) else [caption]
        yield from sightings(origin, name or url or written, identities, captions)


_LIST = "a list of file names, URLs or identities such as coco:391895, one a line"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTestConfig(TestSetConfig):
    """Lists that hold the test images."""

    WANTED: ClassVar = f"at least one file: {_LIST}"

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of text files, plain or gzipped: a file name, a URL or an identity in each line."""

    def rows(self) -> Iterator[TestSetRow]:
        """Yield the images of the lists."""
        for path in upstream_files(self):
            check_text_file(path, expected=_LIST)
            for line in read_lines(path):
                origin, text = Origin(str(path), line.number, line.text), line.text.strip()
                if line.trouble:
                    yield refuse(origin, *line.trouble)
                elif text.startswith(_SCHEMES):
                    if (identities := written_identities(text)) is None:
                        yield refuse(origin, "malformed_row", f"no identities: {text}; expected such as coco:391895")
                    else:
                        yield from sightings(origin, text, identities, [])
                elif text:
                    named = url_identities(text) if is_web_url(text) else name_identities(text)
                    yield from sightings(origin, text, named, [])


TEST_SET_KINDS: dict[str, TestSetKind] = {
    kind: TestSetKind(kind=kind, config_type=config_type)
    for kind, config_type in (
        ("mscoco_it", CocoTestConfig),
        ("coco", CocoTestConfig),
        ("xtd10", Xtd10Config),
        ("karpathy", KarpathyTestConfig),
        ("flickr8k", FlickrTestConfig),
        ("flickr30k", FlickrTestConfig),
        ("crossmodal3600", CrossmodalConfig),
        ("pairs", PairsTestConfig),
        ("list", ListTestConfig),
    )
}

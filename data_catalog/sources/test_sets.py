"""Test sets: upstream files, read for the identities and captions of their images.

Each kind of test set is a config dataclass that reads its files; `TEST_SET_KINDS` lists them by name.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from annotated_types import Ge, MinLen

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.settings import PATH, how, path_setting
from data_catalog.rows.identities import (
    canonical_identities,
    name_identities,
    parse_identities,
    photo_identities,
    url_identities,
)
from data_catalog.rows.image_formats import is_image_name
from data_catalog.rows.urls import is_web_url
from data_catalog.sources.files import (
    FilesConfig,
    Line,
    Trouble,
    first_text,
    read_lines,
    text_trouble,
    upstream_files,
)
from data_catalog.sources.flickr import read_captions
from data_catalog.sources.image_files import check_images
from data_catalog.sources.json_documents import id_field, open_object, records_in, text_field
from data_catalog.sources.mscoco import LISTS, image_of, karpathy_sentences
from data_catalog.sources.pixels import HuggingFaceFiles, Samples, WebDatasetFiles
from data_catalog.sources.rows import Candidate, Location, MalformedRow, UpstreamRow, malformed_row, row_of
from data_catalog.sources.tables import FORMATS, read_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TestImage:
    """An image of a test set, with all its identities (there may be none) and captions, in any language."""

    name: str  # file name of the image, or its URL if it has none; the key to its pixels in the set's `images`
    identities: frozenset[str]  # as `identities.canonical_identities` returns them
    captions: tuple[str, ...]  # in file order, repeated ones included
    caption_files: tuple[str, ...] = ()  # the file of each caption


class TestSetImages(NamedTuple):
    """The images of a test set in file order, and the malformed rows."""

    images: tuple[TestImage, ...]
    malformed: tuple[MalformedRow, ...]


class ImageRecord(NamedTuple):
    """An image in a record of a file; `captions` may hold other values than texts."""

    name: str
    identities: frozenset[str]
    captions: Iterable[object] = ()


# What a kind of test set yields for each record of its files; records with one name are about one image.
TestSetRecords = Iterator[tuple[Location, ImageRecord | Trouble]]


def group_by_image(records: TestSetRecords) -> TestSetImages:
    """Group records by image.

    An image counts even if its captions are malformed, since the leak guard needs its pixels and identities.
    """
    images: dict[str, tuple[set[str], list[str], list[str]]] = {}
    malformed: list[MalformedRow] = []
    for location, found in records:
        if isinstance(found, ImageRecord):
            unnamed = None if found.name.strip() else Trouble("image_missing", "no image is named")
            found = text_trouble(found.name) or unnamed or found
        if isinstance(found, Trouble):
            malformed.append(malformed_row(location, *found))
            continue
        identities, captions, files = images.setdefault(found.name, (set(), [], []))
        identities |= found.identities
        for caption in found.captions:
            if not isinstance(caption, str) or not caption.strip():
                malformed.append(malformed_row(location, "caption_missing", f"no caption: {caption!r}"))
            elif trouble := text_trouble(caption):
                malformed.append(malformed_row(location, *trouble))
            else:
                captions.append(caption)
                files.append(location.upstream_file)
    found_images = (
        TestImage(name=name, identities=frozenset(identities), captions=tuple(captions), caption_files=tuple(files))
        for name, (identities, captions, files) in images.items()
    )
    return TestSetImages(tuple(found_images), tuple(malformed))


@dataclass(frozen=True, kw_only=True)
class AnyTestSetConfig(FilesConfig, ABC):
    """Files of a test set."""

    num_images: Annotated[int, Ge(0)] = how(0)
    """Number of images that the set must have, or no build starts. 0 accepts any number."""

    @abstractmethod
    def records(self) -> TestSetRecords:
        """Yield all records of the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSetConfig(AnyTestSetConfig):
    """Files of a test set, and the location of its images."""

    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them. Without it the leak guard compares identities and captions
    only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSetKind:
    """A kind of test set."""

    kind: str
    config_type: type[AnyTestSetConfig]

    def check(self, config: Any) -> None:
        """Check that the set can be read, by reading it, and that its images can be opened."""
        if config.images is not None:
            check_images(config.images)
        config.check_files(upstream_files(config))
        self.load(config)

    def upstream_files(self, config: AnyTestSetConfig) -> list[Path]:
        """Return the files that rows are read from, sorted; images are not among them."""
        return upstream_files(config)

    def load(self, config: AnyTestSetConfig) -> TestSetImages:
        """Return all images of the set, and the malformed rows; a set is never read in part."""
        images, malformed = found = group_by_image(config.records())
        if not images or len(images) != (config.num_images or len(images)):
            instead = f" instead of {config.num_images}" if config.num_images else ""
            first = f" ({malformed[0]})" if malformed else ""
            raise InputError(
                f"the {self.kind} test set has {len(images)} images{instead}, and {len(malformed)} malformed rows"
                f"{first}, in {', '.join(config.files)}: expected {config.EXPECTED}. Get the complete files, or "
                "correct files and num_images"
            )
        return found

    def read(self, config: AnyTestSetConfig) -> Iterator[TestImage]:
        """Yield the images in file order, after a warning about malformed rows."""
        images, malformed = self.load(config)
        if malformed:
            counts = f"{len(malformed)} rows are malformed; {len(images)} images were read"
            logger.warning("%s test set: %s. The first: %s", self.kind, counts, malformed[0])
        yield from images


def _require_languages(wanted: Iterable[str], found: Collection[str]) -> None:
    """Refuse languages that no caption has: they would be missing in silence."""
    if missing := sorted({*wanted} - {*found}):
        raise InputError(
            f"no captions in {', '.join(missing)}: the files have {', '.join(sorted(found))}. Add files, or change "
            "languages"
        )


# --- COCO, Karpathy -------------------------------------------------------------------------------------------------

# MSCOCO-IT and the first files of 2014 have `flickr_url` under the name `url`.
_URL_FIELDS = ("coco_url", "flickr_url", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoTestConfig(TestSetConfig):
    """COCO captions files; all images in them are test images, by their `file_name`."""

    EXPECTED: ClassVar = "a COCO captions JSON ('images' with 'id' and 'file_name', 'annotations' with 'caption')"

    files: tuple[str, ...] = field(metadata=PATH)
    """JSON files. Without `annotations`, images have no captions."""

    def records(self) -> TestSetRecords:
        """Yield a record for each image of a file, then one for each caption."""
        for path in upstream_files(self):
            document = open_object(path, expected=self.EXPECTED, names=LISTS)
            images, annotations = records_in(document, "images"), records_in(document, "annotations")
            lacks_captions = document.get("annotations") and not any("caption" in each for each in annotations)
            if not any(images) or lacks_captions:  # one wrong file among several would leave its images in training
                raise InputError(f"{path} is not {self.EXPECTED}")
            known: dict[str, ImageRecord | None] = {}
            for number, image in enumerate(images, start=1):
                yield Location(str(path), number, repr(image)), _coco_image(image, known)
            for number, annotation in enumerate(annotations, start=1):
                found = image_of(annotation, known)
                if isinstance(found, ImageRecord):
                    found = found._replace(captions=[annotation.get("caption")])
                yield Location(str(path), number, repr(annotation)), found


def _coco_image(image: Mapping[str, object], known: dict[str, ImageRecord | None]) -> ImageRecord | Trouble:
    """Return an image, and add it to those that are known by id; an id of several images is of none."""
    image_id, name = id_field(image, "id"), text_field(image, "file_name")
    if image_id is None or name is None:
        return Trouble("image_missing", "an image without id or file_name")
    urls = (text_field(image, field) for field in _URL_FIELDS)
    found = ImageRecord(name, name_identities(name).union(*(url_identities(url) for url in urls if url)))
    first = known.setdefault(image_id, found)
    known[image_id] = first if first and first.name == name else None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpathyTestConfig(TestSetConfig):
    """Files of Karpathy's splits, and the splits whose images are test images."""

    EXPECTED: ClassVar = "Karpathy's dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json"

    files: tuple[str, ...] = field(metadata=PATH)
    """JSON files."""
    splits: Annotated[tuple[Literal["test", "val", "train"], ...], MinLen(1)] = ("test",)
    """Splits of Karpathy's JSON to read as test images: "test", "val", "train" (with MSCOCO's "restval")."""

    def records(self) -> TestSetRecords:
        """Yield a record for each sentence about an image in the splits."""
        for path in upstream_files(self):
            yield from self._sentences(path)

    def _sentences(self, path: Path) -> TestSetRecords:
        """Yield the records of a file of Karpathy's; images of the two Flickr datasets have no id of COCO."""
        missing = {*self.splits}
        for location, found in karpathy_sentences(path, open_object(path, expected=self.EXPECTED, names=LISTS)):
            if isinstance(found, Candidate) and found.split in self.splits:
                missing.discard(found.split)
                name = found.path or ""
                has_id = found.sample_key != name
                identities = name_identities(name) | {f"coco:{found.sample_key}"} if has_id else photo_identities(name)
                yield location, ImageRecord(name, identities, [found.caption])
        if missing:
            raise InputError(f"{path} has no image of the split {', '.join(sorted(missing))}: change splits")


# --- Flickr8k, Flickr30k --------------------------------------------------------------------------------------------

_LISTED = re.compile(r"\d+(?:_[0-9a-f]+)?(?:\.jpe?g)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlickrTestConfig(KarpathyTestConfig):
    """Files that list the test images, and files of captions."""

    EXPECTED: ClassVar = (
        "a list of image names or photo numbers, captions (tokens, results.csv, captions.txt) or Karpathy's JSON"
    )

    files: tuple[str, ...] = field(metadata=PATH)
    """Lists of test images and captions files, or Karpathy's JSON. Without captions files, images have no captions."""

    def records(self) -> TestSetRecords:
        """Yield the records of each test image.

        The first line of a file decides what it is: a name or number alone starts a list (Flickr_8k.testImages.txt, the
        test.txt of Flickr30k Entities), "{" starts Karpathy's JSON, and anything else starts captions.
        """
        listed: dict[str, tuple[Location, str]] = {}  # by `_photo`: where a photo is listed, and as what
        captions: list[Path] = []
        for path in upstream_files(self):
            if (first := first_text(path)).startswith("{"):
                yield from self._sentences(path)
            elif not _LISTED.fullmatch(first):
                captions.append(path)
            else:
                for line in read_lines(path):
                    location, name = Location(str(path), line.number, line.text), line.text.strip()
                    if _LISTED.fullmatch(name):
                        listed.setdefault(_photo(name), (location, name))
                    elif name:
                        trouble = Trouble("image_missing", f"no name or number of a photo: {name}")
                        yield location, line.trouble or trouble
        yield from _listed_photos(listed, captions)


def _listed_photos(listed: Mapping[str, tuple[Location, str]], captions: list[Path]) -> TestSetRecords:
    """Yield the listed photos, by their names in the files of captions, then their captions."""
    named: dict[str, str] = {}
    rows: list[tuple[str, Location, str]] = []
    for path in captions:
        has_captions = False
        for location, found in read_captions(path):
            row = row_of(location, found)
            has_captions |= isinstance(row, UpstreamRow)
            if isinstance(row, MalformedRow):
                yield location, Trouble(row.reason, row.detail)
            elif isinstance(row, UpstreamRow) and (photo := _photo(row.path or "")) in listed:
                named.setdefault(photo, row.path or "")
                rows.append((photo, location._replace(raw=""), row.caption))
        if not has_captions:
            raise InputError(f"{path} is not {FlickrTestConfig.EXPECTED}")
    for photo, (location, name) in listed.items():
        if captions and photo not in named:
            yield location, Trouble("caption_missing", f"no captions of {name}")
        named.setdefault(photo, name if "." in name else f"{name}.jpg")
        yield location, ImageRecord(named[photo], photo_identities(name))
    for photo, location, caption in rows:
        yield location, ImageRecord(named[photo], photo_identities(named[photo]), [caption])


def _photo(name: str) -> str:
    """Return the photo's identity, the key that joins lists and captions; without a number in it, the name itself."""
    return min(photo_identities(name), default=name)


# --- Crossmodal-3600, XTD10 -----------------------------------------------------------------------------------------

_KEY_FIELD = "image/key"
_KEY = re.compile(r"\s*[0-9a-f]{16}\s*", re.IGNORECASE)
_URL_COLUMNS = ("OriginalURL", "OriginalLandingURL")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossmodalConfig(TestSetConfig):
    """Files of Crossmodal-3600, languages, and the location of the images, which are named `<key>.jpg`."""

    EXPECTED: ClassVar = "Crossmodal-3600's captions.jsonl"

    files: tuple[str, ...] = field(metadata=PATH)
    """captions.jsonl, and optionally the CSV of attributions (columns ImageID, OriginalURL, OriginalLandingURL)."""
    languages: tuple[str, ...] = ()
    """Codes of the languages to read ("it", "quz"). By default the target language; an empty list reads all."""
    num_images: Annotated[int, Ge(0)] = how(3600)

    def records(self) -> TestSetRecords:
        """Yield the records of each image.

        A line of captions.jsonl is `{"image/key": "000411001ff7dd4f", "image/locale": "bn", "bn": {"caption": [...],
        "caption/tokenized": [...]}, "it": {...}, ...}` (Thapliyal et al., Crossmodal-3600, 2022). The table of
        attributions comes with the images, in the format of Open Images, and has their URLs on Flickr.
        """
        paths = upstream_files(self)
        tables = [path for path in paths if path.name.lower().removesuffix(".gz").endswith(".csv")]
        seen: set[str] = set()
        languages: set[str] = set()
        for path in paths:
            if path not in tables:
                yield from _crossmodal_captions(path, self.languages, seen, languages)
        _require_languages(self.languages, languages)
        for path in tables:
            yield from _crossmodal_addresses(path, seen)


def _crossmodal_captions(path: Path, wanted: tuple[str, ...], seen: set[str], languages: set[str]) -> TestSetRecords:
    for entry in read_table(path, [_KEY_FIELD], _is_key):
        location, key = Location(str(path), entry.line, entry.raw), entry.values.get(_KEY_FIELD)
        if entry.trouble or not isinstance(key, str) or not _is_key(key):
            yield location, entry.trouble or Trouble("image_missing", f"no key of 16 hexadecimal digits: {key!r}")
            continue
        seen.add(key := key.lower())
        chosen: list[object] = []
        for language, value in entry.values.items():
            # A field whose value is an object with a "caption" list has the captions of one language.
            found = value.get("caption") if isinstance(value, dict) else None
            if found is not None:
                languages.add(language)
                if not wanted or language in wanted:
                    chosen += found if isinstance(found, list) else [found]
        yield location, ImageRecord(f"{key}.jpg", frozenset({f"openimages:{key}"}), chosen)


def _crossmodal_addresses(path: Path, seen: set[str]) -> TestSetRecords:
    """Yield the Flickr URLs of images that have captions; other rows of the table are skipped."""
    for entry in read_table(path, ["ImageID", *_URL_COLUMNS], _is_key):
        location, key = Location(str(path), entry.line, entry.raw), str(entry.values.get("ImageID")).strip().lower()
        if entry.trouble:
            yield location, entry.trouble
        elif key in seen:
            url, page = (str(entry.values.get(column) or "").strip() or None for column in _URL_COLUMNS)
            identities = canonical_identities(
                source_kind="crossmodal3600", sample_id=key, url=url, path=None, page_url=page
            )
            yield location, ImageRecord(f"{key}.jpg", identities | {f"openimages:{key}"})


def _is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


_IMAGE_NAME = re.compile(r"\S+\.(?:jpe?g|png)", re.IGNORECASE)
_CAPTIONS_NAME = re.compile(r"test_1kcaptions_(\w+)\.txt(?:\.gz)?", re.IGNORECASE)
_RENAMED_LANGS = {"jp": "ja"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Xtd10Config(TestSetConfig):
    """Lists of XTD10, and the location of the images."""

    EXPECTED: ClassVar = "XTD10's test_image_names.txt, or test_1kcaptions_<language>.txt"

    files: tuple[str, ...] = field(metadata=PATH)
    """A list of image names, and lists of captions."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the lists to read. By default the target language; an empty list reads all."""
    num_images: Annotated[int, Ge(0)] = how(1000)

    def records(self) -> TestSetRecords:
        """Yield the records of each image.

        The lists name 1,000 images of MSCOCO; line n of each list of captions describes the image in line n. Source:
        Aggarwal and Kale, Towards Zero-shot Cross-lingual Image Retrieval (2020). The lists of STAIR (Japanese) and MIC
        (German, French) that come with it have the same format.
        """
        paths = {path: _CAPTIONS_NAME.fullmatch(path.name) for path in upstream_files(self)}
        lists = [path for path, named in paths.items() if named is None]
        if len(lists) != 1:
            raise InputError(f"files has {len(lists)} lists of image names: expected one, {self.EXPECTED}")
        names = list(read_lines(lists[0]))
        while names and not names[-1].text.strip():
            names.pop()
        for line in names:
            yield from _xtd10_records(lists[0], line, line, [])
        codes = {path: named[1].lower() for path, named in paths.items() if named}
        languages = {path: _RENAMED_LANGS.get(code, code) for path, code in codes.items()}
        _require_languages(self.languages, languages.values())
        for path, language in languages.items():
            if not self.languages or language in self.languages:
                lines = list(read_lines(path))
                if len(lines) < len(names) or any(line.text for line in lines[len(names) :]):
                    counts = f"{len(lines)} captions in {path}, {len(names)} images in {lists[0]}"
                    raise InputError(f"{counts}: expected one caption per image; download both again")
                for name, line in zip(names, lines, strict=False):  # blank lines may follow
                    yield from _xtd10_records(path, name, line, [line.text])


def _xtd10_records(path: Path, name: Line, line: Line, captions: list[str]) -> TestSetRecords:
    location = Location(str(path), line.number, line.text)
    image = name.text.strip()
    if name.trouble or not _IMAGE_NAME.fullmatch(image):
        if line is name:  # reported once, not again with each language
            yield location, name.trouble or Trouble("image_missing", f"no name of an image: {image}")
        return
    yield location, ImageRecord(image, name_identities(image), captions if not line.trouble else [])
    if line.trouble:
        yield location, line.trouble


# --- The user's own -------------------------------------------------------------------------------------------------

_SCHEMES = ("coco:", "flickr:", "wikimedia:", "openimages:", "url:")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsTestConfig(TestSetConfig):
    """Tables of your own test set, and the names of their columns; at least one column identifies the image."""

    EXPECTED: ClassVar = f"a table ({FORMATS})"

    files: tuple[str, ...] = field(metadata=PATH)
    """CSV, TSV, JSON Lines or Parquet files, told apart by suffix."""
    path_column: str | None = None
    """Column of the images' names in `images`."""
    url_column: str | None = None
    """Column of the images' URLs."""
    identity_column: str | None = None
    """Column of identities such as "coco:391895", separated by spaces."""
    caption_column: str | None = None
    """Column of the captions; in JSON Lines it may hold lists."""

    def __post_init__(self) -> None:
        if not (self.path_column or self.url_column or self.identity_column):
            raise SettingsError("set at least one of path_column, url_column and identity_column, to find the images")
        if self.images and not self.path_column:
            raise SettingsError("images needs path_column, the column of the images' names")

    def records(self) -> TestSetRecords:
        """Yield the records of the tables."""
        columns = [self.path_column, self.url_column, self.identity_column, self.caption_column]
        for path in upstream_files(self):
            for entry in read_table(path, [column for column in columns if column], _is_image):
                yield Location(str(path), entry.line, entry.raw), entry.trouble or self._record(entry.values)

    def _record(self, values: Mapping[str, object]) -> ImageRecord | Trouble:
        columns = (self.path_column, self.url_column, self.identity_column)
        found = (values.get(column) if column else None for column in columns)
        name, url, written = (value.strip() if isinstance(value, str) else "" for value in found)
        identities = parse_identities(written)
        if identities is None:
            return Trouble("malformed_row", f"no identities: {written}; expected such as coco:391895")
        if url and not is_web_url(url):
            return Trouble("image_missing", f"not an http or https URL: {url}")
        identities |= (name_identities(name) if name else frozenset()) | (url_identities(url) if url else frozenset())
        caption = values.get(self.caption_column) if self.caption_column else []
        captions = caption if isinstance(caption, list) else [caption]
        return ImageRecord(name or url or written, identities, captions)


def _is_image(text: str) -> bool:
    return text.startswith(_SCHEMES) or is_web_url(text) or is_image_name(text)


@dataclass(frozen=True, kw_only=True)
class WebDatasetTestConfig(WebDatasetFiles, AnyTestSetConfig):
    """Tars of a WebDataset, and the names in their JSON."""

    def records(self) -> TestSetRecords:
        """Yield a record for each image."""
        return _with_pixels(self, "webdataset", self.samples())


@dataclass(frozen=True, kw_only=True)
class HuggingFaceTestConfig(HuggingFaceFiles, AnyTestSetConfig):
    """Parquet or Arrow files of `datasets`, and the names of their columns."""

    def records(self) -> TestSetRecords:
        """Yield a record for each image."""
        return _with_pixels(self, "huggingface", self.samples())


def _with_pixels(config: WebDatasetFiles | HuggingFaceFiles, kind: str, files: Samples) -> TestSetRecords:
    """Yield a record for each image in the files, with its captions and the identities in its name and URL."""
    for sample in chain.from_iterable(samples for _, samples in files):
        url = config.url_of(sample.values)
        if sample.trouble or not (url is None or (isinstance(url, str) and is_web_url(url.strip()))):
            yield sample.location, sample.trouble or Trouble("image_missing", f"not an http or https URL: {url}")
            continue
        identities = canonical_identities(source_kind=kind, sample_id="", url=url, path=sample.image, page_url=None)
        yield sample.location, ImageRecord(sample.image, identities, sample.captions)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTestConfig(TestSetConfig):
    """Lists of test images."""

    EXPECTED: ClassVar = "a list of file names, URLs or identities such as coco:391895, one a line"

    files: tuple[str, ...] = field(metadata=PATH)
    """Text files with one file name, URL or identity per line."""

    def records(self) -> TestSetRecords:
        """Yield a record for each image of the lists."""
        for path in upstream_files(self):
            for line in read_lines(path):
                if line.trouble or line.text.strip():
                    yield Location(str(path), line.number, line.text), line.trouble or _listed(line.text.strip())


def _listed(text: str) -> ImageRecord | Trouble:
    if not text.startswith(_SCHEMES):
        return ImageRecord(text, url_identities(text) if is_web_url(text) else name_identities(text))
    if (identities := parse_identities(text)) is None:
        return Trouble("malformed_row", f"no identities: {text}; expected such as coco:391895")
    return ImageRecord(text, identities)


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
        ("webdataset", WebDatasetTestConfig),
        ("huggingface", HuggingFaceTestConfig),
    )
}

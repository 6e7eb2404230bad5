"""Readers of files that hold their images: tars of WebDataset and img2dataset, tables of `datasets`.

An image is named by its place: `SHARD.tar/KEY.jpg`, or `TABLE.parquet/COLUMN/ROW`.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

import pyarrow as pa

from data_catalog.base.settings import PATH
from data_catalog.catalog.manifest import SPLITS
from data_catalog.rows.image_formats import is_image_name
from data_catalog.rows.urls import is_web_url
from data_catalog.sources.files import (
    MAX_EXCERPT_CHARS,
    MAX_LINE_BYTES,
    FilesConfig,
    Line,
    Trouble,
    decode_line,
    reading,
    upstream_files,
)
from data_catalog.sources.image_files import ImageFile, check_tar, inner_name, open_local, tar_members
from data_catalog.sources.json_documents import describe
from data_catalog.sources.pairs import CaptionSettings, ColumnSettings, stated_texts
from data_catalog.sources.row_files import ROW_FORMATS, table_schema
from data_catalog.sources.rows import Candidate, Location, OpenFiles, Records, normalised_split
from data_catalog.sources.tables import Entry, holds_text, json_entry, read_rows, require_columns

TARS = "tars of a WebDataset: KEY.jpg (.png, .webp) with KEY.json or KEY.txt"
TABLES = "Parquet or Arrow files of `datasets`, with a column of images {bytes, path}"


class Sample(NamedTuple):
    """An image in a file, or why it is none: where it is, its name, its record, and its captions of any type."""

    location: Location
    image: str
    values: Mapping[str, object]
    captions: Sequence[object]
    trouble: Trouble | None = None


# The files of a source, each with its samples.
Samples = Iterator[tuple[Path, Iterator[Sample]]]


@dataclass(frozen=True, kw_only=True)
class PixelFiles(FilesConfig):
    """Base of the settings of files that hold their images, for sources and test sets."""

    @property
    def images(self) -> str:
        """The folder that the images' names are relative to: that of all files, without looking for them."""
        folders = [Path(os.path.abspath(Path(pattern).expanduser())) for pattern in self.files]  # noqa: PTH100
        return os.path.commonpath([next(filter(Path.is_dir, (path, *path.parents))) for path in folders])

    def name_of(self, path: Path) -> str:
        """Return the name of a file: its path below `images`."""
        return Path(os.path.abspath(path)).relative_to(self.images).as_posix()  # noqa: PTH100


@dataclass(frozen=True, kw_only=True)
class WebDatasetFiles(PixelFiles):
    """Tars of a WebDataset, and the names in their JSON."""

    EXPECTED: ClassVar = TARS
    IN_FOLDER: ClassVar = (".tar",)

    files: tuple[str, ...] = field(metadata=PATH)
    """Local tars of KEY.jpg, KEY.json and KEY.txt, as img2dataset writes, or folders of tars."""
    caption_key: str | None = None
    """Name in KEY.json of the caption or list of captions. By default KEY.txt or, without it, "caption" in KEY.json."""
    url_key: str | None = None
    """Name of the image's URL. Nobody is asked for it. By default "url", if that is one."""

    def check_files(self, paths: Iterable[Path]) -> None:
        """Refuse files that are no complete tars."""
        for path in paths:
            check_tar(path)

    def samples(self, columns: Iterable[str] = ()) -> Samples:
        """Yield each tar with its samples."""
        return ((path, _tar_samples(path, self.name_of(path), self.caption_key)) for path in upstream_files(self))

    def url_of(self, values: Mapping[str, object]) -> object:
        """Return the URL in a record."""
        url = values.get(self.url_key or "url")
        return url if self.url_key or (isinstance(url, str) and is_web_url(url.strip())) else None


@dataclass(frozen=True, kw_only=True)
class HuggingFaceFiles(PixelFiles):
    """Parquet or Arrow files of `datasets`, and the names of their columns."""

    EXPECTED: ClassVar = TABLES
    IN_FOLDER: ClassVar = ROW_FORMATS

    files: tuple[str, ...] = field(metadata=PATH)
    """Local Parquet files, or folders of Parquet (hub) or Arrow (`save_to_disk`)."""
    image_column: str = "image"
    """Column of the images."""
    caption_column: str | None = None
    """Column of the captions: texts or lists of texts."""
    url_column: str | None = None
    """Column of the images' URLs. Nobody is asked for them."""

    def check_files(self, paths: Iterable[Path]) -> None:
        """Refuse files that have no column of images; reading checks the others."""
        for path in paths:
            images = [each.name for each in table_schema(path) if holds_images(each.type)]
            require_columns(path, images, [self.image_column], "image column")

    def samples(self, columns: Iterable[str] = ()) -> Samples:
        """Yield each file with its samples, which have the values of some columns of texts."""
        wanted = [*filter(None, (self.url_column,)), *columns]
        return ((path, self._rows(path, wanted)) for path in upstream_files(self))

    def _rows(self, path: Path, columns: Sequence[str]) -> Iterator[Sample]:
        schema, texts = table_schema(path), self.caption_column
        require_columns(path, [each.name for each in schema if holds_text(each.type)], columns)
        if texts:
            lists = [each.name for each in schema if holds_text(getattr(each.type, "value_type", each.type))]
            require_columns(path, lists, [texts])
        name = f"{self.name_of(path)}/{self.image_column}"
        for entry in read_rows(path, [*filter(None, (texts,)), *columns]):
            location = Location(str(path), entry.line, entry.raw[:MAX_EXCERPT_CHARS])
            captions = _items(entry.values.get(texts)) if texts else []
            yield Sample(location, f"{name}/{entry.line}", entry.values, captions, entry.trouble)

    def url_of(self, values: Mapping[str, object]) -> object:
        """Return the URL in a record."""
        return values.get(self.url_column) if self.url_column else None


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def holds_images(kind: pa.DataType) -> bool:
    """Return whether a column holds the bytes of images, alone or as `datasets` has them."""
    kind = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


# --- Tars -----------------------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    key: str
    suffix: str  # in lower case, without the dot; empty: the member belongs to no sample
    start: int
    size: int  # -1: it is no regular file


def _tar_samples(path: Path, name: str, caption_key: str | None) -> Iterator[Sample]:
    """Yield the samples of a tar, whose members stand side by side, as in every WebDataset."""
    with reading(path), open_local(path) as file:
        seen: set[str] = set()
        for number, (key, group) in enumerate(groupby(_members(file), attrgetter("key")), start=1):
            found = _sample(file, Location(str(path), number, key), f"{name}/{key}", list(group), caption_key)
            again = Trouble("malformed_row", "the key came before: sort the members of the tar by name")
            yield found._replace(trouble=again) if key in seen else found
            seen.add(key)


def _members(file: ImageFile) -> Iterator[_Member]:
    """Yield the members of a tar, without folders and hidden files, such as macOS adds."""
    for member in tar_members(file):
        inner = inner_name(member.name)
        folder, slash, base = (inner or "").rpartition("/")
        stem, _, suffix = base.partition(".")
        if not member.is_folder and not base.startswith("."):
            key = f"{folder}{slash}{stem}" if suffix else inner or member.name
            yield _Member(key, suffix.lower(), member.start, member.size)


def _sample(
    file: BufferedReader, location: Location, name: str, members: Sequence[_Member], caption_key: str | None
) -> Sample:
    parts = {member.suffix: member for member in members}
    images = [suffix for suffix in parts if is_image_name(f".{suffix}")]
    image = f"{name}.{images[0]}" if images else ""
    json = _content(file, parts, "json")
    record = json_entry(json) if json else Entry(1, {}, "")
    text = _content(file, parts, "txt") if caption_key is None else None
    raw = (record.raw or (text.text if text else "") or location.raw)[:MAX_EXCERPT_CHARS]
    captions = [text.text.rstrip("\r\n")] if text else _items(record.values.get(caption_key or "caption"))
    trouble = _wrong_members(members, images, record.values) or record.trouble or (text.trouble if text else None)
    return Sample(location._replace(raw=raw), image, record.values, captions, trouble)


def _content(file: BufferedReader, parts: Mapping[str, _Member], suffix: str) -> Line | None:
    """Return the content of a member of text as one line, if there is such a member."""
    member = parts.get(suffix)
    if member is None or member.size < 0:
        return None
    if member.size > MAX_LINE_BYTES:
        return Line(1, "", "", Trouble("malformed_row", f".{suffix} has more than {MAX_LINE_BYTES} bytes"))
    file.seek(member.start)
    return decode_line(1, file.read(member.size))


def _wrong_members(members: Sequence[_Member], images: Sequence[str], values: Mapping[str, object]) -> Trouble | None:
    """Return what is wrong with the members of a sample; img2dataset says in the JSON why an image is missing."""
    used = Counter(each.suffix for each in members if each.suffix in ("json", "txt", *images))
    if not all(each.suffix for each in members):
        return Trouble("malformed_row", "a member that is not named KEY.SUFFIX, or leads outside")
    if twice := [suffix for suffix, count in used.items() if count > 1]:
        return Trouble("malformed_row", f"{used[twice[0]]} members .{twice[0]}")
    if len(images) > 1:
        return Trouble("malformed_row", f"{len(images)} images: {', '.join(images)}")
    if odd := [each.suffix for each in members if each.size < 0 and each.suffix in used]:
        return Trouble("malformed_row", f".{odd[0]} is a link, or no regular file")
    if images:
        return None
    status = ": ".join(str(values[name]) for name in ("status", "error_message") if values.get(name))
    return Trouble("image_missing", f"no image beside it in the tar{f' ({status})' if status else ''}")


# --- Sources --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WebDatasetConfig(CaptionSettings, WebDatasetFiles):
    """Tars of a WebDataset, and the names in their JSON."""

    lang_key: str | None = None
    """Name of the captions' language code."""
    license_key: str | None = None
    """Name of the image's license."""
    attribution_key: str | None = None
    """Name of the person to credit."""
    page_key: str | None = None
    """Name of the URL of the image's page."""
    split_key: str | None = None
    """Name of the upstream split. By default a word in the name of the tar or its folder (train, validation, test)."""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceConfig(ColumnSettings, HuggingFaceFiles):
    """Parquet or Arrow files of `datasets`, and the names of their columns."""

    caption_column: str = field()
    """Column of the captions: texts or lists of texts."""
    split_column: str | None = None
    """Column of the upstream splits. By default a word in the name of the file or its folder (train, validation, test).
    """


# By field of `Candidate`, the setting that names its text in a record, without `_key` or `_column`.
_SETTINGS = {"lang": "lang", "license": "license", "attribution": "attribution", "page_url": "page", "split": "split"}
_WORD = re.compile("[a-z]+")


def read_pixels(config: WebDatasetConfig | HuggingFaceConfig) -> OpenFiles:
    """Yield each file with a record for each caption of its images."""
    columns = {name: column for name, setting in _SETTINGS.items() if (column := config.named(setting))}
    for path, samples in config.samples(columns.values()):
        yield path, _records(samples, config, columns, stated_split(config.name_of(path)))


def _records(
    samples: Iterator[Sample],
    config: WebDatasetConfig | HuggingFaceConfig,
    columns: Mapping[str, str],
    split: str | None,
) -> Records:
    for sample in samples:
        values = {**sample.values, "": config.url_of(sample.values)}
        texts = sample.trouble or stated_texts(values, {"url": "", **columns})
        if isinstance(texts, Trouble):
            yield sample.location, texts
            continue
        lang = (texts.pop("lang", None) or "").strip().lower() or config.lang
        texts["split"] = texts.get("split") or split
        for number, caption in enumerate(sample.captions or [None]):
            if caption is not None and not isinstance(caption, str):
                yield sample.location, Trouble("malformed_row", f"a caption is {describe(caption)} instead of a text")
                continue
            key = f"{number:04d}" if len(sample.captions) > 1 else None  # the order stays
            yield (
                sample.location,
                Candidate(
                    sample_key=sample.image, caption_key=key, path=sample.image, caption=caption, lang=lang, **texts
                ),
            )


def has_splits(config: WebDatasetConfig | HuggingFaceConfig) -> bool:
    """Return whether records, or the names of files, may state splits."""
    return bool(config.named("split")) or any(stated_split(config.name_of(path)) for path in upstream_files(config))


def stated_split(name: str) -> str | None:
    """Return the split that a word of a file's name, or else of its folders, states; two in one name state none."""
    for part in (PurePosixPath(name).name, *(parent.name for parent in PurePosixPath(name).parents)):
        found = {normalised_split(word) for word in _WORD.findall(part.lower())}.intersection(SPLITS)
        if len(found) == 1:
            return found.pop()
    return None

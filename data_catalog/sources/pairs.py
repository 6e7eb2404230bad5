"""Anybody's own pairs: CSV, TSV, JSON Lines or Parquet files with a column of URLs or paths and one of captions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from data_catalog.errors import SettingsError
from data_catalog.images.formats import is_image_name
from data_catalog.schema import NATIVE
from data_catalog.settings import PATH, path_setting
from data_catalog.sources.files import FilesConfig, upstream_files
from data_catalog.sources.image_files import check_images
from data_catalog.sources.json_documents import describe
from data_catalog.sources.origins import CaptionOrigin
from data_catalog.sources.rows import Candidate, JudgedRow, Origin, admit, refuse
from data_catalog.sources.tables import FORMATS, Entry, Wanted, check_table, read_table
from data_catalog.sources.urls import is_web_url, url_key


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig(FilesConfig):
    """Tables of your own pairs, and what their columns are called."""

    WANTED: ClassVar = f"at least one file: {FORMATS}"

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of CSV, TSV, JSON Lines or Parquet files. The name's suffix tells the format."""
    caption_column: str
    """Column of the captions."""
    url_column: str | None = None
    """Column of the images' URLs. Exactly one of this and `path_column` is set."""
    path_column: str | None = None
    """Column of the images' names inside `images`."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them. Left out, it is the folder that the files are in."""
    lang: str | None = None
    """ISO 639-1 code of the captions; where `lang_column` is set too, of those without a code there. One of the two is
    needed."""
    lang_column: str | None = None
    """Column of a code for each caption."""
    origin: str = NATIVE
    """Makers of the captions: "native", "human_translation", "machine_translation" or
    "machine_translation_corrected"."""
    translator: str | None = None
    """Name of who translated the captions, or of what did."""
    source_caption_column: str | None = None
    """Column of the captions that these are translations of; a cell may be empty. Translations are then judged beside
    them."""
    source_lang: str | None = None
    """ISO 639-1 code of the captions in `source_caption_column`. The two go together."""
    license_column: str | None = None
    """Column of the images' licenses, kept with the row."""
    attribution_column: str | None = None
    """Column of those who are to be credited for the images, kept with the row."""
    page_column: str | None = None
    """Column of the pages that the images are on, kept with the row."""
    split_column: str | None = None
    """Column of the splits (train, val, test) that the files state, kept with the row. `split.by` then says whether
    they hold."""

    def __post_init__(self) -> None:
        """Refuse what names no files, no image or no language."""
        FilesConfig.__post_init__(self)
        if not self.caption_column:
            raise SettingsError("caption_column must name a column")
        if bool(self.url_column) == bool(self.path_column):
            raise SettingsError("exactly one of url_column and path_column must be set")
        if not self.lang and not self.lang_column:
            raise SettingsError('lang or lang_column must be set, as in lang = "en"')
        if self.images and self.url_column:
            raise SettingsError("images goes with path_column; with url_column images come from the web")
        _ = pairs_origin(self)
        if bool(self.source_caption_column) != bool(self.source_lang):
            raise SettingsError("source_caption_column and source_lang, the language in that column, go together")
        if self.source_caption_column and self.origin == NATIVE:
            raise SettingsError(
                'source_caption_column is of translations: set origin, as in origin = "human_translation"'
            )
        if self.source_caption_column and (self.lang_column or self.lang == self.source_lang):
            raise SettingsError("source_caption_column needs lang, another than source_lang, and no lang_column")

    def require_use(self, source: str, target_lang: str) -> None:
        """Refuse originals of captions that are themselves to be translated: they would be read and dropped.

        Raises:
            SettingsError: names the source.
        """
        if self.source_caption_column and self.lang != target_lang:
            raise SettingsError(
                f"sources.{source} has its captions in {self.lang}, which a build translates to {target_lang}: "
                f"originals go beside captions in {target_lang} only, so name {self.source_caption_column} as "
                "caption_column, or leave source_caption_column out"
            )


def check_pairs(config: PairsConfig) -> None:
    """Raise InputError unless every file is whole and has the columns, and local images can be opened."""
    wanted = _wanted(config)
    for path in upstream_files(config):
        check_table(path, wanted)
    location = pairs_images(config)
    if location is not None:
        check_images(location)


def read_pairs(config: PairsConfig) -> Iterator[JudgedRow]:
    """Yield what becomes of every record."""
    wanted, columns = _wanted(config), _columns(config)
    for path in upstream_files(config):
        for entry in read_table(path, wanted):
            yield _row(Origin(str(path), entry.line, entry.raw), entry, config, columns)


def pairs_images(config: PairsConfig) -> str | None:
    """Return the folder, zip or tar of local images, or a glob of them; None where images come by URL.

    Raises:
        SettingsError: `images` is not set and the files lie in several folders.
    """
    if config.url_column:
        return None
    if config.images:
        return config.images
    folders = {path.parent for path in upstream_files(config)}
    if len(folders) > 1:
        raise SettingsError(f"images must be set, for the files lie in {len(folders)} folders")
    return str(folders.pop())


def _columns(config: PairsConfig) -> dict[str, str]:
    """Return the columns that are read, by the field of a `Candidate` that each is for; the image's comes first."""
    columns = {
        "url": config.url_column,
        "path": config.path_column,
        "caption": config.caption_column,
        "lang": config.lang_column,
        "original": config.source_caption_column,
        "license": config.license_column,
        "attribution": config.attribution_column,
        "page_url": config.page_column,
        "split": config.split_column,
    }
    return {name: column for name, column in columns.items() if column}


def _wanted(config: PairsConfig) -> Wanted:
    required = list(_columns(config).values())
    return Wanted(
        required=required, image_column=required[0], is_image=is_web_url if config.url_column else is_image_name
    )


def _row(origin: Origin, entry: Entry, config: PairsConfig, columns: Mapping[str, str]) -> JudgedRow:
    if entry.trouble:
        return refuse(origin, *entry.trouble)
    texts: dict[str, str | None] = {}
    for name, column in columns.items():
        value = entry.values.get(column)
        if value is not None and not isinstance(value, str):
            return refuse(origin, "malformed_row", f"{column} is {describe(value)} instead of a text")
        texts[name] = value
    url, lang = texts.get("url"), texts.pop("lang", None)
    found = Candidate(
        sample_key=url_key(url.strip()) if url else texts.get("path") or "",
        lang=lang.strip().lower() if lang and lang.strip() else config.lang,
        original_lang=config.source_lang,
        **texts,
    )
    return admit(origin, found)


def pairs_origin(config: PairsConfig, upstream_file: str = "") -> CaptionOrigin:
    """Return what the settings say of who made the captions.

    Raises:
        SettingsError: that contradicts itself.
    """
    return CaptionOrigin(origin=config.origin, translator=config.translator)


def pairs_languages(config: PairsConfig) -> frozenset[str] | None:
    """Return the one language of the captions, or None where a column tells it."""
    return None if config.lang_column is not None or config.lang is None else frozenset({config.lang})

"""Reader of the user's own pairs: CSV, TSV, JSON Lines or Parquet with a column of captions, and one of URLs or paths.

`PairsConfig` names the columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import PATH, OneOf, path_setting
from data_catalog.rows.image_formats import is_image_name
from data_catalog.rows.origins import ORIGINS, CaptionOrigin
from data_catalog.rows.schema import NATIVE
from data_catalog.rows.urls import is_web_url, url_key
from data_catalog.sources.files import FilesConfig, Trouble, upstream_files
from data_catalog.sources.image_files import inner_name
from data_catalog.sources.json_documents import describe
from data_catalog.sources.rows import Candidate, Location, OpenFiles, Records
from data_catalog.sources.tables import FORMATS, Entry, read_table

# The settings that name columns, by the field of `Candidate` that each one fills; the image's column is first.
_COLUMNS = {
    "url": "url_column",
    "path": "path_column",
    "caption": "caption_column",
    "lang": "lang_column",
    "original": "source_caption_column",
    "license": "license_column",
    "attribution": "attribution_column",
    "page_url": "page_column",
    "split": "split_column",
}


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """Base of the settings of the user's own captions: their language and origin."""

    SUFFIX: ClassVar = "key"  # of settings that name a fact in a record, such as `lang_key`

    lang: str | None = None
    """ISO 639-1 code of the captions; with `lang_column` or `lang_key`, of those without a code there. One is required.
    """
    origin: Annotated[str, OneOf(ORIGINS)] = NATIVE
    """Origin of the captions: "native", "human_translation", "machine_translation" or
    "machine_translation_corrected"."""
    translator: str | None = None
    """Person, service or program that translated the captions."""

    def __post_init__(self) -> None:
        _ = pairs_origin(self)

    def named(self, fact: str) -> str | None:
        """Return the column, or the name in JSON, of a fact such as "lang"; None if there is none."""
        name: str | None = getattr(self, f"{fact}_{self.SUFFIX}")
        return name


@dataclass(frozen=True, kw_only=True)
class ColumnSettings(CaptionSettings):
    """Base of the settings of tables, which name the columns of facts."""

    SUFFIX: ClassVar = "column"

    lang_column: str | None = None
    """Column of the language code of each caption."""
    license_column: str | None = None
    """Column of the images' licenses."""
    attribution_column: str | None = None
    """Column of the people to credit for the images."""
    page_column: str | None = None
    """Column of the URLs of the images' pages."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig(ColumnSettings, FilesConfig):
    """Tables of your own pairs, and the names of their columns."""

    EXPECTED: ClassVar = f"a table of pairs ({FORMATS})"

    files: tuple[str, ...] = field(metadata=PATH)
    """CSV, TSV, JSON Lines or Parquet files, told apart by suffix."""
    caption_column: str
    """Column of the captions."""
    url_column: str | None = None
    """Column of the images' URLs. Set this or `path_column`."""
    path_column: str | None = None
    """Column of the images' names in `images`."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them. By default the folder of the files."""
    source_caption_column: str | None = None
    """Column of the source captions, for checks of translations; a cell may be empty."""
    source_lang: str | None = None
    """ISO 639-1 code of the captions in `source_caption_column`. Set both or neither."""
    split_column: str | None = None
    """Column of the upstream splits (train, val, test). `split.by` decides whether they are used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.url_column) == bool(self.path_column) or (self.url_column and self.images):
            raise SettingsError(
                "exactly one of url_column and path_column must be set, and images only beside path_column"
            )
        is_translated = bool(self.source_caption_column)
        is_one_language = not self.lang_column and self.lang != self.source_lang
        if is_translated != bool(self.source_lang) or (
            is_translated and (self.origin == NATIVE or not is_one_language)
        ):
            raise SettingsError(
                "source_caption_column is for translations from one language to another: set source_lang, another lang "
                '(and no lang_column), and an origin such as "human_translation"'
            )

    def require_use(self, source: str, target_lang: str) -> None:
        """Refuse source captions that would be dropped, beside captions that the build translates."""
        if self.source_caption_column and self.lang != target_lang:
            raise SettingsError(
                f"sources.{source} has captions in {self.lang}, which the build translates to {target_lang}. "
                f"source_caption_column is only for captions in {target_lang}: set caption_column to "
                f"{self.source_caption_column}, or remove source_caption_column"
            )


def read_pairs(config: PairsConfig) -> OpenFiles:
    """Yield each file with every record of it."""
    return ((path, _records(path, config)) for path in upstream_files(config))


def _records(path: Path, config: PairsConfig) -> Records:
    named = {name: getattr(config, setting) for name, setting in _COLUMNS.items()}
    columns = {name: column for name, column in named.items() if column or name == "caption"}
    is_image = is_web_url if config.url_column else is_image_name
    for entry in read_table(path, list(columns.values()), is_image):
        yield Location(str(path), entry.line, entry.raw), _record(entry, config, columns)


def pairs_images(config: PairsConfig) -> str | None:
    """Return the folder, zip or tar of local images, or a glob of them; None if images are fetched by URL."""
    if config.url_column:
        return None
    if config.images:
        return config.images
    folders = {path.parent for path in upstream_files(config)}
    if len(folders) != 1:
        raise SettingsError(f"images must be set, since the files are in {len(folders)} folders")
    return str(folders.pop())


def _record(entry: Entry, config: PairsConfig, columns: Mapping[str, str]) -> Candidate | Trouble:
    texts = entry.trouble or stated_texts(entry.values, columns)
    if isinstance(texts, Trouble):
        return texts
    if url := texts.get("url"):
        texts["url"] = url = url.strip()
    if path := texts.get("path"):
        # "./1.jpg" and "1.jpg" are one image; a name that is refused stays as it is.
        texts["path"] = path = inner_name(path.strip()) or path.strip()
    lang = (texts.pop("lang", None) or "").strip().lower() or config.lang
    sample_key = url_key(url) if url else path or ""
    return Candidate(sample_key=sample_key, lang=lang, original_lang=config.source_lang, **texts)


def stated_texts(values: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, str | None] | Trouble:
    """Return the texts of a record by the field of `Candidate` that each one fills."""
    texts: dict[str, str | None] = {}
    for name, column in columns.items():
        value = values.get(column)
        if value is not None and not isinstance(value, str):
            return Trouble("malformed_row", f"{column or name} is {describe(value)} instead of a text")
        texts[name] = value
    return texts


def pairs_origin(config: Any, upstream_file: str = "") -> CaptionOrigin:
    """Return the origin of the captions, from the settings."""
    return CaptionOrigin(origin=config.origin, translator=config.translator)

"""Reader of Wikipedia-based Image Text (WIT): the 17-column TSV, read by its header, row by row.

The captions are text of Wikipedia; the whole dataset is CC BY-SA 3.0. WIT does not state licenses of single images, so
`license` and `attribution` are empty, and `page_url` is the page that uses the image.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import MinLen

from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import PATH
from data_catalog.rows.urls import canonical_url, is_web_url, url_key
from data_catalog.sources.delimited import read_records
from data_catalog.sources.files import FilesConfig, Trouble, read_lines, text_trouble, upstream_files
from data_catalog.sources.rows import Candidate, Location, OpenFiles, Records, UnselectedRow
from data_catalog.sources.tables import header_of, require_columns

_CAPTION_COLUMNS = {
    "reference": "caption_reference_description",
    "attribution": "caption_attribution_description",
    "alt_text": "caption_alt_text_description",
}
# WIT uses the old ISO 639-1 codes that Google uses.
_RENAMED_LANGS = {"iw": "he", "in": "id", "ji": "yi"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WitConfig(FilesConfig):
    """Files of WIT, and the rows to select."""

    EXPECTED: ClassVar = "a WIT TSV with its header line"

    files: tuple[str, ...] = field(metadata=PATH)
    """TSV files."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the pages to read. By default the target language."""
    caption_kinds: Annotated[tuple[Literal["reference", "attribution", "alt_text"], ...], MinLen(1)] = ("reference",)
    """Kinds of captions to read: "reference" (below the image on the page, as CLIP-Italian used), "attribution" (on the
    image's own page, often in another language) and "alt_text"."""


def read_wit(config: WitConfig) -> OpenFiles:
    """Yield each file with a record for each selected caption of a row, or one that is malformed or unselected.

    A row that cannot be split into its columns is malformed in any case, since its language is uncertain.
    """
    if not config.languages:
        raise SettingsError("languages must name at least one language, such as ['it']")
    languages = frozenset(map(_modern, config.languages))
    return ((path, _records(path, config.caption_kinds, languages)) for path in upstream_files(config))


def _records(path: Path, kinds: tuple[str, ...], languages: frozenset[str]) -> Records:
    lines = read_lines(path)
    columns = header_of(lines, "\t")
    require_columns(path, columns, ["language", "image_url", *(_CAPTION_COLUMNS[kind] for kind in kinds)])
    places = [columns.index(name) for name in ("image_url", "page_url") if name in columns]

    def starts_row(cells: list[str]) -> bool:
        return max(places) < len(cells) <= len(columns) and all(is_web_url(cells[place]) for place in places)

    for record in read_records(lines, delimiter="\t", num_cells=len(columns), starts_row=starts_row):
        location = Location(str(path), record.line, record.text)
        values = dict(zip(columns, record.cells, strict=False))
        language = _modern(values.get("language", ""))
        if values and language not in languages and not text_trouble(language):
            yield location, UnselectedRow(reason="language")
        elif record.trouble:
            yield location, record.trouble
        else:
            for found in _captions(values, kinds, language):
                yield location, found


def _captions(
    values: Mapping[str, str], kinds: tuple[str, ...], language: str
) -> Iterator[Candidate | Trouble | UnselectedRow]:
    captions = {kind: text for kind in kinds if (text := values[_CAPTION_COLUMNS[kind]]).strip()}
    url, page_url = values["image_url"], values.get("page_url", "").strip()
    if not captions:
        yield UnselectedRow(reason="caption_kind")
    elif not is_web_url(url.strip()):
        yield Trouble("image_missing", f"image_url is not a URL: {url}")
    else:
        # Distinguishes the captions of one image on several pages, or in several sections of a page.
        place = f"{page_url}\n{values.get('hierarchical_section_title', '')}"
        digest = hashlib.sha1(place.encode(), usedforsecurity=False).hexdigest()[:12]
        key = url_key(canonical_url(url))
        for kind, caption in captions.items():
            yield Candidate(
                sample_key=key,
                caption_key=f"{kind}-{digest}",
                url=url,
                caption=caption,
                lang=language,
                page_url=page_url,
            )


def _modern(language: str) -> str:
    code = language.strip().lower()
    return _RENAMED_LANGS.get(code, code)

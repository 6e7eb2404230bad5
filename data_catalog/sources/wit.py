"""Reader of Wikipedia-based Image Text (WIT): the 17-column TSV, read by its header, row by row.

The captions are text of Wikipedia; the whole dataset is CC BY-SA 3.0. WIT does not state licenses of single images, so
`license` and `attribution` are empty, and `page_url` is the page that uses the image.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from data_catalog.errors import InputError, SettingsError
from data_catalog.settings import PATH
from data_catalog.sources.delimited import Record, complete_cells, read_records
from data_catalog.sources.files import (
    FilesConfig,
    Line,
    Trouble,
    check_text_file,
    read_lines,
    text_trouble,
    upstream_files,
)
from data_catalog.sources.rows import Candidate, Location, Records, UnselectedRow
from data_catalog.sources.urls import canonical_url, is_web_url, url_key

_EXPECTED = "a WIT TSV with its header line"
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

    EXPECTED_FILES: ClassVar = "at least one WIT TSV"

    files: tuple[str, ...] = field(metadata=PATH)
    """TSV files."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the pages to read. By default the target language."""
    caption_kinds: tuple[str, ...] = ("reference",)
    """Kinds of captions to read: "reference" (below the image on the page, as CLIP-Italian used), "attribution" (on the
    image's own page, often in another language) and "alt_text"."""

    def __post_init__(self) -> None:
        """Raise `SettingsError` for no files, or for unknown or no kinds of captions."""
        FilesConfig.__post_init__(self)
        unknown = [kind for kind in self.caption_kinds if kind not in _CAPTION_COLUMNS]
        if unknown or not self.caption_kinds:
            raise SettingsError(
                f"caption_kinds must be some of {', '.join(_CAPTION_COLUMNS)}, got {self.caption_kinds}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Indices of the columns that the reader needs."""

    num_cells: int
    language: int
    image_url: int
    page_url: int | None
    section: int | None
    captions: dict[str, int]

    def starts_row(self, cells: list[str]) -> bool:
        """Return whether a line has URLs in a row's URL columns: a quote still open before it was never closed."""
        places = [place for place in (self.image_url, self.page_url) if place is not None]
        return max(places) < len(cells) <= self.num_cells and all(is_web_url(cells[place]) for place in places)


def check_wit(config: WitConfig) -> None:
    """Refuse a file that cannot be read to its end, or lacks the columns or rows."""
    if not config.languages:
        raise SettingsError("languages must name at least one language, such as ['it']")
    for path in upstream_files(config):
        check_text_file(path, expected=_EXPECTED)
        lines = read_lines(path)
        _read_header(path, lines, config)
        if not any(line.text for line in lines):
            raise InputError(f"{path} has a header but no rows: expected {_EXPECTED}")


def read_wit(config: WitConfig) -> Records:
    """Yield a record for each selected caption of a row, or one that is malformed or unselected.

    A row that cannot be split into its columns is malformed in any case, since its language is uncertain.
    """
    languages = frozenset(_modern(language) for language in config.languages)
    for path in upstream_files(config):
        lines = read_lines(path)
        layout = _read_header(path, lines, config)
        records = read_records(lines, delimiter="\t", num_cells=layout.num_cells, starts_row=layout.starts_row)
        for record in records:
            for found in _found(record, layout, languages):
                yield Location(str(path), record.line, record.text), found


def _read_header(path: Path, lines: Iterator[Line], config: WitConfig) -> _Layout:
    header = next((line.text for line in lines if line.text), "")
    columns = [cell.strip() for cell in complete_cells(header, delimiter="\t")]
    captions = {kind: _CAPTION_COLUMNS[kind] for kind in config.caption_kinds}
    missing = [name for name in ("language", "image_url", *captions.values()) if columns.count(name) != 1]
    if missing:
        found = ", ".join(columns)[:500]
        raise InputError(
            f"{path} is not {_EXPECTED}: it needs exactly one column {', '.join(missing)}, and has {found}"
        )
    places = {name: place for place, name in enumerate(columns)}
    return _Layout(
        num_cells=len(columns),
        language=places["language"],
        image_url=places["image_url"],
        page_url=places.get("page_url"),
        section=places.get("hierarchical_section_title"),
        captions={kind: places[name] for kind, name in captions.items()},
    )


def _found(record: Record, layout: _Layout, languages: frozenset[str]) -> Iterator[Candidate | Trouble | UnselectedRow]:
    cells = record.cells
    language = _modern(cells[layout.language]) if cells else ""
    if cells and language not in languages and not text_trouble(language):
        yield UnselectedRow(reason="language")
        return
    if record.trouble:
        yield record.trouble
        return
    captions = {kind: cells[place] for kind, place in layout.captions.items() if cells[place].strip()}
    if not captions:
        yield UnselectedRow(reason="caption_kind")
        return
    url = cells[layout.image_url]
    if not is_web_url(url.strip()):
        yield Trouble("image_missing", f"image_url is not a URL: {url}")
        return
    page_url = cells[layout.page_url].strip() if layout.page_url is not None else ""
    section = cells[layout.section] if layout.section is not None else ""
    # Distinguishes the captions of one image on several pages, or in several sections of a page.
    place = hashlib.sha1(f"{page_url}\n{section}".encode(), usedforsecurity=False).hexdigest()[:12]
    sample_key = url_key(canonical_url(url))
    for kind, caption in captions.items():
        yield Candidate(
            sample_key=sample_key,
            caption_key=f"{kind}-{place}",
            url=url,
            caption=caption,
            lang=language,
            page_url=page_url,
        )


def _modern(language: str) -> str:
    code = language.strip().lower()
    return _RENAMED_LANGS.get(code, code)

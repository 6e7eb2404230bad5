"""Rows that source readers yield, and the validation that all sources share."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge

from data_catalog.disk.files import order_key
from data_catalog.rows.drop_reasons import Reason
from data_catalog.rows.urls import is_web_url
from data_catalog.sources.files import MAX_TEXT_CHARS, Trouble, excerpt, text_trouble


@dataclass(slots=True, kw_only=True)  # not frozen, which would be slower for millions of rows
class Candidate:
    """The fields of a record about a caption and its image, before `row_of` validates them."""

    sample_key: str  # identity of the image within its source, such as "391895" or a sha1 of its canonical URL
    caption_key: str | None = None  # upstream's id of the caption
    url: str | None = None
    path: str | None = None  # name of the image in the source's `images`; with it, nothing is asked of url
    caption: str | None
    lang: str | None  # ISO 639-1 code that upstream states, or the documented language of the dataset
    original: str | None = None  # the text that the caption translates, if upstream has both
    original_lang: str | None = None
    split: str | None = None  # split of the image that upstream states; in an `UpstreamRow` normalised
    license: str | None = None
    attribution: str | None = None
    page_url: str | None = None


@dataclass(slots=True, kw_only=True)
class UpstreamRow(Candidate):
    """A selected, well-formed caption of one image; file and line are as in `Location`."""

    upstream_file: str
    upstream_line: int
    caption: str
    lang: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedRow:
    """A row that could not be read as a caption of an image; it is stored as a rejected row.

    `reason` is a key of `MALFORMED_REASONS`, `detail` says in a few words what was found, and `raw` is the start of the
    record's text (at most 500 characters).
    """

    upstream_file: str
    upstream_line: int
    reason: str
    detail: str
    raw: str | None = None

    def __str__(self) -> str:
        return f"{self.upstream_file}, line or record {self.upstream_line}: {self.reason}, {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnselectedRow:
    """A row that the settings do not select: counted, not stored. `reason`: "language", "caption_kind" or "limit"."""

    reason: str


JudgedRow = UpstreamRow | MalformedRow
SourceRow = JudgedRow | UnselectedRow

MALFORMED_REASONS = {
    "malformed_row": Reason("the row could not be parsed: wrong number of fields, a missing field or a broken quote"),
    "bad_encoding": Reason("the row contains bytes that are not UTF-8, or a NUL"),
    "caption_missing": Reason("the row has no caption"),
    "image_missing": Reason("the row names no image (no URL, no path, or an id that no image has)"),
    "lang_missing": Reason("the row has no language, and the recipe gives none", settings=("sources.*.lang",)),
    "unknown_split": Reason(
        "upstream states a split that is not train, val or test, and the recipe keeps upstream's splits",
        settings=("split.by",),
    ),
}

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def normalised_split(name: str) -> str | None:
    """Normalise the name of a split: train, val or test, None for white space; unknown names are unchanged."""
    return _SPLIT_NAMES.get(name.strip().lower(), name.strip() or None)


class Location(NamedTuple):
    """Location of a record: the file as opened, the 1-based line or record number, and the record's text."""

    upstream_file: str
    upstream_line: int
    raw: str = ""


# What a reader finds in each record of a file, and the files of a source with their records.
Records = Iterator[tuple[Location, Candidate | Trouble | UnselectedRow]]
OpenFiles = Iterator[tuple[Path, Records]]


def row_of(location: Location, found: Candidate | Trouble | UnselectedRow) -> SourceRow:
    """Return the row of a record: valid, malformed or unselected.

    A URL must be http or https, and a caption must not be blank. White space around `url` is removed, empty optional
    fields become None, and the caption is unchanged.
    """
    if isinstance(found, UnselectedRow):
        return found
    if isinstance(found, Trouble):
        return malformed_row(location, *found)
    url, caption, lang = (found.url or "").strip(), found.caption, (found.lang or "").strip()
    texts = (caption, found.original, found.url, found.path, found.sample_key, found.caption_key, found.lang)
    for text in (*texts, found.split, found.license, found.attribution, found.page_url):
        if text and len(text) > MAX_TEXT_CHARS:
            detail = f"a text of {len(text):,} characters, more than {MAX_TEXT_CHARS:,}"
            return malformed_row(location, "malformed_row", detail)
        if trouble := text_trouble(text):
            return malformed_row(location, *trouble)
    if url and not is_web_url(url):
        return malformed_row(location, "image_missing", f"not an http or https URL: {url}")
    if not url and not (found.path and found.path.strip()):
        return malformed_row(location, "image_missing", "neither URL nor path")
    if caption is None or not caption.strip():
        return malformed_row(location, "caption_missing", "no caption" if caption is None else "an empty caption")
    if not lang:
        return malformed_row(location, "lang_missing", "no language")
    return UpstreamRow(
        upstream_file=location.upstream_file,
        upstream_line=location.upstream_line,
        sample_key=found.sample_key,
        caption_key=found.caption_key,
        url=url if found.url else None,
        path=found.path or None,
        caption=caption,
        lang=lang,
        original=found.original if found.original and found.original.strip() else None,
        original_lang=found.original_lang,
        split=normalised_split(found.split or ""),
        license=found.license or None,
        attribution=found.attribution or None,
        page_url=found.page_url or None,
    )


def malformed_row(location: Location, reason: str, detail: str) -> MalformedRow:
    """Return a malformed row for a record; `reason` is a key of `MALFORMED_REASONS`."""
    file, line, raw = location
    return MalformedRow(
        upstream_file=file, upstream_line=line, reason=reason, detail=excerpt(detail), raw=excerpt(raw) if raw else None
    )


# Reason of unselected rows beyond the limit.
BEYOND_LIMIT = "limit"


class DrawnSamples(NamedTuple):
    """The samples that a limit draws, those with a rank below `end`; and the numbers of rows read and drawn."""

    end: int
    num_rows: int
    num_drawn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLimit:
    """Limit on the rows of a source, which draws the same rows in any order of the files.

    Whole samples are drawn by a hash of their ids, in two passes with bounded memory.
    """

    limit: Annotated[int, Ge(0)] = 0
    """Maximum number of rows, drawn at random from those that the other settings select, with all captions of an image
    or none. Malformed rows count. A larger limit adds rows; 0 reads all."""
    limit_seed: int = 0
    """Seed of the draw."""

    def stated(self) -> dict[str, Any]:
        """Return the settings for keys and manifest; empty if all rows are read."""
        return {"limit": self.limit, "limit_seed": self.limit_seed} if self.limit else {}

    def rank(self, sample_id: str) -> int:
        """Return the rank of a sample, a 64-bit hash: samples are drawn in the order of their ranks."""
        return int(order_key(f"{self.limit_seed}\0{sample_id}"), 16)

    def draw(self, sample_ids: Iterable[str]) -> DrawnSamples:
        """Draw samples, given the sample id of every row; keeps at most `limit` numbers in memory."""
        counts: dict[int, int] = {}
        last_first: list[int] = []
        end, num_rows, num_drawn = 16**16, 0, 0
        for sample_id in sample_ids:
            num_rows += 1
            rank = self.rank(sample_id)
            if rank >= end:
                continue
            if rank not in counts:
                heappush(last_first, -rank)
            counts[rank] = counts.get(rank, 0) + 1
            num_drawn += 1
            while num_drawn > self.limit:  # counts only grow, so a sample that is too much now stays too much
                end = -heappop(last_first)
                num_drawn -= counts.pop(end)
        return DrawnSamples(end, num_rows, num_drawn)


ALL_ROWS = RowLimit()

"""What a source reader yields: one object per upstream row, by the same judgement for every source."""

from dataclasses import dataclass
from typing import NamedTuple

from data_catalog.sources.files import MAX_TEXT_CHARS, excerpt, text_trouble
from data_catalog.sources.urls import is_web_url
from data_catalog.stages import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRow:
    """A selected, well-formed caption of one image.

    Args:
        upstream_file: path as the reader opened it; ingest makes it relative.
        upstream_line: 1-based line where the record starts (record number in JSON and Parquet).
        sample_key: identity of the image within its source, such as "391895" or a sha1 of its canonical URL.
        caption_key: upstream's own id of the caption, or None where it has none.
        url: where the image is on the web; exactly one of `url` and `path` is set.
        path: the image's name inside the source's `images` folder or archive.
        caption: the text as upstream has it.
        lang: ISO 639-1 code that upstream states, or the dataset's documented language.
        original: what the caption is a translation of, where upstream has it beside it.
        original_lang: its ISO 639-1 code.
        split: that upstream states of the image, as `usual_split` spells it.
    """

    upstream_file: str
    upstream_line: int
    sample_key: str
    caption_key: str | None = None
    url: str | None = None
    path: str | None = None
    caption: str
    lang: str
    original: str | None = None
    original_lang: str | None = None
    split: str | None = None
    license: str | None = None
    attribution: str | None = None
    page_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedRow:
    """A row that could not be read as a caption of an image: kept as a rejected row, never fatal.

    `reason` is one of `MALFORMED_REASONS`; `detail` says in a few words what was found; `raw` is the start of the
    offending text (at most 500 characters).
    """

    upstream_file: str
    upstream_line: int
    reason: str
    detail: str
    raw: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnselectedRow:
    """A row that is not asked for: counted, not stored. `reason` is "language", "caption_kind" or "limit"."""

    reason: str


SourceRow = UpstreamRow | MalformedRow | UnselectedRow

MALFORMED_REASONS = {
    "malformed_row": Reason("the row could not be parsed: wrong number of fields, a missing field or a broken quote"),
    "bad_encoding": Reason("the row holds bytes that are not UTF-8, or a NUL"),
    "caption_missing": Reason("the row has no caption"),
    "image_missing": Reason("the row names no image (no URL, no path, or an id that no image has)"),
    "lang_missing": Reason("the row has no language, and the recipe gives none", settings=("sources.*.lang",)),
    "unknown_split": Reason(
        "upstream states a split of the image that is neither train, val nor test, and is to be kept",
        settings=("split.by",),
    ),
}

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def usual_split(name: str) -> str | None:
    """Return train, val or test for their usual names, None for white space, and any other name as it is."""
    return _SPLIT_NAMES.get(name.strip().lower(), name.strip() or None)


class Origin(NamedTuple):
    """Where a record stands: the file as opened, its 1-based line or record number, and the text it came from."""

    upstream_file: str
    upstream_line: int
    raw: str = ""


def refuse(origin: Origin, reason: str, detail: str) -> MalformedRow:
    """A record that is no row; `reason` is a key of `MALFORMED_REASONS`."""
    return MalformedRow(
        upstream_file=origin.upstream_file,
        upstream_line=origin.upstream_line,
        reason=reason,
        detail=excerpt(detail),
        raw=excerpt(origin.raw) if origin.raw else None,
    )


def admit(
    origin: Origin,
    *,
    sample_key: str,
    caption: str | None,
    lang: str | None,
    original: str | None = None,
    original_lang: str | None = None,
    url: str | None = None,
    path: str | None = None,
    caption_key: str | None = None,
    split: str | None = None,
    license: str | None = None,
    attribution: str | None = None,
    page_url: str | None = None,
) -> UpstreamRow | MalformedRow:
    """Make a row of a record, or say why it is none; empty optional fields become None.

    A URL must be http or https; a caption must hold more than white space. `url` loses surrounding white space, the
    caption is left as upstream has it.
    """
    for text in (caption, original, url, path, sample_key, caption_key, lang, split, license, attribution, page_url):
        if text and len(text) > MAX_TEXT_CHARS:
            return refuse(origin, "malformed_row", f"a text of {len(text):,} characters, more than {MAX_TEXT_CHARS:,}")
        if trouble := text_trouble(text):
            return refuse(origin, *trouble)
    if url is not None and url.strip() and not is_web_url(url.strip()):
        return refuse(origin, "image_missing", f"not an http or https URL: {url.strip()}")
    if not (url and url.strip()) and not (path and path.strip()):
        return refuse(origin, "image_missing", "neither URL nor path")
    if caption is None or not caption.strip():
        return refuse(origin, "caption_missing", "no caption" if caption is None else "an empty caption")
    if not lang or not lang.strip():
        return refuse(origin, "lang_missing", "no language")
    return UpstreamRow(
        upstream_file=origin.upstream_file,
        upstream_line=origin.upstream_line,
        sample_key=sample_key,
        caption_key=caption_key,
        url=url.strip() if url else None,
        path=path or None,
        caption=caption,
        lang=lang.strip(),
        original=original if original and original.strip() else None,
        original_lang=original_lang,
        split=usual_split(split or ""),
        license=license or None,
        attribution=attribution or None,
        page_url=page_url or None,
    )

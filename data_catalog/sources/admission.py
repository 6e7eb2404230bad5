"""When a parsed record becomes a row: the same judgement for every source."""

from typing import NamedTuple

from data_catalog.sources.files import MAX_TEXT_CHARS, excerpt, text_trouble
from data_catalog.sources.rows import MalformedRow, UpstreamRow, usual_split
from data_catalog.sources.urls import is_web_url


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

"""Readers of English captions whose images are on the web: Conceptual Captions, and SBU Captioned Photos.

CC3M (`caption<TAB>url`) and CC12M (`url<TAB>caption`) are TSV without header and quotes. SBU (Ordonez, Kulkarni and
Berg, Im2Text, 2011) is a JSON of parallel lists, or a file of URLs and a file of captions, line by line. Its images are
on Flickr, each under its owner's terms.
"""

import re
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from data_catalog.base.errors import InputError
from data_catalog.base.settings import PATH
from data_catalog.rows.urls import flickr_page, is_web_url, url_key
from data_catalog.sources.files import FilesConfig, Line, Trouble, first_text, read_lines, upstream_files
from data_catalog.sources.json_documents import describe, open_object
from data_catalog.sources.rows import Candidate, Location, OpenFiles, Records

_SPLIT_IN_NAME = re.compile(r"(train|val)(?:ing|idation)?(?![a-z])", re.IGNORECASE)
_LISTS = ("image_urls", "captions", "user_ids")
_NO_LINE = Line(0, "", "", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptualCaptionsConfig(FilesConfig):
    """Files of Conceptual Captions."""

    EXPECTED: ClassVar = "a TSV without header: caption<TAB>url with kind cc3m, url<TAB>caption with kind cc12m"

    files: tuple[str, ...] = field(metadata=PATH)
    """TSV files."""


def read_conceptual_captions(config: ConceptualCaptionsConfig, *, url_column: int) -> OpenFiles:
    """Yield each file with a record for each line."""
    return ((path, _read_tsv(path, url_column)) for path in upstream_files(config))


def _read_tsv(path: Path, url_column: int) -> Records:
    found = _SPLIT_IN_NAME.search(path.name)
    split = found[1].lower() if found else None
    layout = "url<TAB>caption" if url_column == 0 else "caption<TAB>url"
    for line in read_lines(path):
        location, cells = Location(str(path), line.number, line.text), line.text.split("\t")
        if line.trouble:
            yield location, line.trouble
        elif len(cells) == 2:
            url, caption = cells[url_column].strip(), cells[1 - url_column]
            yield location, Candidate(sample_key=url_key(url), url=url, caption=caption, lang="en", split=split)
        elif line.text:
            yield location, Trouble("malformed_row", f"{len(cells)} fields instead of 2 ({layout})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SbuConfig(FilesConfig):
    """Files of SBU Captions."""

    EXPECTED: ClassVar = (
        "SBU's JSON ('image_urls' and 'captions', lists of equal length), or two text files: one of URLs, one of "
        "captions, line by line"
    )

    files: tuple[str, ...] = field(metadata=PATH)
    """JSON files, or one file of URLs and one of captions, in any order."""


def read_sbu(config: SbuConfig) -> OpenFiles:
    """Yield each file, or the file of captions, with a record for each photo; captions are in English."""
    texts: list[Path] = []
    for path in upstream_files(config):
        if first_text(path).startswith("{"):
            yield path, _read_lists(path, config.EXPECTED)
        else:
            texts.append(path)
    if not texts:
        return
    # URLs first; blank lines at the end do not misalign the lists.
    texts.sort(key=lambda path: not is_web_url(first_text(path)))
    counts = [max((line.number for line in read_lines(path) if line.text), default=0) for path in texts]
    are_urls = [is_web_url(first_text(path)) for path in texts]
    if are_urls != [True, False] or counts[0] != counts[1]:
        found = ", ".join(f"{path} with {count} lines" for path, count in zip(texts, counts, strict=True))
        raise InputError(f"files has {sum(are_urls)} list(s) of URLs among {found}: expected {config.EXPECTED}")
    yield texts[1], _read_texts(*texts)


def _read_texts(urls: Path, captions: Path) -> Records:
    pairs = zip_longest(read_lines(urls), read_lines(captions), fillvalue=_NO_LINE)
    for number, (url, caption) in enumerate(pairs, start=1):
        location = Location(str(captions), number, f"{url.text.strip()}\t{caption.text}")
        if trouble := url.trouble or caption.trouble:
            yield location, trouble
        elif url.text or caption.text:
            yield location, _photo(url.text.strip(), caption.text, None)


def _photo(url: str, caption: str, user: object) -> Candidate:
    return Candidate(
        sample_key=url_key(url),
        url=url,
        caption=caption,
        lang="en",
        attribution=f"Flickr user {user}" if user else None,
        page_url=flickr_page(url),
    )


def _read_lists(path: Path, expected: str) -> Records:
    document = open_object(path, expected=expected, names=_LISTS)
    urls, captions, users = (value if isinstance(value, list) else None for value in map(document.get, _LISTS))
    urls, captions = urls or [], captions or []
    users = [None] * len(urls) if users is None else users
    if not len(urls) == len(captions) == len(users):
        counts = f"{len(urls)} URLs, {len(captions)} captions and {len(users)} users"
        raise InputError(f"{path} has {counts}: expected {expected}")
    for number, (url, caption, user) in enumerate(zip(urls, captions, users, strict=True), start=1):
        location = Location(str(path), number, f"{url}\t{caption}")
        if isinstance(url, str) and isinstance(caption, str):
            yield location, _photo(url.strip(), caption, user)
        elif url is None or caption is None:
            yield location, Trouble("image_missing" if url is None else "caption_missing", "null in the list")
        else:
            wrong = caption if isinstance(url, str) else url
            yield location, Trouble("malformed_row", f"{describe(wrong)} in place of a text")

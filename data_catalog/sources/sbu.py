"""Reader of SBU Captioned Photos: a JSON of parallel lists, or a file of URLs and a file of captions, line by line.

Source: Ordonez, Kulkarni and Berg, Im2Text (2011). The images are on Flickr, each under its owner's terms.
"""

from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from data_catalog.errors import InputError
from data_catalog.settings import PATH
from data_catalog.sources.files import (
    FilesConfig,
    Line,
    Trouble,
    check_text_file,
    first_text,
    read_lines,
    upstream_files,
)
from data_catalog.sources.json_documents import describe, open_json
from data_catalog.sources.rows import Candidate, Location, Records
from data_catalog.sources.urls import flickr_page, is_web_url, url_key

_EXPECTED_JSON = "SBU's JSON ('image_urls' and 'captions', lists of equal length)"
_LISTS = ("image_urls", "captions", "user_ids")
_NO_LINE = Line(0, "", "", None)
_EXPECTED = f"{_EXPECTED_JSON}, or two text files: one of URLs, one of captions, line by line"


@dataclass(frozen=True, slots=True, kw_only=True)
class SbuConfig(FilesConfig):
    """Files of SBU Captions."""

    EXPECTED_FILES: ClassVar = "SBU's JSON, or its list of URLs and its list of captions"

    files: tuple[str, ...] = field(metadata=PATH)
    """JSON files, or one file of URLs and one of captions, in any order."""


def check_sbu(config: SbuConfig) -> None:
    """Refuse files that are incomplete, of an unknown format, or lists of unequal lengths."""
    paths = upstream_files(config)
    for path in paths:
        check_text_file(path, expected=_EXPECTED)
    if _are_json(paths):
        for path in paths:
            _load_lists(path)
        return
    urls, captions = _text_files(paths)
    (num_urls, last_url), (num_captions, last_caption) = _count_lines(urls), _count_lines(captions)
    if num_urls != num_captions and last_url != last_caption:  # a blank line at the end does not misalign the lists
        counts = f"{urls} has {num_urls} lines and {captions} has {num_captions}"
        raise InputError(f"{counts}: expected one caption per URL; download both again")


def read_sbu(config: SbuConfig) -> Records:
    """Yield a record for each photo; captions are in English."""
    paths = upstream_files(config)
    if _are_json(paths):
        for path in paths:
            yield from _read_lists(path)
    else:
        yield from _read_text(*_text_files(paths))


def _are_json(paths: list[Path]) -> bool:
    starts = [first_text(path).startswith("{") for path in paths]
    if any(starts) and not all(starts):
        raise InputError(f"files mixes JSON with other files ({', '.join(map(str, paths))}): expected {_EXPECTED}")
    return all(starts)


def _text_files(paths: list[Path]) -> tuple[Path, Path]:
    urls = [path for path in paths if is_web_url(first_text(path))]
    captions = [path for path in paths if path not in urls]
    if len(urls) != 1 or len(captions) != 1:
        raise InputError(
            f"files has {len(urls)} list(s) of URLs and {len(captions)} other file(s) "
            f"({', '.join(map(str, paths))}): expected {_EXPECTED}"
        )
    return urls[0], captions[0]


def _count_lines(path: Path) -> tuple[int, int]:
    """Return the number of lines of a file, and the number of its last line that is not blank."""
    number = last = 0
    for line in read_lines(path):
        number = line.number
        last = number if line.text else last
    return number, last


def _read_text(urls: Path, captions: Path) -> Records:
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


def _load_lists(path: Path) -> tuple[list[object], list[object], list[object]]:
    """Return the lists of URLs, captions and users; refuse a file of another format."""
    document = open_json(path, expected=_EXPECTED_JSON, names=_LISTS)
    fields = document if isinstance(document, dict) else {}
    urls, captions, users = map(fields.get, _LISTS)
    if not isinstance(urls, list) or not isinstance(captions, list):
        raise InputError(f"{path} is {describe(document)}: expected {_EXPECTED_JSON}")
    users = users if isinstance(users, list) else [None] * len(urls)
    if not urls or not len(urls) == len(captions) == len(users):
        counts = f"{len(urls)} URLs, {len(captions)} captions and {len(users)} users"
        raise InputError(f"{path} has {counts}: expected {_EXPECTED_JSON}")
    return urls, captions, users


def _read_lists(path: Path) -> Records:
    for number, (url, caption, user) in enumerate(zip(*_load_lists(path), strict=True), start=1):
        location = Location(str(path), number, f"{url}\t{caption}")
        if isinstance(url, str) and isinstance(caption, str):
            yield location, _photo(url.strip(), caption, user)
        elif url is None or caption is None:
            yield location, Trouble("image_missing" if url is None else "caption_missing", "null in the list")
        else:
            wrong = caption if isinstance(url, str) else url
            yield location, Trouble("malformed_row", f"{describe(wrong)} in place of a text")

"""What upstream offers: the sources, their files, and the terms that a user accepts by name; read from plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from data_catalog.downloads.fetching import ALGORITHMS, Checksum, Expected, check_url
from data_catalog.errors import ConfigError
from data_catalog.sources.registry import SOURCE_KINDS

_SOURCE_TEXTS = ("kind", "title", "licence", "terms", "page", "recorded_in")
_SOURCE_KEYS = (*_SOURCE_TEXTS, "images", "files")
_FILE_KEYS = ("file", "members", "url", "num_bytes", "by_hand", *ALGORITHMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFile:
    """One file that upstream offers.

    Args:
        paths: where it goes, below the folder of all data, with slashes; for an archive, where its members go, each
            the one with the last part of the path.
        is_archive: whether members are taken out of it.
        url: "" where no program can get it.
        expected: size and checksum of what comes from the URL.
        by_hand: what a person has to do, where there is no URL.
    """

    paths: tuple[str, ...]
    is_archive: bool = False
    url: str = ""
    expected: Expected
    by_hand: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSource:
    """A dataset's files, under one licence.

    Args:
        name: what the user calls it.
        kind: of the source that reads the files, see `SOURCE_KINDS`.
        title: what it is, in a few words.
        licence: the name by which a user accepts the terms.
        terms: one sentence of them.
        page: URL of the page that has them.
        recorded_in: the public source of URLs, sizes and checksums.
        images: folder below the folder of all data that a person fills, "" where images come by URL.
        files: what there is to get.
    """

    name: str
    kind: str
    title: str
    licence: str
    terms: str
    page: str
    recorded_in: str
    images: str
    files: tuple[UpstreamFile, ...]


def parse_registry(document: Mapping[str, Any], *, named: str) -> dict[str, UpstreamSource]:
    """The sources of a registry, by name.

    Args:
        document: one table a source, with its files in a list of tables.
        named: what messages call the registry.

    Raises:
        ConfigError: an unknown, missing or wrong value; a path that leaves the folder of all data, or is there twice;
            a URL that may not be asked: http needs a sha256 beside it.
    """
    sources = {name: _source(name, values, f"{named}: {name}") for name, values in document.items()}
    if not sources:
        raise ConfigError(f"{named} lists no sources")
    paths = [path for source in sources.values() for file in source.files for path in file.paths]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ConfigError(f"{named} puts two files at {twice[0]}")
    return sources


def _source(name: str, values: Any, where: str) -> UpstreamSource:
    _require_keys(values, _SOURCE_KEYS, where)
    texts = {key: _text(values, key, where) for key in _SOURCE_TEXTS}
    if texts["kind"] not in SOURCE_KINDS:
        raise ConfigError(f"{where}: the kind {texts['kind']!r} is none of {', '.join(SOURCE_KINDS)}")
    files = values.get("files")
    if not isinstance(files, list) or not files:
        raise ConfigError(f"{where} has no files")
    images = _path(_text(values, "images", where), where) if "images" in values else ""
    found = tuple(_file(entry, f"{where}, file {number}") for number, entry in enumerate(files, start=1))
    return UpstreamSource(name=name, images=images, files=found, **texts)


def _file(values: Any, where: str) -> UpstreamFile:
    _require_keys(values, _FILE_KEYS, where)
    if ("file" in values) == ("members" in values) or ("url" in values) == ("by_hand" in values):
        raise ConfigError(f"{where} must have either file or members, and either url or by_hand")
    expected = Expected(num_bytes=_num_bytes(values, where), checksum=_checksum(values, where))
    found = UpstreamFile(
        paths=_paths(values, where),
        is_archive="members" in values,
        url=_text(values, "url", where) if "url" in values else "",
        by_hand=_text(values, "by_hand", where) if "by_hand" in values else "",
        expected=expected,
    )
    if found.url:
        check_url(found.url, plain_http=expected.plain_http)
    return found


def _require_keys(values: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a table")
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"{where} has the unknown key {unknown[0]}: it may have {', '.join(known)}")


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    found = values.get(key)
    if not isinstance(found, str) or not found.strip() or not found.isprintable():
        raise ConfigError(f"{where} needs {key}, one line of text")
    return found


def _paths(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if "file" in values:
        return (_path(_text(values, "file", where), where),)
    members = values["members"]
    if not isinstance(members, list) or not members or not all(isinstance(member, str) for member in members):
        raise ConfigError(f"{where}: members must be a list of paths")
    paths = tuple(_path(member, where) for member in members)
    if len({PurePosixPath(path).name for path in paths}) != len(paths):
        raise ConfigError(f"{where}: two members have the same last part")
    return paths


def _path(text: str, where: str) -> str:
    parts = text.split("/")
    if not text.isprintable() or "\\" in text or any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        raise ConfigError(f"{where}: {text!r} is no path inside the folder of the data")
    return text


def _num_bytes(values: Mapping[str, Any], where: str) -> int | None:
    found = values.get("num_bytes")
    if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < 1):
        raise ConfigError(f"{where}: num_bytes must be a whole number from 1 on, or left out")
    return found


def _checksum(values: Mapping[str, Any], where: str) -> Checksum | None:
    named = [algorithm for algorithm in ALGORITHMS if algorithm in values]
    if not named:
        return None
    if len(named) > 1:
        raise ConfigError(f"{where} has both {' and '.join(named)}: give one")
    return Checksum(algorithm=named[0], hexdigest=_text(values, named[0], where).lower())

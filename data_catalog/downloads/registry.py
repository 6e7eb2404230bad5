"""Registry of upstream files: the sources, their files, and the license terms that a user accepts by name."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from data_catalog.downloads.download import ALGORITHMS, Expected, check_url
from data_catalog.errors import InputError, SettingsError
from data_catalog.sources.registry import SOURCE_KINDS

_SOURCE_TEXTS = ("kind", "title", "license", "terms", "page", "recorded_in")
_SOURCE_KEYS = (*_SOURCE_TEXTS, "images", "files")
_FILE_KEYS = ("file", "members", "url", "num_bytes", "by_hand", *ALGORITHMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFile:
    """A file that upstream offers.

    Args:
        paths: destinations below the data folder, with slashes; of an archive, the destinations of its members, each
            of which has the last part of its path as name.
    """

    paths: tuple[str, ...]
    is_archive: bool = False  # members are unpacked from it
    url: str = ""  # "" if no program can download it
    expected: Expected  # size and checksum of the download
    by_hand: str = ""  # what a person has to do if there is no URL


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSource:
    """The files of one dataset, under one license."""

    name: str  # name on the command line
    kind: str  # kind of the source that reads the files, a key of `SOURCE_KINDS`
    title: str
    license: str  # the name by which a user accepts the terms
    terms: str  # the terms in one sentence
    page: str  # URL of the page with the terms
    recorded_in: str  # the public source of URLs, sizes and checksums
    images: str  # folder below the data folder that a person fills with images, "" if images are fetched by URL
    files: tuple[UpstreamFile, ...]

    def files_matching(self, pattern: str | None) -> list[UpstreamFile]:
        """Return the files with a path, or a last part of a path, that matches a glob pattern; None matches all.

        Raises:
            SettingsError: no file matches.
        """
        found = [
            file
            for file in self.files
            if pattern is None
            or any(fnmatch(path, pattern) or fnmatch(Path(path).name, pattern) for path in file.paths)
        ]
        if not found:
            names = ", ".join(path for file in self.files for path in file.paths)
            raise SettingsError(f"no file of {self.name} matches {pattern!r}: it has {names}")
        return found


def read_registry(path: Path | None = None) -> dict[str, UpstreamSource]:
    """Return the sources of a registry's TOML file, by name; without a path, of the registry that ships.

    Raises:
        InputError: the file cannot be read, or is not TOML.
        SettingsError: a setting in it is unknown or wrong.
    """
    shipped = Path(__file__).with_suffix(".toml")
    try:
        document = tomllib.loads((path or shipped).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the registry {path or shipped} cannot be read: {error}") from error
    return parse_registry(document, named=str(path or "the registry"))


def parse_registry(document: Mapping[str, Any], *, named: str) -> dict[str, UpstreamSource]:
    """Return the sources of a registry, by name.

    Args:
        document: one table per source, with its files in a list of tables.
        named: name of the registry in messages.

    Raises:
        SettingsError: a value is unknown, missing or wrong; a path leaves the data folder, or is listed twice; a URL is
            not allowed (http needs a sha256).
    """
    sources = {name: _source(name, values, f"{named}: {name}") for name, values in document.items()}
    if not sources:
        raise SettingsError(f"{named} lists no sources")
    paths = [path for source in sources.values() for file in source.files for path in file.paths]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise SettingsError(f"{named} puts two files at {twice[0]}")
    return sources


def _source(name: str, values: Any, where: str) -> UpstreamSource:
    _require_keys(values, _SOURCE_KEYS, where)
    texts = {key: _text(values, key, where) for key in _SOURCE_TEXTS}
    if texts["kind"] not in SOURCE_KINDS:
        raise SettingsError(f"{where}: kind must be one of {', '.join(SOURCE_KINDS)}, got {texts['kind']!r}")
    images = _path(_text(values, "images", where), where) if "images" in values else ""
    entries = _list(values, "files", f"{where} has no files")
    files = tuple(_file(entry, f"{where}, file {number}") for number, entry in enumerate(entries, start=1))
    return UpstreamSource(name=name, images=images, files=files, **texts)


def _file(values: Any, where: str) -> UpstreamFile:
    _require_keys(values, _FILE_KEYS, where)
    if ("file" in values) == ("members" in values) or ("url" in values) == ("by_hand" in values):
        raise SettingsError(f"{where} must have either file or members, and either url or by_hand")
    is_archive = "members" in values
    members = _list(values, "members", f"{where}: members must be a list of paths") if is_archive else None
    paths = tuple(_path(member, where) for member in members or [_text(values, "file", where)])
    if len({PurePosixPath(path).name for path in paths}) != len(paths):
        raise SettingsError(f"{where}: two members have the same file name")
    num_bytes = values.get("num_bytes")
    if num_bytes is not None and (type(num_bytes) is not int or num_bytes < 1):
        raise SettingsError(f"{where}: num_bytes must be a whole number of at least 1; leave it out if unknown")
    named = [algorithm for algorithm in ALGORITHMS if algorithm in values]
    if len(named) > 1:
        raise SettingsError(f"{where} has both {' and '.join(named)}: keep one")
    algorithm = named[0] if named else ""
    hexdigest = _text(values, algorithm, where).lower() if named else ""
    expected = Expected(num_bytes=num_bytes, algorithm=algorithm, hexdigest=hexdigest)
    texts = {key: _text(values, key, where) for key in ("url", "by_hand") if key in values}
    if "url" in texts:
        check_url(texts["url"], plain_http=expected.plain_http)
    return UpstreamFile(paths=paths, is_archive=is_archive, expected=expected, **texts)


def _require_keys(values: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where} must be a table")
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SettingsError(f"{where} has the unknown key {unknown[0]}: known are {', '.join(known)}")


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    found = values.get(key)
    if not isinstance(found, str) or not found.strip() or not found.isprintable():
        raise SettingsError(f"{where} needs {key}, one line of text")
    return found


def _list(values: Mapping[str, Any], key: str, otherwise: str) -> list[Any]:
    found = values.get(key)
    if not isinstance(found, list) or not found:
        raise SettingsError(otherwise)
    return found


def _path(text: Any, where: str) -> str:
    is_path = isinstance(text, str) and text.isprintable() and "\\" not in text
    # A part that starts with a dot is hidden or leads outside; an empty first part makes the path absolute.
    if not is_path or any(not part or part.startswith(".") for part in text.split("/")):
        raise SettingsError(f"{where}: {text!r} is not a path inside the data folder")
    return str(text)

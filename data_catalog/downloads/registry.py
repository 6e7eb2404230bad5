"""Registry of upstream files: the sources, their files, and the license terms that a user accepts by name."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from data_catalog.downloads.download import ALGORITHMS, Expected, check_url
from data_catalog.errors import InputError, SettingsError
from data_catalog.sources.image_files import inner_name
from data_catalog.sources.registry import SOURCE_KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFile:
    """A file that upstream offers, as its table in the registry states it. Paths are below the data folder."""

    file: str = ""  # destination of the file
    members: Sequence[str] = ()  # of an archive instead: destinations of its members, which have these file names
    url: str = ""
    by_hand: str = ""  # what a person has to do instead, since no program can download it
    num_bytes: int | None = None  # size and checksum of the download
    sha256: str = ""
    md5: str = ""
    git_blob: str = ""

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.members) or bool(self.url) == bool(self.by_hand):
            raise SettingsError("give either file or members, and either url or by_hand")
        for path in self.paths:
            # The name of a hidden file may be that of an unfinished download.
            if inner_name(path) != path or path.startswith(".") or "/." in path:
                raise SettingsError(f"{path!r} is not a path inside the data folder")
        if len({PurePosixPath(path).name for path in self.paths}) != len(self.paths):
            raise SettingsError("two members have the same file name")
        if self.num_bytes is not None and self.num_bytes < 1:
            raise SettingsError("num_bytes must be a whole number of at least 1: leave it out if it is unknown")
        if self.url:
            check_url(self.url, plain_http=self.expected.plain_http)

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the destinations of the file, or of the members that are unpacked from it."""
        return tuple(self.members) or (self.file,)

    @property
    def expected(self) -> Expected:
        """Return the published size and checksum."""
        published = [(name, getattr(self, name).lower()) for name in ALGORITHMS if getattr(self, name)]
        if len(published) > 1:
            raise SettingsError(f"both {published[0][0]} and {published[1][0]} are given: keep one")
        algorithm, hexdigest = published[0] if published else ("", "")
        return Expected(num_bytes=self.num_bytes, algorithm=algorithm, hexdigest=hexdigest)


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
    images: str = ""  # folder below the data folder that a person fills with images, "" if images are fetched by URL
    files: Sequence[UpstreamFile]

    def __post_init__(self) -> None:
        if self.kind not in SOURCE_KINDS:
            raise SettingsError(f"kind must be one of {', '.join(SOURCE_KINDS)}, got {self.kind!r}")
        if not self.license.strip():
            raise SettingsError("a license needs a name, by which a user accepts it")

    def files_matching(self, pattern: str | None) -> list[UpstreamFile]:
        """Return the files with a path, or a last part of a path, that matches a glob pattern; None matches all."""
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
    """Return the sources of a registry's TOML file, by name; without a path, of the registry that ships."""
    shipped = Path(__file__).with_suffix(".toml")
    try:
        document = tomllib.loads((path or shipped).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the registry {path or shipped} cannot be read: {error}") from error
    return parse_registry(document, named=str(path or "the registry"))


def parse_registry(document: Mapping[str, Any], *, named: str) -> dict[str, UpstreamSource]:
    """Return the sources of a registry by name, from one table per source with its files in a list of tables."""
    sources = {}
    for name, values in document.items():
        with _errors_of(f"{named}: {name}"):
            files = []
            for number, entry in enumerate(values["files"], start=1):
                with _errors_of(f"file {number}"):
                    files.append(UpstreamFile(**entry))
            sources[name] = UpstreamSource(**{**values, "name": name, "files": files})
    paths = [path for source in sources.values() for file in source.files for path in file.paths]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise SettingsError(f"{named} puts two files at {twice[0]}")
    return sources


@contextmanager
def _errors_of(where: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise SettingsError(f"{where} needs {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{where}: {error}") from error

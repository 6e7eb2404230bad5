"""Registry of upstream files: the sources, their files, and the license terms that a user accepts by name."""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from data_catalog.downloads.download import ALGORITHMS, Expected
from data_catalog.sources.image_files import inner_name


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFile:
    """A file that upstream offers, as its table in the registry states it. Paths are below the data folder."""

    file: str = ""  # destination of the file
    members: Sequence[str] = ()  # of an archive instead: destinations of its members, which have these file names
    url: str = ""
    by_hand: str = ""  # what a person has to do instead, since no program can download it
    num_bytes: int | None = None  # size and checksum of the download; the strongest checksum counts
    sha256: str = ""
    sha512: str = ""
    md5: str = ""
    git_blob: str = ""

    def __post_init__(self) -> None:
        for path in self.paths:
            # The name of a hidden file may be that of an unfinished download.
            if inner_name(path) != path or path.startswith(".") or "/." in path:
                raise SettingsError(f"the registry names {path!r}, which is not a path inside the data folder")

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the destinations of the file, or of the members that are unpacked from it."""
        return tuple(self.members) or (self.file,)

    @property
    def expected(self) -> Expected:
        """Return the published size and checksum."""
        given = ((name, getattr(self, name)) for name in ALGORITHMS)
        algorithm, hexdigest = next((each for each in given if each[1]), ("", ""))
        return Expected(num_bytes=self.num_bytes, algorithm=algorithm, hexdigest=hexdigest.lower())


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

    def files_matching(self, pattern: str | None) -> list[UpstreamFile]:
        """Return the files with a path, or a last part of a path, that matches a glob pattern; None matches all."""
        wanted = pattern or "*"
        found = [
            file
            for file in self.files
            if any(fnmatch(path, wanted) or fnmatch(Path(path).name, wanted) for path in file.paths)
        ]
        if not found:
            names = ", ".join(path for file in self.files for path in file.paths)
            raise SettingsError(f"no file of {self.name} matches {wanted!r}: it has {names}")
        return found


def read_registry(path: Path | None = None) -> dict[str, UpstreamSource]:
    """Return the sources of a registry's TOML file, by name; without a path, of the registry that ships."""
    path = path or Path(__file__).with_suffix(".toml")
    with about(f"the registry {path} cannot be read"):
        return parse_registry(tomllib.loads(path.read_text(encoding="utf-8")))


def parse_registry(document: Mapping[str, Any]) -> dict[str, UpstreamSource]:
    """Return the sources of a registry by name, from one table per source with its files in a list of tables."""
    sources = {}
    for name, values in document.items():
        with about(f"the registry's table {name} is not valid", kind=SettingsError):
            files = [UpstreamFile(**entry) for entry in values["files"]]
            sources[name] = UpstreamSource(**{**values, "name": name, "files": files})
    paths = Counter(path for source in sources.values() for file in source.files for path in file.paths)
    for path in (path for path, count in paths.items() if count > 1):  # one would pass for the other
        raise SettingsError(f"the registry puts two files at {path}")
    return sources

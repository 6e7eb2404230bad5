"""Install a package from a file or from the Argos index, with a record of its source in its folder.

The index's format is Argos Translate's own (`argostranslate.package.AvailablePackage`): a JSON list of objects, whose
`links` are addresses of the same file. It contains no checksums and no sizes.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, PipelineError
from data_catalog.disk.files import digest, sha256_of, sweep_temporary
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import write_checksummed
from data_catalog.downloads.download import DownloadConfig, Expected, PartialFile, check_url, download, fetch_small
from translation.packages.package import (
    DOWNLOADS,
    RECORD,
    TEXTS,
    Package,
    PackageSource,
    argos_data_dir,
    default_packages_dir,
    installed,
    move_into_place,
    package_sha256,
    read_package,
    readable_source_of,
    require_pair,
    unpacked,
    version_key,
)

logger = logging.getLogger(__name__)

DEFAULT_INDEX = "https://raw.githubusercontent.com/argosopentech/argospm-index/main/"
STORED_INDEX = "index.json"  # in Argos Translate's own folder
MAX_INDEX_BYTES = 16 * 2**20  # the real one has 33 kB
FIRST_UNREADABLE_FORMAT = (2,)  # first `argos_version`, a package's format, that this reader does not know
SHA256_START = 12
DEFAULT_CONFIG = DownloadConfig()

TryOut = Callable[[Package], None]
"""Translates something with a package before it is installed; raises InputError if it cannot."""


class IndexEntry(NamedTuple):
    """A package that the index offers; all its links serve the same file."""

    from_code: str
    to_code: str
    package_version: str
    argos_version: str  # of its format, "0" if the index does not state it
    links: tuple[str, ...]

    @property
    def pair(self) -> str:
        """Return the languages, as "en-it"."""
        return f"{self.from_code}-{self.to_code}"

    @property
    def is_readable(self) -> bool:
        """Return whether this reader knows the package's format."""
        return version_key(self.argos_version) < FIRST_UNREADABLE_FORMAT


class Installation(NamedTuple):
    """An installed package with the record of its source; `changed` is False if it was installed before."""

    package: Package
    source: PackageSource
    changed: bool


def index_url() -> str:
    """Return the index's URL, from Argos Translate's own environment variable if it is set."""
    return (os.environ.get("ARGOS_PACKAGE_INDEX") or DEFAULT_INDEX).rstrip("/") + "/index.json"


def read_index(url: str, config: DownloadConfig = DEFAULT_CONFIG) -> list[IndexEntry]:
    """Return all translation packages that an index offers."""
    try:
        content = fetch_small(url, replace(config, max_bytes=MAX_INDEX_BYTES))
    except PipelineError as error:
        raise InputError(
            f"the index of Argos packages cannot be downloaded: {error}. Without a network, download the .argosmodel "
            f"file on another machine, from a link in {url}, and install it here with `vernaclip mt install FILE`"
        ) from error
    return parse_index(content, url)


def read_stored_index() -> list[IndexEntry] | None:
    """Return the index that Argos Translate itself downloaded last, or None if there is none; no network is used."""
    path = argos_data_dir() / STORED_INDEX
    return parse_index(path.read_bytes(), str(path)) if path.is_file() else None


def parse_index(content: bytes, name: str) -> list[IndexEntry]:
    """Return the entries of an index; unknown fields are ignored, broken entries left out with a warning."""
    with about(f"{name} is not an index of packages", remedy="remove it, or correct ARGOS_PACKAGE_INDEX"):
        records = json.loads(content)
        if not isinstance(records, list):
            raise TypeError("it is not a JSON list")
    # Sentence splitters and others are not meant.
    records = [
        record for record in records if not isinstance(record, dict) or record.get("type") in (None, "translate")
    ]
    entries = [entry for entry in map(_entry, records) if entry is not None]
    if len(entries) < len(records):
        logger.warning("%s: %d broken entries are left out", name, len(records) - len(entries))
    return entries


def _entry(record: Any) -> IndexEntry | None:
    """Return an entry, or None for a broken record."""
    try:
        names = "from_code", "to_code", "package_version"
        texts = {name: record[name] for name in names} | {"argos_version": record.get("argos_version") or "0"}
        is_whole = all(TEXTS[name].fullmatch(text) for name, text in texts.items())
        given = record["links"] if isinstance(record["links"], list) else ()
        links = tuple(link for link in given if isinstance(link, str) and ":" in link)
    except (AttributeError, LookupError, TypeError):
        return None
    return IndexEntry(**texts, links=links) if is_whole and links else None


def choose(entries: Sequence[IndexEntry], from_code: str, to_code: str) -> IndexEntry:
    """Return the newest readable entry for a pair of languages, never two through a third language."""
    readable = [entry for entry in entries if entry.is_readable]
    fitting = [entry for entry in readable if (entry.from_code, entry.to_code) == (from_code, to_code)]
    if fitting:
        return max(fitting, key=lambda entry: (version_key(entry.package_version), version_key(entry.argos_version)))
    offered = {(entry.from_code, entry.to_code) for entry in readable}
    missing = f"the index offers no package from {from_code} to {to_code} that this version of vernaclip can read"
    pivots = sorted(pivot for source, pivot in offered if source == from_code and (pivot, to_code) in offered)
    if pivots:
        pivot = "en" if "en" in pivots else pivots[0]
        raise InputError(
            f"{missing}, only {from_code}-{pivot} and {pivot}-{to_code}. If a translation of a translation is good "
            f'enough, install both, and set translate.pivot = "{pivot}"'
        )
    targets = sorted(target for source, target in offered if source == from_code)
    raise InputError(
        f"{missing}; from {from_code} it offers {', '.join(targets) or 'none'}. See `vernaclip mt packages`, or train "
        "one with `vernaclip mt train`"
    )


def usable_link(entry: IndexEntry, index: str) -> str:
    """Return the first link that may be downloaded (see `check_url`), "" if there is none; many are ipfs: links."""
    for link in entry.links:
        try:
            check_url(link, referrer=index)
        except InputError as error:
            logger.debug("link left out: %s", error)
        else:
            return link
    return ""


def install_file(path: Path, packages_dir: Path, try_out: TryOut, *, sha256: str = "") -> Installation:
    """Install an `.argosmodel` file, if it has this sha256 ("": any); no network is used."""
    expected = _expected(sha256)
    with about(f"{path} cannot be read", remedy="give the path of an .argosmodel package"):
        found = sha256_of(path)
    if expected.hexdigest not in ("", found):
        raise InputError(f"the sha256 of {path} is {found}, not {expected.hexdigest}: the file is not installed")
    with _installing(packages_dir) as folder:
        return _install(path, packages_dir, folder, try_out)


def install_from_index(
    from_code: str,
    to_code: str,
    packages_dir: Path,
    try_out: TryOut,
    *,
    sha256: str = "",
    config: DownloadConfig = DEFAULT_CONFIG,
) -> Installation:
    """Install the newest package of the Argos index that translates one language to another.

    One that was downloaded from the same address is not downloaded again.
    """
    expected, index = _expected(sha256), index_url()
    entry = choose(read_index(index, config), from_code, to_code)
    link = usable_link(entry, index)
    if not link:
        raise InputError(
            f"the index has no https link for {entry.pair} {entry.package_version}: get the file from one of "
            f"{', '.join(entry.links)}, and install it with `vernaclip mt install FILE`"
        )

    def check(package: Package) -> None:
        require_pair(package, from_code, to_code, named=link)
        try_out(package)

    with _installing(packages_dir) as folder:
        for package in installed(packages_dir):
            is_asked = (package.pair, package.package_version) == (entry.pair, entry.package_version)
            source = readable_source_of(package.folder) if is_asked else None
            is_known = source and (source.url, source.package_sha256) == (link, package.sha256)
            if source and is_known and expected.hexdigest in ("", source.file_sha256):
                return Installation(package, source, changed=False)
        partial = PartialFile(folder / f"{digest(link)[:16]}.argosmodel", link)
        download(partial, config, referrer=index, expected=expected)
        try:
            return _install(partial.path, packages_dir, folder, check, url=link)
        finally:
            partial.remove()


def _expected(sha256: str) -> Expected:
    return Expected(algorithm="sha256", hexdigest=sha256.strip().lower()) if sha256 else Expected()


@contextmanager
def _installing(packages_dir: Path) -> Iterator[Path]:
    """Yield the folder of downloads with its lock held, without the files that killed installations left."""
    folder = packages_dir.parent / DOWNLOADS
    with writer_lock(folder):
        sweep_temporary([folder])
        yield folder


def _install(path: Path, packages_dir: Path, folder: Path, check: TryOut, *, url: str = "") -> Installation:
    """Install a file for Argos Translate and for us, unless the same package is installed; unpack it in `folder`."""
    with unpacked(path, folder, check) as package:
        home = packages_dir / package.folder.name
        source = PackageSource(file_sha256=sha256_of(path), package_sha256=package.sha256, url=url)
        is_new = not home.exists()
        if is_new:
            packages_dir.mkdir(parents=True, exist_ok=True)
            write_checksummed(package.folder / RECORD, asdict(source))  # over one in the archive, which is not ours
            move_into_place(package.folder, home)
        elif package_sha256(home) != package.sha256:
            raise InputError(f"{home} contains another package: to replace it, remove that folder first")
    recorded = None if is_new else readable_source_of(home)
    if not is_new and (recorded is None or (url and not recorded.url)):  # so that it is not downloaded again
        write_checksummed(home / RECORD, asdict(source))
        recorded = source
    return Installation(read_package(home), recorded or source, is_new)


def index_rows(config: DownloadConfig = DEFAULT_CONFIG) -> list[dict[str, object]]:
    """Return one row for each readable package of the index, with the installed versions of its pair."""
    index = index_url()
    versions: dict[str, list[str]] = {}
    for package in installed(default_packages_dir()):
        versions.setdefault(package.pair, []).append(package.package_version)
    return [
        {
            "pair": entry.pair,
            "version": entry.package_version,
            "installed": ", ".join(versions.get(entry.pair, [])),
            "link": usable_link(entry, index),
        }
        for entry in sorted(read_index(index, config), key=lambda entry: entry.pair)
        if entry.is_readable
    ]


def installed_rows() -> list[dict[str, object]]:
    """Return one row for each installed package; no network is used."""
    rows: list[dict[str, object]] = []
    for package in sorted(installed(default_packages_dir()), key=lambda package: package.pair):
        source = readable_source_of(package.folder)
        num_bytes = sum(file.stat().st_size for file in package.folder.rglob("*") if file.is_file())
        rows.append(
            {
                "pair": package.pair,
                "version": package.package_version,
                "MB": round(num_bytes / 1e6, 1),
                "sha256": package.sha256[:SHA256_START],
                "folder": str(package.folder),
                "from": source.url if source is not None else "",
            }
        )
    return rows

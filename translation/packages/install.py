"""Install a package from a file or from the Argos index, with a record of its source in its folder.

The index's format is Argos Translate's own (`argostranslate.package.AvailablePackage`): a JSON list of objects, whose
`links` are addresses of the same file. It contains no checksums and no sizes.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_catalog.base.errors import DamagedError, InputError, SettingsError, TransientError
from data_catalog.disk.files import digest, sha256_of, sweep_temporary
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import read_checksummed, write_checksummed
from data_catalog.downloads.download import DownloadConfig, Expected, PartialFile, check_url, download, fetch_small
from translation.packages import package as packages
from translation.packages.package import (
    CODE,
    VERSION,
    argos_data_dir,
    check_archive,
    default_packages_dir,
    installed,
    version_key,
)

DEFAULT_INDEX = "https://raw.githubusercontent.com/argosopentech/argospm-index/main/"
STORED_INDEX = "index.json"  # in Argos Translate's own folder
MAX_INDEX_BYTES = 16 * 2**20  # the real one has 33 kB
MAX_LINKS = 20
FIRST_UNREADABLE_FORMAT = (2,)  # first `argos_version`, a package's format, that this reader does not know
PATTERNS = {
    "from_code": CODE,
    "to_code": CODE,
    "package_version": VERSION,
    "argos_version": re.compile(f"({VERSION.pattern})?", re.ASCII),
}
DEFAULT_CONFIG = DownloadConfig()

TryOut = Callable[[packages.Package], None]
"""Translates something with a package; raises InputError if it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A package that the index offers.

    Args:
        from_code: ISO 639 code of the language it reads.
        to_code: ISO 639 code of the language it writes.
        package_version: version of the package.
        argos_version: version of its format, "" if the index does not state it.
        links: addresses of the file; all serve the same file.
    """

    from_code: str
    to_code: str
    package_version: str
    argos_version: str
    links: tuple[str, ...]

    @property
    def pair(self) -> str:
        """Return the languages, as "en-it"."""
        return f"{self.from_code}-{self.to_code}"

    @property
    def is_readable(self) -> bool:
        """Return whether this reader knows the package's format."""
        return version_key(self.argos_version) < FIRST_UNREADABLE_FORMAT


def index_url() -> str:
    """Return the index's URL, from Argos Translate's own environment variable if it is set."""
    return (os.environ.get("ARGOS_PACKAGE_INDEX") or DEFAULT_INDEX).rstrip("/") + "/index.json"


def read_index(url: str, config: DownloadConfig = DEFAULT_CONFIG) -> list[IndexEntry]:
    """Return all translation packages that an index offers.

    Raises:
        InputError: the index cannot be downloaded, or is not an index. The message says how to install without it.
    """
    try:
        content = fetch_small(url, replace(config, max_bytes=MAX_INDEX_BYTES))
    except (SettingsError, InputError, TransientError) as error:
        raise InputError(
            f"the index of Argos packages cannot be downloaded: {error}. Without a network, download the .argosmodel "
            f"file on another machine, from a link in {url}, and install it here with `vernaclip mt install FILE`"
        ) from error
    return parse_index(content, url)


def read_stored_index() -> list[IndexEntry] | None:
    """Return the index that Argos Translate itself downloaded last, or None if there is none; no network is used.

    Raises:
        InputError: the stored file is not an index.
    """
    path = argos_data_dir() / STORED_INDEX
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read the stored index {path}: {error.strerror}") from error
    try:
        return parse_index(content, str(path))
    except InputError as error:
        raise InputError(f"the stored index {path} is damaged: remove it") from error


def parse_index(content: bytes, url: str) -> list[IndexEntry]:
    """Return the entries of an index file; unknown fields are ignored, broken entries left out with a warning.

    Raises:
        InputError: it is not a JSON list.
    """
    try:
        records = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{url} is not an index of packages ({error}): correct ARGOS_PACKAGE_INDEX") from error
    if not isinstance(records, list):
        raise InputError(f"{url} is not an index of packages, which is a JSON list: correct ARGOS_PACKAGE_INDEX")
    entries: list[IndexEntry] = []
    faults: list[str] = []
    for number, record in enumerate(records, start=1):
        if isinstance(record, dict) and record.get("type") not in (None, "translate"):
            continue  # sentence splitters and others
        found = _entry(record)
        if isinstance(found, IndexEntry):
            entries.append(found)
        else:
            faults.append(f"entry {number} {found}")
    if faults:
        logger.warning("%s: %d broken entries are left out, the first: %s", url, len(faults), faults[0])
    return entries


def _entry(record: Any) -> IndexEntry | str:
    """Return an entry, or the problem of its record."""
    if not isinstance(record, dict):
        return "is not an object"
    record = {**record, "argos_version": record.get("argos_version") or ""}
    for name, pattern in PATTERNS.items():
        if not isinstance(record.get(name), str) or not pattern.fullmatch(record[name]):
            return f"has no usable {name}"
    links = record.get("links")
    links = [link for link in links if isinstance(link, str) and link] if isinstance(links, list) else []
    if not links:
        return "has no links"
    return IndexEntry(links=tuple(links[:MAX_LINKS]), **{name: record[name] for name in PATTERNS})


def choose(entries: Sequence[IndexEntry], from_code: str, to_code: str) -> IndexEntry:
    """Return the newest readable entry for a pair of languages; two packages through a third language are never chosen.

    Raises:
        InputError: there is none. The message names the alternatives.
    """
    fitting = [entry for entry in entries if (entry.from_code, entry.to_code) == (from_code, to_code)]
    readable = [entry for entry in fitting if entry.is_readable]
    if readable:
        return max(readable, key=lambda entry: (version_key(entry.package_version), version_key(entry.argos_version)))
    if fitting:
        raise InputError(
            f"the index offers {from_code}-{to_code} only in the format of Argos {fitting[0].argos_version}, which is "
            "too new for this version of vernaclip: look for a newer version"
        )
    raise InputError(_instead_of(entries, from_code, to_code))


def _instead_of(entries: Sequence[IndexEntry], from_code: str, to_code: str) -> str:
    offered = {(entry.from_code, entry.to_code) for entry in entries if entry.is_readable}
    missing = f"the index offers no package from {from_code} to {to_code}"
    pivots = sorted(pivot for source, pivot in offered if source == from_code and (pivot, to_code) in offered)
    if pivots:
        pivot = "en" if "en" in pivots else pivots[0]
        return (
            f"{missing}, only {from_code}-{pivot} and {pivot}-{to_code}. If a translation of a translation is good "
            f"enough, install both with `vernaclip mt install --from {from_code} --to {pivot}` and `vernaclip mt "
            f'install --from {pivot} --to {to_code}`, and set translate.pivot = "{pivot}"'
        )
    targets = sorted(target for source, target in offered if source == from_code)
    instead = f"from {from_code} it offers only {', '.join(targets)}" if targets else f"it offers none from {from_code}"
    return f"{missing}; {instead}. See `vernaclip mt packages`, or train a package with `vernaclip mt train`"


def usable_links(links: Iterable[str], index: str) -> list[str]:
    """Return the links that may be downloaded (see `check_url`); others, such as ipfs: links, are left out."""
    usable = []
    for link in links:
        try:
            check_url(link, referrer=index)
        except InputError as error:
            level = logging.DEBUG if link.startswith("ipfs:") else logging.WARNING
            logger.log(level, "link left out: %s", error)
        else:
            usable.append(link)
    return usable


def index_rows(config: DownloadConfig = DEFAULT_CONFIG) -> list[dict[str, object]]:
    """Return one row for each readable package of the index, with the installed versions of its pair.

    Raises:
        InputError: the index cannot be downloaded.
    """
    index = index_url()
    versions: dict[str, list[str]] = {}
    for package in installed(default_packages_dir()):
        versions.setdefault(package.pair, []).append(package.package_version)
    return [
        {
            "pair": entry.pair,
            "version": entry.package_version,
            "installed": ", ".join(versions.get(entry.pair, [])),
            "link": next(iter(usable_links(entry.links, index)), ""),
        }
        for entry in sorted(read_index(index, config), key=lambda entry: entry.pair)
        if entry.is_readable
    ]


logger = logging.getLogger(__name__)

SHA256_START = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """The file that a package was installed from.

    Args:
        file_sha256: sha256 of the `.argosmodel` file.
        file_bytes: size of the file, in bytes.
        package_sha256: the package's own digest, see `package_sha256`; "" before it is known.
        url: address of the download, "" for a local file.
        index: URL of the index that contains `url`, "" for none.
        etag: the server's ETag of that version of the file, "" for none.
    """

    file_sha256: str
    file_bytes: int
    package_sha256: str = ""
    url: str = ""
    index: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """An installed package.

    Args:
        package: the package.
        source: the record of its source, from its folder.
        changed: False if it was installed before.
    """

    package: packages.Package
    source: PackageSource
    changed: bool


def install_file(path: Path, packages_dir: Path, try_out: TryOut, *, sha256: str = "") -> Installation:
    """Install an `.argosmodel` file; no network is used.

    Args:
        path: the file.
        packages_dir: the folder of installed packages.
        try_out: called before a package is put in its place.
        sha256: sha256 that the file must have, in hexadecimal; "" for any.

    Raises:
        SettingsError: `sha256` is not a sha256.
        InputError: the file is not a usable package, its sha256 differs, or another package is in its folder.
        BusyError: another process is installing.
        DiskError: the disk is full, or cannot be written.
    """
    expected = _sha256_of_text(sha256)
    check_archive(path)
    found = _require_sha256(path, expected)
    with _installing(packages_dir):
        return _install(path, packages_dir, try_out, PackageSource(file_sha256=found, file_bytes=path.stat().st_size))


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

    An installed package is downloaded again only if the server's file has changed or may have changed.

    Args:
        from_code: ISO 639 code of the language it reads.
        to_code: ISO 639 code of the language it writes.
        packages_dir: the folder of installed packages. Unfinished downloads are in a folder beside it, and are resumed.
        try_out: called before a package is put in its place.
        sha256: sha256 that the file must have, in hexadecimal; "" for any.
        config: limits of the download.

    Raises:
        SettingsError: `sha256` is not a sha256.
        InputError: the index cannot be downloaded or offers no such package, no link gives a usable one, or another
            package is in its folder.
        BusyError: another process is installing.
        DiskError: the disk is full, or cannot be written.
    """
    expected = _sha256_of_text(sha256)
    index = index_url()
    entry = choose(read_index(index, config), from_code, to_code)
    what, faults = f"{entry.pair} {entry.package_version}", []
    with _installing(packages_dir):
        for link in usable_links(entry.links, index):
            try:
                return _install_link(link, entry, packages_dir, try_out, index=index, sha256=expected, config=config)
            except packages.PlaceTakenError:
                raise  # another link would give the same package
            except (InputError, SettingsError, TransientError) as error:
                faults.append(str(error) if link in str(error) else f"{link}: {error}")
                logger.warning("%s is not installed from %s: %s", what, link, error)
    reasons = "; ".join(faults) or f"https is needed, and the index has {', '.join(map(repr, entry.links))}"
    raise InputError(
        f"no link of the index gives {what} ({reasons}). Run the same command again later, or download the file on "
        "another machine and install it here with `vernaclip mt install FILE`"
    )


@contextmanager
def _installing(packages_dir: Path) -> Iterator[None]:
    """Hold the lock of installations, and remove the files that killed installations left."""
    folder = packages_dir.parent / packages.DOWNLOADS
    with writer_lock(folder):
        sweep_temporary([folder])
        yield


def _install_link(
    link: str,
    entry: IndexEntry,
    packages_dir: Path,
    try_out: TryOut,
    *,
    index: str,
    sha256: str,
    config: DownloadConfig,
) -> Installation:
    known = _installed_from(link, packages_dir)
    partial = PartialFile(packages_dir.parent / packages.DOWNLOADS / f"{digest(link)[:16]}.argosmodel", link)
    if not download(partial, config, referrer=index, known_etag=known.source.etag if known else ""):
        assert known is not None  # a download is skipped only for an ETag that is known
        if sha256 not in ("", known.source.file_sha256):
            raise InputError(f"the sha256 of the installed file is {known.source.file_sha256}, not {sha256}")
        return known
    try:
        check_archive(partial.path)
        found = _require_sha256(partial.path, sha256)
        if known is not None and known.source.file_sha256 != found:
            logger.warning(
                "ATTENTION: the file at %s has changed since it was installed: its sha256 was %s and is %s now. Find "
                "out why before you replace the package in %s",
                partial.url,
                known.source.file_sha256,
                found,
                known.package.folder,
            )
        source = PackageSource(
            file_sha256=found, file_bytes=partial.num_bytes, url=partial.url, index=index, etag=partial.etag
        )
        return _install(partial.path, packages_dir, try_out, source, pair=(entry.from_code, entry.to_code))
    finally:
        partial.remove()


def _install(
    path: Path, packages_dir: Path, try_out: TryOut, source: PackageSource, *, pair: tuple[str, str] | None = None
) -> Installation:
    """Install a checked file.

    An existing record is replaced only if it has no URL and the new one has.
    """
    home = packages_dir / check_archive(path)
    changed = not home.exists()

    def check(package: packages.Package) -> None:
        try:
            try_out(package)
        except InputError as error:
            raise InputError(f"{path} contains no usable package: {error}") from error

    package = packages.read_package(packages.install(path, packages_dir, pair=pair, check=check))
    recorded = read_source(home)
    if recorded is None or (source.url and not recorded.url):
        recorded = replace(source, package_sha256=package.sha256)
        write_source(home, recorded)
    return Installation(package=package, source=recorded, changed=changed)


def _installed_from(url: str, packages_dir: Path) -> Installation | None:
    """Return the unchanged package that was installed from a URL, or None."""
    for path in sorted(packages_dir.glob(f"*/{packages.RECORD}")):
        source = read_source(path.parent)
        if source is None or source.url != url:
            continue
        try:
            package = packages.read_package(path.parent)
        except InputError as error:
            logger.warning("package not used: %s", error)
            continue
        if package.sha256 == source.package_sha256:
            return Installation(package=package, source=source, changed=False)
    return None


def read_source(folder: Path) -> PackageSource | None:
    """Return the record in a package's folder, or None if there is none or it cannot be read."""
    path = folder / packages.RECORD
    try:
        if not path.exists():
            return None
        record = read_checksummed(path, remedy="it is ignored")
        source = PackageSource(**record)
        if not all(isinstance(value, int if name == "file_bytes" else str) for name, value in record.items()):
            raise TypeError("a value has the wrong type")
        return source
    except (DamagedError, TypeError) as error:
        logger.warning("%s is ignored because it cannot be read: %s", path, error)
        return None


def write_source(folder: Path, source: PackageSource) -> None:
    """Write the record of a package's source into its folder."""
    write_checksummed(folder / packages.RECORD, asdict(source))


def _sha256_of_text(text: str) -> str:
    """Return a sha256 in lower case, or "" for no text.

    Raises:
        SettingsError: it is not 64 hexadecimal digits.
    """
    return Expected(algorithm="sha256", hexdigest=text.strip().lower()).hexdigest if text else ""


def _require_sha256(path: Path, expected: str) -> str:
    """Return the sha256 of a file after a check that it is `expected`; "" expects any.

    Raises:
        InputError: it is another.
    """
    found = sha256_of(path)
    if expected and found != expected:
        raise InputError(f"the sha256 of the file is {found}, not {expected}: the file is not installed")
    return found


def installed_rows() -> list[dict[str, object]]:
    """Return one row for each installed package; no network is used."""
    rows: list[dict[str, object]] = []
    for package in sorted(packages.installed(packages.default_packages_dir()), key=lambda package: package.pair):
        source = read_source(package.folder)
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

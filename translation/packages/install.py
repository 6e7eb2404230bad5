"""Install a package, from a file or from the Argos index, with a record in its folder of where it came from.

The index's format is Argos Translate's own (`argostranslate.package.AvailablePackage`): one JSON list of objects, in
which `links` are places of the same file. It names no checksums and no sizes.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_catalog.downloads.download import DownloadConfig, Expected, PartialFile, check_url, download, fetch_small
from data_catalog.errors import DamagedError, InputError, SettingsError, TransientError
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import digest, sha256_of, sweep_temporary
from translation.config import TranslateConfig
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
FIRST_UNREADABLE_FORMAT = (2,)  # `argos_version`, the format, of packages that this reader does not know
PATTERNS = {
    "from_code": CODE,
    "to_code": CODE,
    "package_version": VERSION,
    "argos_version": re.compile(f"({VERSION.pattern})?", re.ASCII),
}
DEFAULT_CONFIG = DownloadConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A package that the index offers.

    Args:
        from_code: ISO 639 code of the language it reads.
        to_code: ISO 639 code of the language it writes.
        package_version: of the package.
        argos_version: of its format, "" if the index does not say.
        links: where the file lies; all places hold the same.
    """

    from_code: str
    to_code: str
    package_version: str
    argos_version: str
    links: tuple[str, ...]

    @property
    def pair(self) -> str:
        """Languages, as "en-it"."""
        return f"{self.from_code}-{self.to_code}"

    @property
    def is_readable(self) -> bool:
        """Tell whether this reader knows the package's format."""
        return version_key(self.argos_version) < FIRST_UNREADABLE_FORMAT


def index_url() -> str:
    """The index's address, from Argos Translate's own environment variable where it is set."""
    return (os.environ.get("ARGOS_PACKAGE_INDEX") or DEFAULT_INDEX).rstrip("/") + "/index.json"


def read_index(url: str, config: DownloadConfig = DEFAULT_CONFIG) -> list[IndexEntry]:
    """Everything that an index offers to translate with.

    Raises:
        InputError: it cannot be had, or is no index; the text says how to do without.
    """
    try:
        content = fetch_small(url, replace(config, max_bytes=MAX_INDEX_BYTES))
    except (SettingsError, InputError, TransientError) as error:
        raise InputError(
            f"the index of Argos packages cannot be had: {error}; with no network, get the .argosmodel file on another "
            f"machine, from a link in {url}, and install it here with `vernaclip mt install FILE`"
        ) from error
    return parse_index(content, url)


def read_stored_index() -> list[IndexEntry] | None:
    """The index as Argos Translate itself fetched it last, without asking the network; None where it never did.

    Raises:
        InputError: the stored file is no index.
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
    """The entries of an index file; unknown fields are ignored, broken entries left out with a warning.

    Raises:
        InputError: it is no JSON list.
    """
    try:
        records = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{url} is no index of packages ({error}): correct ARGOS_PACKAGE_INDEX") from error
    if not isinstance(records, list):
        raise InputError(f"{url} is no index of packages, which is a JSON list: correct ARGOS_PACKAGE_INDEX")
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
    """Return an entry, or what is wrong with it."""
    if not isinstance(record, dict):
        return "is no object"
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
    """The newest entry for a pair of languages that can be read; a way through a third language is never taken.

    Raises:
        InputError: there is none; the text names what there is instead.
    """
    fitting = [entry for entry in entries if (entry.from_code, entry.to_code) == (from_code, to_code)]
    readable = [entry for entry in fitting if entry.is_readable]
    if readable:
        return max(readable, key=lambda entry: (version_key(entry.package_version), version_key(entry.argos_version)))
    if fitting:
        raise InputError(
            f"the index offers {from_code}-{to_code} only in the format of Argos {fitting[0].argos_version}, too new "
            "for this vernaclip: look for a newer one"
        )
    raise InputError(_instead_of(entries, from_code, to_code))


def _instead_of(entries: Sequence[IndexEntry], from_code: str, to_code: str) -> str:
    offered = {(entry.from_code, entry.to_code) for entry in entries if entry.is_readable}
    missing = f"the index offers no package from {from_code} to {to_code}"
    pivots = sorted(pivot for source, pivot in offered if source == from_code and (pivot, to_code) in offered)
    if pivots:
        pivot = "en" if "en" in pivots else pivots[0]
        return (
            f"{missing}, only {from_code}-{pivot} and {pivot}-{to_code}: if a translation of a translation is good "
            f"enough, install both with `vernaclip mt install --from {from_code} --to {pivot}` and `vernaclip mt "
            f'install --from {pivot} --to {to_code}`, and set translate.pivot = "{pivot}"'
        )
    targets = sorted(target for source, target in offered if source == from_code)
    instead = f"from {from_code} it offers only {', '.join(targets)}" if targets else f"nothing from {from_code} at all"
    return f"{missing}; {instead}: see `vernaclip mt packages`, or train a package with `vernaclip mt train`"


def usable_links(links: Iterable[str], index: str) -> list[str]:
    """The links that may be asked, see `check_url`; others, such as ipfs: ones, are left out."""
    usable = []
    for link in links:
        try:
            check_url(link, referrer=index)
        except InputError as error:
            level = logging.DEBUG if link.startswith("ipfs:") else logging.WARNING
            logger.log(level, "left out: %s", error)
        else:
            usable.append(link)
    return usable


def index_rows(config: DownloadConfig) -> list[dict[str, object]]:
    """Return a row for each package of the index that can be read here, with the installed versions of its pair.

    Raises:
        InputError: the index cannot be had.
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
    """What is known of the file that a package was installed from.

    Args:
        file_sha256: of the `.argosmodel` file.
        file_bytes: its size.
        package_sha256: the package's own digest, see `package_sha256`, "" before it is known.
        url: where it was downloaded from, "" for a local file.
        index: URL of the index that names `url`, "" for none.
        etag: the server's name for that version of the file, "" for none.
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
        source: what its folder records of where it came from.
        changed: False if it was there already.
    """

    package: packages.Package
    source: PackageSource
    changed: bool


def install_file(path: Path, packages_dir: Path, *, sha256: str = "") -> Installation:
    """Install an `.argosmodel` file; no network is used.

    Args:
        path: the file.
        packages_dir: the folder of installed packages.
        sha256: that the file must have, in hexadecimal; "" for any.

    Raises:
        SettingsError: `sha256` is none.
        InputError: the file is no good package, its sha256 is another, or another package has its place.
        BusyError: another process installs.
        DiskError: the disk is full, or refuses to be written.
    """
    expected = _sha256_of_text(sha256)
    check_archive(path)
    found = _require_sha256(path, expected)
    with _installing(packages_dir):
        return _install(path, packages_dir, PackageSource(file_sha256=found, file_bytes=path.stat().st_size))


def install_from_index(
    from_code: str, to_code: str, packages_dir: Path, *, sha256: str = "", config: DownloadConfig = DEFAULT_CONFIG
) -> Installation:
    """Install the newest package of the Argos index that translates one language to another.

    A package that is installed already is downloaded again only if the server does not say that its file is the same.

    Args:
        from_code: ISO 639 code of the language it reads.
        to_code: ISO 639 code of the language it writes.
        packages_dir: the folder of installed packages; unfinished downloads lie beside it, and are gone on with.
        sha256: that the file must have, in hexadecimal; "" for any.
        config: what the download may cost.

    Raises:
        SettingsError: `sha256` is none.
        InputError: the index cannot be had or offers no such package, no link gives a good one, or another package
            has its place.
        BusyError: another process installs.
        DiskError: the disk is full, or refuses to be written.
    """
    expected = _sha256_of_text(sha256)
    index = index_url()
    entry = choose(read_index(index, config), from_code, to_code)
    what, faults = f"{entry.pair} {entry.package_version}", []
    with _installing(packages_dir):
        for link in usable_links(entry.links, index):
            try:
                return _install_link(link, entry, packages_dir, index=index, sha256=expected, config=config)
            except packages.PlaceTakenError:
                raise  # by whatever link it comes
            except (InputError, SettingsError, TransientError) as error:
                faults.append(str(error) if link in str(error) else f"{link}: {error}")
                logger.warning("%s is not installed from %s: %s", what, link, error)
    reasons = "; ".join(faults) or f"https is needed, and the index has {', '.join(map(repr, entry.links))}"
    raise InputError(
        f"no link of the index gives {what} ({reasons}): run the same command again later, or get the file on another "
        "machine and install it here with `vernaclip mt install FILE`"
    )


@contextmanager
def _installing(packages_dir: Path) -> Iterator[None]:
    """One installation at a time, which first removes what killed ones left."""
    folder = packages_dir.parent / packages.DOWNLOADS
    with writer_lock(folder):
        sweep_temporary([folder])
        yield


def _install_link(
    link: str, entry: IndexEntry, packages_dir: Path, *, index: str, sha256: str, config: DownloadConfig
) -> Installation:
    known = _installed_from(link, packages_dir)
    partial = PartialFile(packages_dir.parent / packages.DOWNLOADS / f"{digest(link)[:16]}.argosmodel", link)
    if not download(partial, config, referrer=index, known_etag=known.source.etag if known else ""):
        assert known is not None  # only its version need not come
        if sha256 not in ("", known.source.file_sha256):
            raise InputError(f"the sha256 of the installed file is {known.source.file_sha256}, not {sha256}")
        return known
    try:
        check_archive(partial.path)
        found = _require_sha256(partial.path, sha256)
        if known is not None and known.source.file_sha256 != found:
            logger.warning(
                "ATTENTION: the file at %s is not the one that was installed from there: its sha256 was %s and is %s "
                "now; find out why before you replace the package in %s",
                partial.url,
                known.source.file_sha256,
                found,
                known.package.folder,
            )
        source = PackageSource(
            file_sha256=found, file_bytes=partial.num_bytes, url=partial.url, index=index, etag=partial.etag
        )
        return _install(partial.path, packages_dir, source, pair=(entry.from_code, entry.to_code))
    finally:
        partial.remove()


def _install(
    path: Path, packages_dir: Path, source: PackageSource, *, pair: tuple[str, str] | None = None
) -> Installation:
    """Install a checked file; a record that is there already stays, unless only the new one names a URL."""
    home = packages_dir / check_archive(path)
    changed = not home.exists()
    package = packages.read_package(
        packages.install(path, packages_dir, pair=pair, check=partial(_require_loadable, path))
    )
    recorded = read_source(home)
    if recorded is None or (source.url and not recorded.url):
        recorded = replace(source, package_sha256=package.sha256)
        write_source(home, recorded)
    return Installation(package=package, source=recorded, changed=changed)


def _require_loadable(path: Path, package: packages.Package) -> None:
    from translation.engines.argos import argos_translator

    try:
        argos_translator(package, TranslateConfig(device="cpu")).try_out()
    except InputError as error:
        raise InputError(f"{path} holds no package that can be used: {error}") from error


def _installed_from(url: str, packages_dir: Path) -> Installation | None:
    """The package that was installed from a URL, if it is there and as it was."""
    for path in sorted(packages_dir.glob(f"*/{packages.RECORD}")):
        source = read_source(path.parent)
        if source is None or source.url != url:
            continue
        try:
            package = packages.read_package(path.parent)
        except InputError as error:
            logger.warning("not used: %s", error)
            continue
        if package.sha256 == source.package_sha256:
            return Installation(package=package, source=source, changed=False)
    return None


def read_source(folder: Path) -> PackageSource | None:
    """The record in a package's folder; None where there is none, or none that can be read."""
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
        logger.warning("%s is ignored, since it cannot be read: %s", path, error)
        return None


def write_source(folder: Path, source: PackageSource) -> None:
    """Put the record into a package's folder."""
    write_checksummed(folder / packages.RECORD, asdict(source))


def _sha256_of_text(text: str) -> str:
    """Return a sha256 in lower case. Raises SettingsError where it is not 64 hexadecimal digits, or "" for none."""
    return Expected(algorithm="sha256", hexdigest=text.strip().lower()).hexdigest if text else ""


def _require_sha256(path: Path, expected: str) -> str:
    """The sha256 of a file, which must be `expected` unless that is "".

    Raises:
        InputError: it is another.
    """
    found = sha256_of(path)
    if expected and found != expected:
        raise InputError(f"the sha256 of the file is {found}, not {expected}: it is not installed")
    return found


def installed_rows() -> list[dict[str, object]]:
    """Return a row for each installed package; no network is used."""
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

"""Installing a package, from a file or from the Argos index, with a record of where it came from."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_catalog.downloads.download import DownloadConfig, PartialFile, download
from data_catalog.errors import InputError, SettingsError, TransientError
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import digest, sweep_temporary
from translation.config import TranslateConfig
from translation.packages import archive
from translation.packages import package as packages
from translation.packages.index import DEFAULT_CONFIG, IndexEntry, choose, index_url, read_index, usable_links
from translation.packages.origin import (
    RECORD,
    PackageSource,
    check_sha256_text,
    read_source,
    require_sha256,
    write_source,
)

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is to be installed from an index."""

    entry: IndexEntry
    index: str
    packages_dir: Path
    sha256: str
    config: DownloadConfig


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
    expected = sha256 and check_sha256_text(sha256)
    archive.check_archive(path)
    found = require_sha256(path, expected)
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
    expected = sha256 and check_sha256_text(sha256)
    index = index_url()
    entry = choose(read_index(index, config), from_code, to_code)
    order = _Order(entry=entry, index=index, packages_dir=packages_dir, sha256=expected, config=config)
    with _installing(packages_dir):
        return _install_any(order)


@contextmanager
def _installing(packages_dir: Path) -> Iterator[None]:
    """One installation at a time, which first removes what killed ones left."""
    folder = packages_dir.parent / packages.DOWNLOADS
    with writer_lock(folder):
        sweep_temporary([folder])
        yield


def _install_any(order: _Order) -> Installation:
    """From the first link that gives a good package."""
    what, faults = f"{order.entry.pair} {order.entry.package_version}", []
    for link in usable_links(order.entry.links, order.index):
        try:
            return _install_link(link, order)
        except packages.PlaceTakenError:
            raise  # by whatever link it comes
        except (InputError, SettingsError, TransientError) as error:
            faults.append(str(error) if link in str(error) else f"{link}: {error}")
            logger.warning("%s is not installed from %s: %s", what, link, error)
    reasons = "; ".join(faults) or f"https is needed, and the index has {', '.join(map(repr, order.entry.links))}"
    raise InputError(
        f"no link of the index gives {what} ({reasons}): run the same command again later, or get the file on another "
        "machine and install it here with `vernaclip mt install FILE`"
    )


def _install_link(link: str, order: _Order) -> Installation:
    known = _installed_from(link, order.packages_dir)
    partial = PartialFile(order.packages_dir.parent / packages.DOWNLOADS / f"{digest(link)[:16]}.argosmodel", link)
    etag = known.source.etag if known is not None else ""
    if not download(partial, order.config, referrer=order.index, known_etag=etag):
        assert known is not None  # only its version need not come
        if order.sha256 not in ("", known.source.file_sha256):
            raise InputError(f"the sha256 of the installed file is {known.source.file_sha256}, not {order.sha256}")
        return known
    try:
        return _install_download(partial, known, order)
    finally:
        partial.remove()


def _install_download(partial: PartialFile, known: Installation | None, order: _Order) -> Installation:
    archive.check_archive(partial.path)
    found = require_sha256(partial.path, order.sha256)
    if known is not None and known.source.file_sha256 != found:
        logger.warning(
            "ATTENTION: the file at %s is not the one that was installed from there: its sha256 was %s and is %s now; "
            "find out why before you replace the package in %s",
            partial.url,
            known.source.file_sha256,
            found,
            known.package.folder,
        )
    source = PackageSource(
        file_sha256=found, file_bytes=partial.num_bytes, url=partial.url, index=order.index, etag=partial.etag
    )
    pair = (order.entry.from_code, order.entry.to_code)
    return _install(partial.path, order.packages_dir, source, pair=pair)


def _install(
    path: Path, packages_dir: Path, source: PackageSource, *, pair: tuple[str, str] | None = None
) -> Installation:
    """Install a checked file; a record that is there already stays, unless only the new one names a URL."""
    home = packages_dir / archive.check_archive(path)
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
    for path in sorted(packages_dir.glob(f"*/{RECORD}")):
        source = read_source(path.parent)
        if source is None or source.url != url:
            continue
        package = _whole_package(path.parent)
        if package is not None and package.sha256 == source.package_sha256:
            return Installation(package=package, source=source, changed=False)
    return None


def _whole_package(folder: Path) -> packages.Package | None:
    try:
        return packages.read_package(folder)
    except InputError as error:
        logger.warning("not used: %s", error)
        return None

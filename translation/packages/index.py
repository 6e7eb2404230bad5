"""The index of packages that Argos Translate publishes: what it offers, and which entry serves a pair of languages.

The format is Argos Translate's own (`argostranslate.package.AvailablePackage`): one JSON list of objects, in which
`links` are places of the same file. The index names no checksums and no sizes.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_catalog.downloads.download import DownloadConfig, check_url, fetch_small
from data_catalog.errors import InputError, SettingsError, TransientError
from translation.packages.package import CODE, VERSION, argos_data_dir, default_packages_dir, installed, version_key

logger = logging.getLogger(__name__)

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
        """Whether the package has a format that this reader knows."""
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

"""Tombstones: markers of removed images, which no later build may use again; stored in `forgotten.json` of a root.

A tombstone contains what the user named (a URL, domain, sample or perceptual hash), and hashes of the bytes and
addresses of the images that matched, by which copies are recognised. It contains no bytes, no captions and no other
addresses. A `Matcher` finds the matching rows of tables. A matching caption row keeps only the columns in `STAYING`.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.base.settings import HOW
from data_catalog.catalog.manifest import StepEntry, TombstonesEntry
from data_catalog.disk.barrier import TOMBSTONES_FILE
from data_catalog.disk.files import digest
from data_catalog.disk.records import read_checksummed, write_checksummed
from data_catalog.disk.row_groups import Row
from data_catalog.rows.drop_reasons import Reason
from data_catalog.rows.schema import REJECTED
from data_catalog.rows.urls import address_key, canonical_url, domains_of, host_key, host_of, is_web_url, readable_host
from data_catalog.sources.ingest import STEP as INGEST

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

FORMAT = 1
KINDS = ("url", "domain", "sample", "phash")
# The step that rejects rows that match a tombstone, and the drop reason of these rows and of images without a row.
FORGET, FORGOTTEN = "forget", "forgotten"
FORGET_REASONS = {FORGOTTEN: Reason("the image was taken down")}
# The step's entry in a manifest, see `steps` there.
FORGET_STEP: StepEntry = {
    "step": FORGET,
    "meaning": "applying take-downs",
    "rules": [],
    "reasons": {name: reason.meaning for name, reason in FORGET_REASONS.items()},
    "columns": [],
    "image_columns": [],
}
# In bits of 64. Unrelated pictures differ in about 32 bits, rarely in fewer than 20.
MAX_DISTANCE = 12

_FORMS = {
    "url": "a URL: it must start with http:// or https:// and name a host",
    "domain": "a host name: give only the name, such as example.org",
    "sample": "a sample: its id must have the form SOURCE:ID, such as mscoco:391895",
    "phash": "a perceptual hash: it must have 16 hexadecimal digits",
}
_PHASH = re.compile(r"[0-9a-f]{16}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_SCHEME = re.compile("^https?://")
# The characters that `plain_url` removes.
_LEFT_OUT = r"^[\x00-\x20\x{85}\pZ]+|[\x00-\x20\x{85}\pZ]+$|[\t\n\r]+"
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*:[/\\]*(?P<host>[^/?#\\]*)"

# Columns with the text of a line that ingest could not read.
LINE_COLUMNS = ("source_caption", "detail")
# Columns that a forgotten caption row keeps. Texts, addresses, rights and measures are removed.
STAYING = (
    *("sample_id", "caption_id", "source", "upstream_split", "source_lang", "target_lang"),
    *("upstream_file", "upstream_line", "outcome", "step", "drop_reason"),
)
# For each row, the number of a tombstone, or -1.
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A removed image, or group of images: what the user named, in the spelling of `new_tombstone`, and what was found.

    `images` are sha256 of bytes before normalisation. `addresses` are keys (`address_key`) of those addresses that the
    value does not cover. `samples` are local images, by `sample_id`. Without `datasets` it applies to all datasets.
    """

    kind: str
    value: str
    distance: int = 0
    datasets: tuple[str, ...] = ()
    reason: str | None = None
    date: str | None = None
    images: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, str, tuple[str, ...]]:
        """Return the key that equal tombstones share."""
        return self.kind, self.value, self.datasets

    def with_found(
        self, images: Iterable[str] = (), addresses: Iterable[str] = (), samples: Iterable[str] = ()
    ) -> "Tombstone":
        """Return the tombstone with more images, addresses and samples."""
        return replace(
            self,
            images=tuple(sorted({*self.images, *images})),
            addresses=tuple(sorted({*self.addresses, *addresses})),
            samples=tuple(sorted({*self.samples, *samples})),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstones:
    """The distinct tombstones of a root, or of one dataset, in the order in which they were written.

    While they are unfinished, a take-down was begun and not completed, so that matching files may still exist.
    """

    tombstones: tuple[Tombstone, ...] = ()
    is_unfinished: bool = False

    @property
    def digest(self) -> str | None:
        """Return a hash of all that decides which rows are dropped: not of dates, reasons and order. None if empty."""
        decisive = [[*one.identity, one.distance, one.images, one.addresses, one.samples] for one in self.tombstones]
        return digest(sorted(digest(one) for one in decisive)) if decisive else None

    @property
    def entry(self) -> TombstonesEntry:
        """Return what the manifest of a snapshot says of the tombstones that apply to it."""
        return {"digest": self.digest, "identities": sorted(self._identities)}

    def includes(self, entry: TombstonesEntry) -> bool:
        """Return whether none of the tombstones that a snapshot was made with has been lifted since."""
        return self._identities.issuperset(entry.get("identities", ()))

    @property
    def _identities(self) -> set[str]:
        return {digest(one.identity)[:16] for one in self.tombstones}

    def of(self, dataset: str) -> "Tombstones":
        """Return the tombstones that apply to a dataset."""
        chosen = tuple(one for one in self.tombstones if not one.datasets or dataset in one.datasets)
        return replace(self, tombstones=chosen)

    def with_more(self, more: Iterable[Tombstone]) -> "Tombstones":
        """Return these tombstones and others. An existing one keeps its date, but gets a new reason if one is given."""
        known = {one.identity: one for one in self.tombstones}
        for one in more:
            old = known.get(one.identity, one)
            merged = replace(old, distance=max(old.distance, one.distance), reason=one.reason or old.reason)
            known[one.identity] = merged.with_found(one.images, one.addresses, one.samples)
        return replace(self, tombstones=tuple(known.values()))

    def match(self, *, sample_id: str | None = None, url: str | None = None) -> Tombstone | None:
        """Return the tombstone that matches a single sample, or an image at an address; None if none does."""
        named = {"sample_id": sample_id, "url": url}
        row = {name: text and text.encode(errors="replace").decode() for name, text in named.items()}
        number = Matcher(self).numbers(pa.Table.from_pylist([row], pa.schema(dict.fromkeys(row, pa.string()))))[0]
        return self.tombstones[number] if number >= 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveTombstones:
    """The tombstones of a dataset as a setting of steps. Keys contain only their digest, without reasons and dates."""

    tombstones: Tombstones = field(metadata=HOW)
    digest: str | None = None

    @classmethod
    def of(cls, tombstones: Tombstones) -> "ActiveTombstones":
        """Return tombstones with their digest."""
        return cls(tombstones=tombstones, digest=tombstones.digest)


def new_tombstone(
    kind: str,
    value: str,
    *,
    distance: int = 0,
    datasets: Sequence[str] = (),
    reason: str | None = None,
    date: str | None = None,
) -> Tombstone:
    """Return a tombstone with its value in canonical spelling. One that can match nothing, or far too much, is refused.

    Only the distance of perceptual hashes counts.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise SettingsError(
            f"--distance must be between 0 and {MAX_DISTANCE}, got {distance}. Hashes that differ by more bits belong "
            "to unrelated pictures"
        )
    found, spelled = value.strip(), None
    if kind == "domain":
        spelled = _domain(found.removeprefix("*."))
    elif kind == "url" and is_web_url(found) and host_of(value) is not None:
        spelled = canonical_url(value)
    elif kind == "sample" and all(found.partition(":")):
        spelled = found
    elif kind == "phash" and _PHASH.fullmatch(found.lower()):
        spelled = found.lower()
    if spelled is None:
        raise SettingsError(f"--{kind} {value!r} is not {_FORMS[kind]}")
    return Tombstone(
        kind=kind,
        value=spelled,
        distance=distance if kind == "phash" else 0,
        datasets=tuple(sorted(set(datasets))),
        reason=reason,
        date=date,
    )


def _domain(name: str) -> str | None:
    """Return a host name in lower case and ASCII, which includes all hosts below it; None if it is not a host name."""
    host = host_of(f"http://{name}/")
    odd = set("/:@?#") & set(name.removeprefix("[").removesuffix("]")) - ({":"} if "[" in name else set())
    is_name = host is not None and ":" not in host
    if host is None or odd or (is_name and not all(_LABEL.fullmatch(label) for label in host.split("."))):
        return None
    is_number = domains_of(host) == [host] and "." in host
    if is_name and not is_number and host != "localhost" and _public_suffixes().is_public(host):
        raise SettingsError(f"--domain {name!r} would remove the images of every host under it: name a single domain")
    return host


@cache
def _public_suffixes() -> "PublicSuffixList":
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False)


def read_tombstones(root: Path) -> Tombstones:
    """Return the tombstones of a root; none if nothing was ever taken down."""
    path = root / TOMBSTONES_FILE
    if not path.is_file():
        return Tombstones()
    content = read_checksummed(path, remedy="restore it from a copy; without it, removed images would come back")
    if content["format"] != FORMAT:
        raise DamagedError(f"{path} has format {content['format']}, but this version reads {FORMAT}: use a newer one")
    lists = ("datasets", "images", "addresses", "samples")
    found = [Tombstone(**one | {name: tuple(one[name]) for name in lists}) for one in content["tombstones"]]
    return Tombstones(tombstones=tuple(found), is_unfinished=content["unfinished"])


def write_tombstones(root: Path, tombstones: Tombstones) -> None:
    """Write the tombstones of a root, in one atomic step."""
    found = [asdict(one) for one in tombstones.tombstones]
    content = {"format": FORMAT, "unfinished": tombstones.is_unfinished, "tombstones": found}
    write_checksummed(root / TOMBSTONES_FILE, content)


def find_tombstone(root: Path, identity: str, sample_ids: Iterable[str]) -> Tombstone | None:
    """Return the tombstone that matches an id, an address or a hash, or one of the samples that it refers to."""
    tombstones, identity = read_tombstones(root), identity.strip()
    found = tombstones.match(**({"url": identity} if is_web_url(identity) else {"sample_id": identity}))
    hashed = (one for one in tombstones.tombstones if identity.lower() in one.images)
    of_samples = (tombstones.match(sample_id=sample_id) for sample_id in sample_ids)
    return found or next(hashed, None) or next(filter(None, of_samples), None)


class Matcher:
    """A lookup of tombstones, for comparison with tables; of several that match a row, the first counts."""

    def __init__(self, tombstones: Tombstones) -> None:
        self.tombstones = tombstones
        values: dict[str, dict[str, int]] = {kind: {} for kind in (*KINDS, "image")}
        for number, one in enumerate(tombstones.tombstones):
            values[one.kind].setdefault(address_key(one.value) if one.kind == "url" else one.value, number)
        for number, one in enumerate(tombstones.tombstones):
            for kind, found in (("url", one.addresses), ("sample", one.samples), ("image", one.images)):
                for name in found:
                    values[kind].setdefault(name, number)
        self._addresses, self._domains = values["url"], values["domain"]
        self._samples, self._looks, self._images = values["sample"], values["phash"], values["image"]
        self._address_hosts = {key.partition("-")[0] for key in self._addresses}
        self._of_host = lru_cache(maxsize=1 << 16)(self._by_host)  # files of a dataset name the same hosts
        finders = {
            "sample_id": partial(_by_text, numbers=self._samples) if self._samples else None,
            **dict.fromkeys(
                ("url", "page_url", "final_url"), self.by_url if self._domains or self._addresses else None
            ),
            "sha256": partial(_by_text, numbers=self._images) if self._images else None,
            "phash": self._by_look if self._looks else None,
        }
        self._finders = {name: find for name, find in finders.items() if find is not None}

    @property
    def columns(self) -> list[str]:
        """Return the columns of a table that decide which rows match, as far as it has them."""
        return [*self._finders, *(("step", "drop_reason") if self._finders else ())]

    def numbers(self, table: pa.Table) -> Numbers:
        """Return for each row the number of a tombstone that matches its sample, addresses, bytes or hash, else -1.

        Rows that are already forgotten, and rows that ingest could not read, never match.
        """
        found: Numbers = np.full(table.num_rows, -1, np.int64)
        for name in table.schema.names if table.num_rows else ():
            if name in self._finders:
                found = np.where(found >= 0, found, self._finders[name](table.column(name).combine_chunks()))
        for name, value in (("drop_reason", FORGOTTEN), ("step", INGEST)):
            if name in table.schema.names and (found >= 0).any():
                found[pc.fill_null(pc.equal(table.column(name), value), False).to_numpy()] = -1
        return found

    def samples(self, table: pa.Table) -> dict[str, int]:
        """Return the samples of a table that match, each with the number of its tombstone."""
        numbers = self.numbers(table)
        rows = np.flatnonzero(numbers >= 0)
        names = table.column("sample_id").take(pa.array(rows)).to_pylist()
        return dict(zip(reversed(names), reversed(numbers[rows].tolist()), strict=True))

    def lines(self, table: pa.Table) -> list[str]:
        """Return the `sample_id` of lines that ingest could not read and that name a matching host or address."""
        names = [name for host in self._domains for name in sorted({host, readable_host(host)})]
        names += [_SCHEME.sub("", one.value) for one in self.tombstones.tombstones if one.kind == "url"]
        if not names:
            return []
        unread = table.filter(pc.fill_null(pc.equal(table.column("step"), INGEST), False))
        is_meant = pa.array([False] * unread.num_rows, pa.bool_())
        for name in names:  # one by one, since a pattern of many thousands would be too large
            pattern = f"(^|[^0-9A-Za-z_-]){re.escape(name)}($|[^0-9A-Za-z_-])"
            for text in LINE_COLUMNS:
                found = pc.match_substring_regex(unread.column(text), pattern, ignore_case=True)
                is_meant = pc.or_(is_meant, pc.fill_null(found, False))
        lines: list[str] = unread.column("sample_id").filter(is_meant).to_pylist()
        return lines

    def by_url(self, column: pa.Array) -> Numbers:
        """Match by the host of each URL and, if the host has addresses in tombstones, by the whole URL."""
        plain = pc.replace_substring_regex(column, _LEFT_OUT, "")
        hosts = pc.struct_field(pc.extract_regex(plain, _HOST), "host").dictionary_encode()
        by_host = [self._of_host(name) for name in hosts.dictionary.to_pylist()]
        found = _take(np.array([number for number, _ in by_host], np.int64), hosts.indices)
        near = _take(np.array([is_near for _, is_near in by_host], np.int64), hosts.indices)
        rows = np.flatnonzero(near == 1)
        for row, url in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
            found[row] = self._addresses.get(address_key(url), -1)
        return found

    def _by_host(self, name: str) -> tuple[int, bool]:
        """Return the number of a tombstone that matches a host, else -1 and whether any matches an address there."""
        host = host_of(f"http://{name}/") or ""
        number = next((self._domains[domain] for domain in domains_of(host) if domain in self._domains), -1)
        return number, number < 0 and host_key(host) in self._address_hosts

    def _by_look(self, column: pa.Array) -> Numbers:
        """Match by perceptual hash, within the distance of each tombstone."""
        found: Numbers = np.full(len(column), -1, np.int64)
        rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
        hashes = np.array([int(text, 16) for text in column.take(pa.array(rows)).to_pylist()], np.uint64)
        for value, number in reversed(self._looks.items()):
            bits = np.bitwise_count(hashes ^ np.uint64(int(value, 16)))
            found[rows[bits <= self.tombstones.tombstones[number].distance]] = number
        return found


def _by_text(column: pa.Array, numbers: Mapping[str, int]) -> Numbers:
    places = pc.index_in(column, pa.array(list(numbers), pa.string()), skip_nulls=True)
    return _take(np.array(list(numbers.values()), np.int64), places)


def _take(values: Numbers, places: pa.Array) -> Numbers:
    """Return the values at some places; -1 for a null place."""
    found: Numbers = np.append(values, -1)[pc.fill_null(places, len(values)).to_numpy()]
    return found


def is_of_samples(table: pa.Table, samples: Collection[str], column: str = "sample_id") -> pa.Array:
    """Return for each row whether it belongs to some samples."""
    return pc.is_in(table.column(column), pa.array(sorted(samples), pa.string()))


def without_texts(table: pa.Table, where: pa.Array) -> pa.Table:
    """Return caption rows; in those for which `where` is true, set all columns to null except `STAYING`."""
    for index, column in enumerate(table.schema):
        if column.name not in STAYING:
            nothing = pa.nulls(table.num_rows, column.type)
            table = table.set_column(index, column, pc.if_else(where, nothing, table.column(column.name)))
    return table


def forget_rows(table: pa.Table, where: pa.Array) -> pa.Table:
    """Return caption rows; reject those for which `where` is true as forgotten, and remove their texts."""
    table = without_texts(table, where)
    for name, value in (("outcome", REJECTED), ("step", FORGET), ("drop_reason", FORGOTTEN)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pc.if_else(where, value, table.column(name)))
    return table


def forgotten_image(row: Row) -> Row:
    """Return a row of the schema `IMAGES` without its image and properties, rejected as forgotten."""
    return {**dict.fromkeys(row), "sample_id": row["sample_id"], "drop_reason": FORGOTTEN}

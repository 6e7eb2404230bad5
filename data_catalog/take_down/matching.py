"""Which rows of a table tombstones mean: by sample, address, page, redirect, bytes or look, whatever the table has."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.sources.ingest import STEP as INGEST
from data_catalog.sources.urls import address_key, domains_of, host_key, host_of, readable_host
from data_catalog.tombstones import FORGOTTEN, Tombstone, Tombstones

# What a table may have of these is looked at.
COLUMNS = ("sample_id", "url", "page_url", "final_url", "sha256", "phash", "step", "drop_reason")
# What there is of a line that ingest could not read.
LINE_COLUMNS = ("source_caption", "detail")
_URL_COLUMNS = ("url", "page_url", "final_url")
_SCHEME = re.compile("^https?://")
# As `plain_url` has it.
_LEFT_OUT = r"^[\x00-\x20\x{85}\pZ]+|[\x00-\x20\x{85}\pZ]+$|[\t\n\r]+"
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*:[/\\]*(?P<host>[^/?#\\]*)"

# Per row, the number of a tombstone, or -1.
Numbers = npt.NDArray[np.int64]


class Matcher:
    """Tombstones, ready to be compared with tables."""

    def __init__(self, tombstones: Tombstones) -> None:
        self.tombstones = tombstones

    def numbers(self, table: pa.Table) -> Numbers:
        """Of each row, the number of a tombstone that means it by its sample, addresses, bytes or look, else -1.

        Rows that were forgotten before, and rows that ingest could not read, are meant by none.
        """
        found: Numbers = np.full(table.num_rows, -1, np.int64)
        if not self.tombstones.tombstones or not table.num_rows:
            return found
        for name in table.schema.names:
            if name in _FINDERS:
                column = table.column(name).combine_chunks()
                found = np.where(found >= 0, found, _FINDERS[name](self, column))
        for name, value in (("drop_reason", FORGOTTEN), ("step", INGEST)):
            if name in table.schema.names:
                found[pc.fill_null(pc.equal(table.column(name), value), False).to_numpy()] = -1
        return found

    def samples(self, table: pa.Table) -> dict[str, int]:
        """The samples of a table that are meant, with the number of a tombstone each."""
        numbers = self.numbers(table)
        rows = np.flatnonzero(numbers >= 0)
        names = table.column("sample_id").take(pa.array(rows)).to_pylist()
        return dict(zip(reversed(names), reversed(numbers[rows].tolist()), strict=True))

    def lines(self, table: pa.Table) -> list[str]:
        """The `sample_id` of lines that ingest could not read, and that name a host or an address that is meant."""
        names = [name for one in self.tombstones.tombstones for name in _spellings(one)]
        unread = (
            table.filter(pc.fill_null(pc.equal(table.column("step"), INGEST), False)) if names else table.slice(0, 0)
        )
        found = pa.array([False] * unread.num_rows, pa.bool_())
        for name in names:
            pattern = f"(^|[^0-9A-Za-z_-]){re.escape(name)}($|[^0-9A-Za-z_-])"
            for column in (unread.column(text) for text in LINE_COLUMNS):
                named = pc.match_substring_regex(column, pattern, ignore_case=True)
                found = pc.or_(found, pc.fill_null(named, False))
        lines: list[str] = unread.column("sample_id").filter(found).to_pylist()
        return lines

    def by_url(self, column: pa.Array) -> Numbers:
        """By the host of each URL, and where one of its addresses is meant, by the whole URL."""
        plain = pc.replace_substring_regex(column, _LEFT_OUT, "")
        hosts = pc.struct_field(pc.extract_regex(plain, _HOST), "host").dictionary_encode()
        names = [host_of(f"http://{name}/") or "" for name in hosts.dictionary.to_pylist()]
        domains = _take(np.array([self._domain_of(name) for name in names], np.int64), hosts.indices)
        near = _take(np.array([host_key(name) in self._address_hosts for name in names], np.int64), hosts.indices)
        rows = np.flatnonzero((domains < 0) & (near == 1))
        for row, url in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
            domains[row] = self._addresses.get(address_key(url), -1)
        return domains

    def by_sample(self, column: pa.Array) -> Numbers:
        """By name."""
        return _by_text(column, self._samples)

    def by_bytes(self, column: pa.Array) -> Numbers:
        """By the sha256 of images that were found when tombstones were written."""
        return _by_text(column, self._images)

    def by_look(self, column: pa.Array) -> Numbers:
        """By perceptual hash, within the distance of each tombstone."""
        found: Numbers = np.full(len(column), -1, np.int64)
        wanted = self._values("phash")
        if wanted:
            rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
            hashes = np.array([int(text, 16) for text in column.take(pa.array(rows)).to_pylist()], np.uint64)
            for value, number in reversed(wanted.items()):
                bits = np.bitwise_count(hashes ^ np.uint64(int(value, 16)))
                found[rows[bits <= self.tombstones.tombstones[number].distance]] = number
        return found

    def _domain_of(self, host: str) -> int:
        domains = self._values("domain")
        return next((domains[name] for name in domains_of(host) if name in domains), -1)

    def _values(self, kind: str) -> dict[str, int]:
        return self._by_kind.get(kind, {})

    @cached_property
    def _by_kind(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for number, one in enumerate(self.tombstones.tombstones):
            found.setdefault(one.kind, {}).setdefault(one.value, number)
        return found

    @cached_property
    def _addresses(self) -> dict[str, int]:
        told = {address_key(url): number for url, number in self._values("url").items()}
        return _numbered((one.addresses for one in self.tombstones.tombstones), told)

    @cached_property
    def _address_hosts(self) -> frozenset[str]:
        return frozenset(key.partition("-")[0] for key in self._addresses)

    @cached_property
    def _samples(self) -> dict[str, int]:
        return _numbered((one.samples for one in self.tombstones.tombstones), dict(self._values("sample")))

    @cached_property
    def _images(self) -> dict[str, int]:
        return _numbered((one.images for one in self.tombstones.tombstones), {})


_FINDERS: Mapping[str, Any] = {
    "sample_id": Matcher.by_sample,
    **dict.fromkeys(_URL_COLUMNS, Matcher.by_url),
    "sha256": Matcher.by_bytes,
    "phash": Matcher.by_look,
}


def _spellings(one: Tombstone) -> list[str]:
    """How a line may name what a tombstone means."""
    if one.kind == "domain":
        return sorted({one.value, readable_host(one.value)})
    return [_SCHEME.sub("", one.value)] if one.kind == "url" else []


def _numbered(lists: Iterable[Iterable[str]], known: dict[str, int]) -> dict[str, int]:
    for number, names in enumerate(lists):
        for name in names:
            known.setdefault(name, number)
    return known


def _by_text(column: pa.Array, numbers: Mapping[str, int]) -> Numbers:
    if not numbers:
        return np.full(len(column), -1, np.int64)
    places = pc.index_in(column, pa.array(list(numbers), pa.string()), skip_nulls=True)
    return _take(np.array(list(numbers.values()), np.int64), places)


def _take(values: Numbers, places: pa.Array) -> Numbers:
    """The values at some places, -1 where a place is null."""
    found: Numbers = np.append(values, -1)[pc.fill_null(places, len(values)).to_numpy()]
    return found

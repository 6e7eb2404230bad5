"""Tombstones: what must never again be in a dataset of a root, whatever is built there; kept in `forgotten.json`.

A tombstone says which images are meant, and what was found of them: hashes of their bytes and of their addresses, by
which copies are known. It holds no bytes, no captions and no addresses but those that were asked for.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.reasons import Reason
from data_catalog.settings import HOW
from data_catalog.sources.urls import address_key, canonical_url, domains_of, host_of, is_web_url
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.manifest import StepEntry
from data_catalog.storage.reading import TOMBSTONES_FILE
from data_catalog.storage.shards import digest

FORMAT = 1
KINDS = ("url", "domain", "sample", "phash")
# The step that drops rows which a tombstone concerns, and the reason that they, and images without a row, are given.
FORGET, FORGOTTEN = "forget", "forgotten"
FORGET_REASONS = {FORGOTTEN: Reason("a take-down asks for the image to be forgotten")}
# What a manifest says of the step, see `steps` there.
FORGET_STEP: StepEntry = {
    "step": FORGET,
    "meaning": "obeying take-downs",
    "rules": [],
    "reasons": {name: reason.meaning for name, reason in FORGET_REASONS.items()},
    "columns": [],
    "image_columns": [],
}
# Of 64 bits. Pictures that have nothing to do with each other differ in about 32, now and then in fewer than 20.
MAX_DISTANCE = 12

_REMEDY = "without it what was forgotten would come back, so put a copy of it in its place"
_PHASH = re.compile(r"[0-9a-f]{16}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """One thing to be forgotten; `new_tombstone` checks its value.

    Args:
        kind: one of `KINDS`.
        value: a URL, a host name, a `sample_id` or a perceptual hash, in its one spelling.
        distance: bits by which a perceptual hash may differ.
        datasets: names of those that are meant; empty: all.
        reason: in the words of whoever forgot it.
        date: of the day it was written.
        images: sha256 of the bytes, as they came, of images that were found.
        addresses: of images that were found, and that the value itself does not tell (see `address_key`).
        samples: `sample_id` of images that were found and that have no address: local ones.
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
        """What tombstones that are the same share."""
        return self.kind, self.value, self.datasets

    def with_found(
        self, images: Iterable[str] = (), addresses: Iterable[str] = (), samples: Iterable[str] = ()
    ) -> "Tombstone":
        """The tombstone, with more images, addresses and samples."""
        return replace(
            self,
            images=tuple(sorted({*self.images, *images})),
            addresses=tuple(sorted({*self.addresses, *addresses})),
            samples=tuple(sorted({*self.samples, *samples})),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstones:
    """All tombstones of a root, or those of one dataset; in the order in which they were written.

    Args:
        tombstones: without repeats.
        is_unfinished: a take-down was begun, and what it concerns may still be there in part.
    """

    tombstones: tuple[Tombstone, ...] = ()
    is_unfinished: bool = False

    @property
    def digest(self) -> str | None:
        """What the dropped rows depend on: not dates, reasons and the order; None where there are no tombstones."""
        decisive = [[*one.identity, one.distance, one.images, one.addresses, one.samples] for one in self.tombstones]
        return digest(sorted(digest(one) for one in decisive)) if decisive else None

    def of(self, dataset: str) -> "Tombstones":
        """Those that concern a dataset."""
        chosen = tuple(one for one in self.tombstones if not one.datasets or dataset in one.datasets)
        return replace(self, tombstones=chosen)

    def with_more(self, more: Iterable[Tombstone]) -> "Tombstones":
        """These and others; of one that is there already the reason is the newer one, and the date the older."""
        known = {one.identity: one for one in self.tombstones}
        for one in more:
            old = known.get(one.identity)
            known[one.identity] = one if old is None else _merged(old, one)
        return replace(self, tombstones=tuple(known.values()))

    def match(self, *, sample_id: str | None = None, url: str | None = None) -> Tombstone | None:
        """The first tombstone that means a sample, or an image at an address: for answers about single ones."""
        key, host = (address_key(url), host_of(url)) if url else (None, None)
        for one in self.tombstones:
            if sample_id is not None and (sample_id in one.samples or (one.kind, one.value) == ("sample", sample_id)):
                return one
            if key is not None and (key in one.addresses or (one.kind == "url" and address_key(one.value) == key)):
                return one
            if host is not None and one.kind == "domain" and one.value in domains_of(host):
                return one
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """The tombstones of a dataset; in keys they are their digest, which reasons and dates do not change."""

    tombstones: Tombstones = field(metadata=HOW)
    digest: str | None = None

    @classmethod
    def of(cls, tombstones: Tombstones) -> "InForce":
        """Return tombstones with their digest."""
        return cls(tombstones=tombstones, digest=tombstones.digest)


def _merged(old: Tombstone, new: Tombstone) -> Tombstone:
    merged = replace(old, distance=max(old.distance, new.distance), reason=new.reason or old.reason)
    return merged.with_found(new.images, new.addresses, new.samples)


def new_tombstone(
    kind: str,
    value: str,
    *,
    distance: int = 0,
    datasets: Sequence[str] = (),
    reason: str | None = None,
    date: str | None = None,
) -> Tombstone:
    """A tombstone with its value in its one spelling.

    Raises:
        SettingsError: the value is none of its kind.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise SettingsError(
            f"--distance must be between 0 and {MAX_DISTANCE}, got {distance}: hashes that differ more are of pictures "
            "that have nothing in common"
        )
    return Tombstone(
        kind=kind,
        value=_SPELLINGS[kind](value),
        distance=distance if kind == "phash" else 0,
        datasets=tuple(sorted(set(datasets))),
        reason=reason,
        date=date,
    )


def _url(value: str) -> str:
    if not is_web_url(value.strip()) or host_of(value) is None:
        raise SettingsError(f"--url {value!r} is no address: it starts with http:// or https:// and names a host")
    return canonical_url(value)


def _domain(value: str) -> str:
    """Host names are compared in lower case and in ASCII; `*.` in front says what is meant anyway."""
    name = value.strip().removeprefix("*.")
    host = host_of(f"http://{name}/")
    if host is None or set("/:@?#") & set(name.removeprefix("[").removesuffix("]")) - ({":"} if "[" in name else set()):
        raise SettingsError(f"--domain {value!r} is no host name: give it alone, as in --domain example.org")
    is_name = ":" not in host
    if is_name and not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise SettingsError(f"--domain {value!r} is no host name: give it alone, as in --domain example.org")
    if is_name and _is_suffix(host):
        raise SettingsError(
            f"--domain {value!r} would forget every host whose name ends in it: name one, as example.org"
        )
    return host


def _is_suffix(host: str) -> bool:
    """Whether names of many owners end in it, as the public suffix list that is installed says."""
    from publicsuffixlist import PublicSuffixList

    is_name = domains_of(host) != [host] or "." not in host
    return is_name and host != "localhost" and PublicSuffixList(accept_unknown=False).is_public(host)


def _sample(value: str) -> str:
    source, colon, key = value.strip().partition(":")
    if not (source and colon and key):
        raise SettingsError(f"--sample {value!r} is no sample: its name has the form SOURCE:ID, as in mscoco:391895")
    return value.strip()


def _phash(value: str) -> str:
    found = value.strip().lower()
    if not _PHASH.fullmatch(found):
        raise SettingsError(f"--phash {value!r} is no perceptual hash: it has 16 hexadecimal digits")
    return found


_SPELLINGS = {"url": _url, "domain": _domain, "sample": _sample, "phash": _phash}


def read_tombstones(root: Path) -> Tombstones:
    """The tombstones of a root; none where nothing was ever forgotten.

    Raises:
        DamagedError: their file is damaged.
        InputError: it is of a later version.
    """
    path = root / TOMBSTONES_FILE
    if not path.is_file():
        return Tombstones()
    content = read_checksummed(path, remedy=_REMEDY)
    if content.get("format") != FORMAT:
        raise InputError(f"{path} has format {content.get('format')}, this version reads {FORMAT}: use a newer one")
    try:
        found = tuple(_tombstone(one) for one in content["tombstones"])
        return Tombstones(tombstones=found, is_unfinished=bool(content["unfinished"]))
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{path} is damaged (it holds no tombstones): {_REMEDY}") from error


def _tombstone(content: Mapping[str, Any]) -> Tombstone:
    lists = {name: tuple(content[name]) for name in ("datasets", "images", "addresses", "samples")}
    return Tombstone(**{**content, **lists})


def write_tombstones(root: Path, tombstones: Tombstones) -> None:
    """Put tombstones in force; in place in one step."""
    write_checksummed(
        root / TOMBSTONES_FILE,
        {
            "format": FORMAT,
            "unfinished": tombstones.is_unfinished,
            "tombstones": [
                {name: _plain(getattr(one, name)) for name in Tombstone.__slots__} for one in tombstones.tombstones
            ],
        },
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def find_tombstone(root: Path, identity: str, sample_ids: Iterable[str]) -> Tombstone | None:
    """Return the take-down that means an id, an address or a hash, or one of the samples that it leads to."""
    tombstones = read_tombstones(root)
    identity = identity.strip()
    named = {"url": identity} if is_web_url(identity) else {"sample_id": identity}
    hashed = (one for one in tombstones.tombstones if identity.lower() in one.images)
    found = tombstones.match(**named) or next(hashed, None)
    of_samples = (tombstones.match(sample_id=sample_id) for sample_id in sample_ids)
    return found or next((one for one in of_samples if one is not None), None)

"""Which images the sample has: in which dataset, in which file format, with which fault; all drawn from the seed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

from data_catalog.sample.config import CC3M, COCO, FAULTS, FLICKR8K, MOST_FAULTY, SOURCES, WIT
from data_catalog.sample.drawing import Layout, place
from data_catalog.sample.scene import Scene, pick, random_scene, shuffled


@dataclass(slots=True)
class Ledger:
    """Every fault that was put in, in the order of writing."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    def record(self, kind: str, source: str, **facts: Any) -> None:
        """Note one fault with what identifies it: `url` or `path`, `caption`, `caption_id`, `same_as`."""
        if kind not in FAULTS:
            raise KeyError(kind)
        self.entries.append({"kind": kind, "source": source, **facts})

    def as_json(self) -> dict[str, Any]:
        """The ledger with the meaning of every kind."""
        return {"kinds": {kind: fault.meaning for kind, fault in FAULTS.items()}, "faults": self.entries}


def assign(
    source: str, indices: Sequence[int], rng: Random, rates: Mapping[str, float] | None = None
) -> dict[int, str]:
    """Which images of a source have which fault; never more than half of them have one.

    Args:
        rates: in the place of those of `FAULTS`; a kind that they give 0 has no image.
    """
    rates = rates or {}
    waiting = shuffled(rng, indices)[: int(len(indices) * MOST_FAULTY)]
    assigned: dict[int, str] = {}
    for kind, fault in FAULTS.items():
        if source in fault.sources:
            rate = rates.get(kind, fault.rate)
            count = max(1, round(rate * len(indices))) if rate else 0
            victims, waiting = waiting[:count], waiting[count:]
            assigned.update(dict.fromkeys(victims, kind))
    return assigned


_SHARES = {WIT: 0.30, COCO: 0.35, CC3M: 0.20, FLICKR8K: 0.15}
_PNG_SHARE = 0.25  # of the datasets that have other formats than JPEG
_ACCENTED_NAME_SHARE = 0.05  # of WIT's file names


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of one dataset.

    Args:
        seed: of the whole sample.
        index: which image, from 0.
        source: one of `SOURCES`.
        fault: a kind of `FAULTS`, or "".
        original: the index whose scene and bytes this image has: its own, unless it is a duplicate.
        file_format: "JPEG" or "PNG".
        path: of the image file: below the served folder, or (flickr8k) its name in the images folder.
    """

    seed: int
    index: int
    source: str
    fault: str
    original: int
    file_format: str
    path: str

    def rng(self, purpose: str) -> Random:
        """A generator of this image's own for one purpose; a duplicate's differs from its original's."""
        return Random(f"scenes:{self.seed}:{self.index}:{purpose}")

    def scene(self) -> Scene:
        """What the picture shows."""
        return random_scene(Random(f"scenes:{self.seed}:{self.original}:scene"))

    def layout(self) -> Layout:
        """The picture before it is painted."""
        return place(self.scene(), Random(f"scenes:{self.seed}:{self.original}:layout"))


def plan(seed: int, num_images: int, fault_rates: Mapping[str, float] | None = None) -> list[Sample]:
    """All images, in an order that mixes the datasets; `fault_rates` as `assign` takes them."""
    rng = Random(f"scenes:{seed}:plan")
    sources = [_source_at((index + 0.5) / num_images) for index in range(num_images)]
    faults: dict[int, str] = {}
    for source in SOURCES:
        faults.update(assign(source, [i for i, name in enumerate(sources) if name == source], rng, fault_rates))
    formats = {i: _file_format(sources[i], faults.get(i, ""), rng) for i in range(num_images)}
    originals = [i for i in range(num_images) if i not in faults and formats[i] == "JPEG"]
    samples = []
    for index, source in enumerate(sources):
        fault = faults.get(index, "")
        original = pick(rng, originals) if fault == "duplicate_image" else index
        path = _path(source, index, formats[index], Random(f"scenes:{seed}:{index}:name"))
        facts: dict[str, Any] = {"seed": seed, "index": index, "source": source, "fault": fault}
        samples.append(Sample(**facts, original=original, file_format=formats[index], path=path))
    return samples


def url_of(sample: Sample, base_url: str) -> str:
    """The image's percent-encoded URL; for flickr8k, whose images are local, its path."""
    return sample.path if sample.source == FLICKR8K else f"{base_url}/{quote(sample.path)}"


def _source_at(fraction: float) -> str:
    upper = 0.0
    for source, share in _SHARES.items():
        upper += share
        if fraction < upper:
            return source
    return SOURCES[-1]


def _file_format(source: str, fault: str, rng: Random) -> str:
    png = rng.random() < _PNG_SHARE
    return "PNG" if png and source in (WIT, CC3M) and not fault else "JPEG"


def _path(source: str, index: int, file_format: str, rng: Random) -> str:
    """A name in the manner of the dataset; digits of a hash where upstream has them."""
    digits = hashlib.sha1(f"{index}:{rng.random()}".encode(), usedforsecurity=False).hexdigest()
    suffix = "png" if file_format == "PNG" else "jpg"
    match source:
        case "wit":
            name = "Forme_in_città" if rng.random() < _ACCENTED_NAME_SHARE else "Forme_geometriche"
            return f"wit/{digits[0]}/{digits[:2]}/{name}_{index:06d}.{suffix}"
        case "coco":
            return f"coco/{coco_id(index):012d}.{suffix}"
        case "cc3m":
            return f"cc3m/{digits[:2]}/{digits[2:12]}.{suffix}"
    return f"{1_000_000_000 + int(digits[:7], 16)}_{index % 256:02x}{digits[7:15]}.{suffix}"


def coco_id(index: int) -> int:
    """COCO's number of an image: distinct, with gaps, as upstream's are."""
    return 139 + index * 97

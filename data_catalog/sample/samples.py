"""Images of the sample data: the plan of datasets, file formats and faults, and the writing of files."""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from data_catalog.base.progress import Progress
from data_catalog.sample.config import CC3M, COCO, FAULTS, FLICKR8K, MOST_FAULTY, SOURCES, WIT, rate_of
from data_catalog.sample.scene import Layout, Scene, encode, paint, pick, place, random_scene, shuffled

_SHARES = {WIT: 0.30, COCO: 0.35, CC3M: 0.20, FLICKR8K: 0.15}
_PNG_SHARE = 0.25  # share of PNG in the datasets that have other formats than JPEG
_ACCENTED_NAME_SHARE = 0.05  # share of WIT's file names with an accent


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An image of one of the datasets."""

    seed: int  # of the whole sample
    index: int  # from 0
    source: str
    fault: str  # a key of `FAULTS`, or ""
    original: int  # index of the image whose scene and bytes this image has: its own, unless it is a duplicate
    file_format: str  # "JPEG" or "PNG"
    path: str  # below the served folder, or (flickr8k) the name in the images folder
    figures: float  # share of figures among the images of the whole sample

    def rng(self, purpose: str) -> Random:
        """Return a random generator for this image and purpose; a duplicate's differs from its original's."""
        return Random(f"scenes:{self.seed}:{self.index}:{purpose}")

    def scene(self) -> Scene:
        """Return the scene that the picture shows."""
        return random_scene(Random(f"scenes:{self.seed}:{self.original}:scene"), figures=self.figures)

    def layout(self) -> Layout:
        """Return the layout of the picture, before it is painted."""
        return place(self.scene(), Random(f"scenes:{self.seed}:{self.original}:layout"))


def plan(
    seed: int, num_images: int, fault_rates: Mapping[str, float] | None = None, *, figures: float = 0.0
) -> list[Sample]:
    """Return all images, dataset by dataset, with their faults; `fault_rates` replace the rates of `FAULTS`."""
    rng = Random(f"scenes:{seed}:plan")
    ends = list(accumulate(_SHARES.values()))[:-1]
    sources = [SOURCES[bisect_right(ends, (index + 0.5) / num_images)] for index in range(num_images)]
    faults: dict[int, str] = {}
    for source in SOURCES:
        indices = [index for index, name in enumerate(sources) if name == source]
        remaining = shuffled(rng, indices)[: int(len(indices) * MOST_FAULTY)]
        for kind in FAULTS:
            rate = rate_of(kind, fault_rates or {}) if source in FAULTS[kind].sources else 0
            count = max(1, round(rate * len(indices))) if rate else 0
            faults.update(dict.fromkeys(remaining[:count], kind))
            remaining = remaining[count:]
    are_png = [rng.random() < _PNG_SHARE for _ in range(num_images)]
    formats = [
        "PNG" if are_png[i] and sources[i] in (WIT, CC3M) and i not in faults else "JPEG" for i in range(num_images)
    ]
    originals = [i for i in range(num_images) if i not in faults and formats[i] == "JPEG"]
    return [
        Sample(
            seed=seed,
            index=index,
            source=source,
            fault=faults.get(index, ""),
            original=pick(rng, originals) if faults.get(index) == "duplicate_image" else index,
            file_format=formats[index],
            path=_path(source, index, formats[index], Random(f"scenes:{seed}:{index}:name")),
            figures=figures,
        )
        for index, source in enumerate(sources)
    ]


def _path(source: str, index: int, file_format: str, rng: Random) -> str:
    """Return a path in the style of the dataset, with digits of a hash where upstream has them."""
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
    """Return a COCO image id: unique, with gaps, as upstream's ids."""
    return 139 + index * 97


def url_of(sample: Sample, base_url: str) -> str:
    """Return the percent-encoded URL of an image, or for flickr8k, whose images are local, its path."""
    return sample.path if sample.source == FLICKR8K else f"{base_url}/{quote(sample.path)}"


_HTML = """<!DOCTYPE html>
<html><head><title>Image removed</title></head>
<body><h1>This picture is no longer available</h1><p>Please visit our home page.</p></body></html>
"""
_KEPT_SHARE_OF_TRUNCATED = 0.4


@dataclass(slots=True, kw_only=True)
class ImageFolder:
    """Writer of image files, which collects the faults and the rules of the server."""

    web: Path  # the folder to be served
    local: Path  # of flickr8k's images
    base_url: str
    samples: Sequence[Sample]  # all, by index
    progress: Progress
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)  # by URL path
    faults: list[dict[str, Any]] = field(default_factory=list)  # in the order of writing

    def record(self, sample: Sample, *, with_place: bool = True, **facts: Any) -> None:
        """Record the fault of a sample with facts that identify it, such as the place of its image, or a caption."""
        place = {"path" if sample.source == FLICKR8K else "url": url_of(sample, self.base_url)} if with_place else {}
        self.faults.append({"kind": sample.fault, "source": sample.source, **place, **facts})

    def add(self, sample: Sample) -> tuple[int, int]:
        """Write the image of `sample` with its fault, if any; return width and height in pixels."""
        layout, fault = sample.layout(), FAULTS.get(sample.fault)
        if fault and fault.of_image:
            original = self.samples[sample.original]
            facts: dict[str, Any] = {} if original is sample else {"same_as": url_of(original, self.base_url)}
            self.record(sample, **facts)
        path = self.local / sample.path if sample.source == FLICKR8K else self.web / sample.path
        if fault and fault.rule:
            rule = {key: value.format(sample.path) if key == "location" else value for key, value in fault.rule.items()}
            self.rules[f"/{sample.path}"] = rule
            path = self.web / rule.get("location", f"/{sample.path}").removeprefix("/")
        data = _file_bytes(sample, layout)
        if data is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.progress.advance()
        return (layout.width, layout.height) if sample.fault != "tiny_image" else (1, 1)


def _file_bytes(sample: Sample, layout: Layout) -> bytes | None:
    """Return the bytes of the image file, or None if its fault is a missing file."""
    from PIL import Image

    match sample.fault:
        case "dead_link" | "missing_file":
            return None
        case "html_instead_of_image":
            return _HTML.encode()
        case "tiny_image":
            return encode(Image.new("RGB", (1, 1), layout.rgb), sample.file_format)
    data = encode(paint(layout), sample.file_format)
    return data[: int(len(data) * _KEPT_SHARE_OF_TRUNCATED)] if sample.fault == "truncated_image" else data

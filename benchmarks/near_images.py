"""Images that look alike, found and mistaken: python benchmarks/near_images.py [--quick] [FOLDER...].

Photographs are COCO's, with pieces of them (quarters) as further distinct ones; scenes are drawn; each FOLDER of PNG
files, such as Tux Paint's stamps, is a set of its own, without a claim. Every change of a picture is hashed as training
images are, and looked for as a duplicate, or by the views of the picture as a leak. Speed is that of finding
what stays beside comparing all hashes with all in numpy, interleaved; hashes are drawn like real ones, a tenth near
another, and all thumbnails are equal.
"""

import io
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from data_folder import DATA, PHOTOS
from harness import judge, medians, options_of, peak_mb, race, tell

from cleaning.duplicates.hamming import Hashes, Rows
from cleaning.duplicates.images import DuplicatesConfig
from cleaning.duplicates.near_images import (
    Looks,
    Thumbnails,
    first_staying,
    leak_matches,
    parse_hashes,
    parse_thumbnails,
    thumbnail_distance,
)
from cleaning.leaks import LeaksConfig
from data_catalog.images.normalise import ImageRejectedError, NormaliseConfig, normalise_image
from data_catalog.images.views import image_views
from data_catalog.sample.drawing import encode, paint, place
from data_catalog.sample.scene import random_scene

# Drawn scenes, rounds, sizes raced against comparing all, further sizes.
SIZES: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...]]] = {
    "quick": (1500, 5, (10_000, 30_000), (100_000, 1_000_000)),
    "full": (4000, 5, (10_000, 100_000), (1_000_000, 10_000_000)),
}
# How many times as fast as comparing all hashes, by their number, though it compares thumbnails and decides what stays.
TIMES = {"times-10000": 2.0, "times-30000": 5.0, "times-100000": 20.0}
MOST_CHANGED = 80  # pictures of a set
CONFIG = NormaliseConfig(min_image_size=16, max_aspect_ratio=20.0)
Change = Callable[[Any], bytes]
DUPLICATE_LIMITS, LEAK_LIMITS = DuplicatesConfig(), LeaksConfig()
Arrays = tuple[Hashes, Thumbnails]


def jpeg(image: Any, quality: int = 75) -> bytes:
    return saved(image, "JPEG", quality=quality)


def saved(image: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scaled(image: Any, share: float) -> Any:
    from PIL import Image

    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.LANCZOS)


def cropped(image: Any, left: float, top: float, right: float, bottom: float) -> Any:
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), width - round(right * width), height - round(bottom * height))
    )


def mirrored(image: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.mirror(image)


DUPLICATES: dict[str, Change] = {
    "JPEG 50": lambda image: jpeg(image, 50),
    "JPEG 75": lambda image: jpeg(image, 75),
    "JPEG 95": lambda image: jpeg(image, 95),
    "WebP 50": lambda image: saved(image, "WEBP", quality=50),
    "WebP 80": lambda image: saved(image, "WEBP", quality=80),
    "30 % of the size": lambda image: jpeg(scaled(image, 0.3)),
    "50 % of the size": lambda image: jpeg(scaled(image, 0.5)),
    "70 % of the size": lambda image: jpeg(scaled(image, 0.7)),
}
LEAKS: dict[str, Change] = {
    "re-encoded": jpeg,
    "70 % of the size": lambda image: jpeg(scaled(image, 0.7)),
    "cropped 3 % a side": lambda image: jpeg(cropped(image, 0.03, 0.03, 0.03, 0.03)),
    "cropped 3 % in all": lambda image: jpeg(cropped(image, 0.015, 0.015, 0.015, 0.015)),
    "cropped left": lambda image: jpeg(cropped(image, 0.03, 0, 0, 0)),
    "cropped top": lambda image: jpeg(cropped(image, 0, 0.03, 0, 0)),
    "cropped at a corner": lambda image: jpeg(cropped(image, 0.03, 0.03, 0, 0)),
    "mirrored": lambda image: jpeg(mirrored(image)),
    "all three": lambda image: jpeg(mirrored(scaled(cropped(image, 0.03, 0.03, 0.03, 0.03), 0.7))),
}


def coco_photographs() -> list[bytes]:
    """Photographs, and the quarters of each."""
    from PIL import Image

    whole = [path.read_bytes() for path in sorted((DATA / PHOTOS).glob("*.jpg"))]
    images = [Image.open(io.BytesIO(raw)).convert("RGB") for raw in whole]
    corners = [(left, top, 0.5 - left, 0.5 - top) for left in (0, 0.5) for top in (0, 0.5)]
    return whole + [jpeg(cropped(image, *corner), 90) for image in images for corner in corners]


def drawn_scenes(count: int) -> list[bytes]:
    return [encode(paint(place(random_scene(Random(f"s{at}")), Random(f"l{at}"))), "JPEG") for at in range(count)]


def hashed(files: Sequence[bytes]) -> tuple[Arrays, list[int]]:
    """Hashes and thumbnails as of training images, and which files are good."""
    good, phashes, thumbnails = [], [], []
    for at, raw in enumerate(files):
        try:
            image = normalise_image(raw, CONFIG)
        except ImageRejectedError:
            continue
        good.append(at)
        phashes.append(image.phash)
        thumbnails.append(image.thumbnail)
    return (parse_hashes(pa.array(phashes, pa.string())), parse_thumbnails(pa.array(thumbnails))), good


def on_white(raw: bytes) -> Any:
    from PIL import Image

    image = Image.open(io.BytesIO(raw)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def found_rates(files: Sequence[bytes]) -> dict[str, float]:
    """Share of changed pictures that are found, by kind of change."""
    originals, good = hashed(files)
    images = [on_white(files[at]) for at in good]
    rates = {}
    for kind, change in DUPLICATES.items():
        copies, changed = hashed([change(image) for image in images])
        hashes = np.concatenate([originals[0], copies[0]])
        thumbnails = np.concatenate([originals[1], copies[1]])
        first = staying(hashes, thumbnails)
        hits = [first[at] == first[len(good) + number] for number, at in enumerate(changed)]
        rates[f"duplicate, {kind}"] = float(np.mean(hits))
    views = viewed([files[at] for at in good])
    for kind, change in LEAKS.items():
        copies, changed = hashed([change(image) for image in images])
        found = {row for row, _ in leaks_of(copies, views).tolist()}
        rates[f"leak, {kind}"] = float(np.mean([number in found for number in range(len(changed))]))
    return rates


def staying(hashes: Hashes, thumbnails: Thumbnails) -> Rows:
    """For each picture the one that stays."""
    looks = Looks(
        hashes=hashes,
        thumbnails=thumbnails,
        max_distance=DUPLICATE_LIMITS.max_distance,
        max_difference=DUPLICATE_LIMITS.max_thumbnail_difference,
    )
    return first_staying(looks, np.arange(len(hashes)))


def leaks_of(images: Arrays, views: Arrays) -> Rows:
    difference = LEAK_LIMITS.max_thumbnail_difference
    return leak_matches(images, views, max_distance=LEAK_LIMITS.max_distance, max_difference=difference)


def viewed(files: Sequence[bytes]) -> Arrays:
    """All views of the files."""
    views = [view for raw in files for view in image_views(raw)]
    hashes = parse_hashes(pa.array([view.phash for view in views]))
    return hashes, parse_thumbnails(pa.array([view.thumbnail for view in views]))


def false_pairs(files: Sequence[bytes]) -> tuple[float, float, str]:
    """Of distinct pictures: share of pairs taken for duplicates, and for leaks; and a table of pairs near by hash."""
    (hashes, thumbnails), good = hashed(files)
    num_pairs = len(good) * (len(good) - 1) / 2
    tests = [files[at] for at in good[: len(good) // 8]]
    views = viewed(tests)
    train = (hashes[len(tests) :], thumbnails[len(tests) :])
    leaks = len(leaks_of(train, views))
    pairs = pairs_within(hashes, 10)
    bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    apart = thumbnail_distance(thumbnails[pairs[:, 0]], thumbnails[pairs[:, 1]])
    alike = (bits <= DUPLICATE_LIMITS.max_distance) & (apart <= DUPLICATE_LIMITS.max_thumbnail_difference)
    edges = (0, 0.1, 0.2, 0.25, 0.3, 0.4, np.inf)
    counts = [f"    <= {most:2} bits: {np.histogram(apart[bits <= most], edges)[0]}" for most in (0, 2, 4, 6, 8, 10)]
    head = f"  {len(good)} distinct, {num_pairs:.0f} pairs; thumbnails apart by {edges}"
    return float(alike.sum()) / num_pairs, leaks / (len(tests) * len(train[0])), "\n".join([head, *counts])


def pairs_within(hashes: Hashes, max_distance: int) -> Rows:
    near = (np.bitwise_count(hashes[at + 1 :] ^ hashes[at]) <= max_distance for at in range(len(hashes)))
    parts = [np.column_stack(np.broadcast_arrays(at, at + 1 + np.flatnonzero(some))) for at, some in enumerate(near)]
    return np.concatenate(parts)


def hashes_like(real: Hashes, count: int, seed: int) -> Hashes:
    """Drawn with the shares and correlations of the bits of real ones; a tenth is within 2 bits of another."""
    numbers = np.random.default_rng(seed)
    places = np.arange(64, dtype=np.uint64)
    signs = 2.0 * ((real[:, None] >> places) & np.uint64(1)) - 1
    mix = np.linalg.cholesky(0.9 * np.cov(signs.T) + 0.1 * np.eye(64)).T.astype(np.float32)
    hashes = np.empty(count, np.uint64)
    for start in range(0, count, 100_000):
        part = hashes[start : start + 100_000]
        drawn = numbers.standard_normal((len(part), 64), np.float32) @ mix + signs.mean(axis=0, dtype=np.float32)
        above = drawn > np.median(drawn, axis=1, keepdims=True)
        part[:] = np.packbits(above, axis=1, bitorder="little").view("<u8")[:, 0]
    copies = hashes[numbers.integers(0, count, count // 10)]
    for _ in range(2):
        copies = copies ^ (np.uint64(1) << numbers.integers(0, 64, len(copies)).astype(np.uint64))
    hashes[: len(copies)] = copies
    return hashes


def all_with_all(hashes: Hashes) -> int:
    """What anybody would write."""
    distinct = np.unique(hashes)
    rest = (distinct[at + 1 :] ^ distinct[at] for at in range(len(distinct)))
    return sum(int((np.bitwise_count(bits) <= DUPLICATE_LIMITS.max_distance).sum()) for bits in rest)


def compare_speed(real: Hashes, rounds: int, raced: Sequence[int], alone: Sequence[int]) -> dict[str, float]:
    """Print seconds by number of hashes; returns how many times as fast as comparing all."""
    values, rows = {}, []
    for count in raced:
        hashes = hashes_like(real, count, count)
        works = {"ours": lambda hashes=hashes: what_stays(hashes), "all": lambda hashes=hashes: all_with_all(hashes)}
        seconds = medians(race(works, rounds))
        values[f"times-{count}"] = seconds["all"] / seconds["ours"]
        rows.append({"hashes": count, "s": f"{seconds['ours']:.3f}", "all with all, s": f"{seconds['all']:.3f}"})
        rows[-1]["peak MB so far"] = round(peak_mb())
    for count in alone:
        hashes, started = hashes_like(real, count, count), time.perf_counter()
        what_stays(hashes)
        seconds = values[f"seconds-{count}"] = time.perf_counter() - started
        rows.append({"hashes": count, "s": f"{seconds:.3f}", "all with all, s": "", "peak MB so far": round(peak_mb())})
    tell(rows, f"what stays within {DUPLICATE_LIMITS.max_distance} bits, {rounds} rounds interleaved, medians")
    return values


def what_stays(hashes: Hashes) -> Rows:
    return staying(hashes, np.broadcast_to(np.zeros(192, np.uint8), (len(hashes), 192)))


def main() -> int:
    """Measure, print, and judge the claims."""
    parser = options_of(__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of PNG files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's, of odd files
    num_scenes, rounds, raced, alone = SIZES["quick" if options.quick else "full"]
    sets = {"photographs": coco_photographs(), "scenes": drawn_scenes(num_scenes)}
    sets |= {folder.name: [path.read_bytes() for path in sorted(folder.rglob("*.png"))] for folder in options.folders}
    sets = {name: files for name, files in sets.items() if files}
    rates = {name: found_rates(files[: MOST_CHANGED : 2 if options.quick else 1]) for name, files in sets.items()}
    kinds = next(iter(rates.values()))
    tell([{"found": kind, **{name: f"{found[kind]:.3f}" for name, found in rates.items()}} for kind in kinds])
    values, goals = {}, {}
    for name, files in sets.items():
        *false, table = false_pairs(files)
        print(f"{name}, mistaken: duplicates {false[0]:.2g}, leaks {false[1]:.2g} of pairs\n{table}\n")
        if name in ("photographs", "scenes"):
            values |= {f"found-{name}": min(rates[name].values()), f"mistaken-{name}": max(false)}
            goals |= {f"found-{name}": (">=", 0.95), f"mistaken-{name}": ("<=", 0.001)}
    # Drawn scenes have far fewer kinds of hashes than pictures of the web.
    seconds = compare_speed(hashed(sets.get("photographs", sets["scenes"]))[0][0], rounds, raced, alone)
    goals |= {name: (">=", goal) for name, goal in TIMES.items()} | {"seconds-10000000": ("<=", 600.0)}
    return judge(values | {name: value for name, value in seconds.items() if name in goals}, goals, "near-images-")


if __name__ == "__main__":
    sys.exit(main())

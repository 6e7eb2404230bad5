"""Near-duplicates and leaks of images, found and mistaken: python benchmarks/near_images.py [--quick] [FOLDER...].

Photographs are COCO's, and their quarters serve as further distinct ones. Scenes are drawn. Each FOLDER of PNG files,
such as Tux Paint's stamps, is a set of its own, without a claim. Every changed image is hashed as training images are,
and searched for as a duplicate, or as a leak among the views of the original. Speed is measured for the choice of
images that stay, in turn with a comparison of all pairs of hashes in numpy. Its hashes are drawn with the statistics of
real ones, a tenth of them near another, and all thumbnails are equal.
"""

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from data_folder import DATA, PHOTOS
from harness import judge, medians, options_of, peak_mb, print_table, race
from pictures import jpeg, saved

from cleaning.duplicates.images import DuplicatesConfig
from cleaning.duplicates.near_images import (
    Hashes,
    ImageSimilarity,
    Rows,
    Thumbnails,
    first_kept,
    leak_matches,
    parse_hashes,
    parse_thumbnails,
    thumbnail_distances,
)
from cleaning.leaks import LeaksConfig
from data_catalog.fetch.image_views import image_views
from data_catalog.images.normalise import ImageRejectedError, NormaliseConfig, normalise_image
from data_catalog.sample.scene import encode, paint, place, random_scene

# Drawn scenes, rounds, numbers of hashes that are also compared in pairs, further numbers of hashes.
SIZES: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...]]] = {
    "quick": (1500, 5, (10_000, 30_000), (100_000, 1_000_000)),
    "full": (4000, 5, (10_000, 100_000), (1_000_000, 10_000_000)),
}
# Speed relative to the comparison of all pairs, which neither compares thumbnails nor chooses the images that stay.
TIMES = {"times-10000": 2.0, "times-30000": 5.0, "times-100000": 20.0}
MOST_CHANGED = 80  # most images of a set that are changed
CONFIG = NormaliseConfig(min_image_size=16, max_aspect_ratio=20.0)
Change = Callable[[Any], bytes]
DUPLICATE_LIMITS, LEAKS_CONFIG = DuplicatesConfig(), LeaksConfig()
LEAK_LIMITS: dict[str, Any] = {"max_distance": LEAKS_CONFIG.max_distance}
LEAK_LIMITS["max_difference"] = LEAKS_CONFIG.max_thumbnail_difference
Arrays = tuple[Hashes, Thumbnails]


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
    from PIL import Image

    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


DUPLICATES: dict[str, Change] = {
    **{f"JPEG {quality}": lambda image, quality=quality: jpeg(image, quality) for quality in (50, 75, 95)},
    **{f"WebP {quality}": lambda image, quality=quality: saved(image, "WEBP", quality=quality) for quality in (50, 80)},
    **{f"{share:.0%} of the size": lambda image, share=share: jpeg(scaled(image, share)) for share in (0.3, 0.5, 0.7)},
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
    """Return photographs, and the quarters of each."""
    from PIL import Image

    whole = [path.read_bytes() for path in sorted((DATA / PHOTOS).glob("*.jpg"))]
    images = [Image.open(io.BytesIO(raw)).convert("RGB") for raw in whole]
    corners = [(left, top, 0.5 - left, 0.5 - top) for left in (0, 0.5) for top in (0, 0.5)]
    return whole + [jpeg(cropped(image, *corner), 90) for image in images for corner in corners]


def hashed(files: Sequence[bytes]) -> tuple[Arrays, list[int]]:
    """Return hashes and thumbnails as of training images, and the indices of the files that were accepted."""
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
    """Return the share of changed images that are found, by kind of change."""
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
    views = views_of([files[at] for at in good])
    for kind, change in LEAKS.items():
        copies, changed = hashed([change(image) for image in images])
        found = {row for row, _ in leak_matches(copies, views, **LEAK_LIMITS).tolist()}
        rates[f"leak, {kind}"] = float(np.mean([number in found for number in range(len(changed))]))
    return rates


def staying(hashes: Hashes, thumbnails: Thumbnails) -> Rows:
    """Return for each image the one that stays."""
    looks = ImageSimilarity(
        hashes=hashes,
        thumbnails=thumbnails,
        max_distance=DUPLICATE_LIMITS.max_distance,
        max_difference=DUPLICATE_LIMITS.max_thumbnail_difference,
    )
    return first_kept(looks, np.arange(len(hashes)))


def views_of(files: Sequence[bytes]) -> Arrays:
    """Return the hashes and thumbnails of all views of the files."""
    views = [view for raw in files for view in image_views(raw)]
    hashes = parse_hashes(pa.array([view.phash for view in views]))
    return hashes, parse_thumbnails(pa.array([view.thumbnail for view in views]))


def false_pairs(files: Sequence[bytes]) -> tuple[float, float]:
    """Return the shares of pairs of distinct images that are mistaken for duplicates, and for leaks."""
    (hashes, thumbnails), good = hashed(files)
    tests = [files[at] for at in good[: len(good) // 8]]
    train = (hashes[len(tests) :], thumbnails[len(tests) :])
    leaks = len(leak_matches(train, views_of(tests), **LEAK_LIMITS)) / (len(tests) * len(train[0]))
    limit = DUPLICATE_LIMITS.max_distance
    near = [
        at + 1 + np.flatnonzero(np.bitwise_count(hashes[at + 1 :] ^ hashes[at]) <= limit) for at in range(len(good))
    ]
    one, other = np.repeat(np.arange(len(good)), list(map(len, near))), np.concatenate(near)
    differences = (
        thumbnail_distances(thumbnails, thumbnails, np.stack([one, other], axis=1)) if len(other) else np.zeros(0)
    )
    alike = int((differences <= DUPLICATE_LIMITS.max_thumbnail_difference).sum())
    return alike / (len(good) * (len(good) - 1) / 2), leaks


def hashes_like(real: Hashes, count: int, seed: int) -> Hashes:
    """Return hashes drawn with the bit shares and correlations of real ones; a tenth are within 2 bits of another."""
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
    """Return the number of near pairs, by a plain comparison of all pairs."""
    distinct = np.unique(hashes)
    rest = (distinct[at + 1 :] ^ distinct[at] for at in range(len(distinct)))
    return sum(int((np.bitwise_count(bits) <= DUPLICATE_LIMITS.max_distance).sum()) for bits in rest)


def compare_speed(real: Hashes, rounds: int, raced: Sequence[int], alone: Sequence[int]) -> dict[str, float]:
    """Print seconds by number of hashes; return them, and the speed relative to the comparison of all pairs."""
    values, rows = {}, []
    for count in (*raced, *alone):
        hashes = hashes_like(real, count, count)
        thumbnails = np.broadcast_to(np.zeros(192, np.uint8), (count, 192))
        works = {"s": lambda some=hashes, looks=thumbnails: staying(some, looks)}
        if count in raced:
            works["all with all, s"] = lambda some=hashes: all_with_all(some)
        seconds = medians(race(works, rounds if count in raced else 1))
        values[f"seconds-{count}"] = seconds["s"]
        if count in raced:
            values[f"times-{count}"] = seconds["all with all, s"] / seconds["s"]
        shown = {name: f"{seconds[name]:.3f}" if name in seconds else "" for name in ("s", "all with all, s")}
        rows.append({"hashes": count, **shown, "peak MB so far": round(peak_mb())})
    print_table(
        rows, f"choice of images within {DUPLICATE_LIMITS.max_distance} bits, medians of {rounds} interleaved rounds"
    )
    return values


def main() -> int:
    """Measure, print, and judge the claims."""
    parser = options_of(__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of PNG files")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow warns about unusual files
    num_scenes, rounds, raced, alone = SIZES["quick" if options.quick else "full"]
    scenes = (place(random_scene(Random(f"s{at}")), Random(f"l{at}")) for at in range(num_scenes))
    sets = {"photographs": coco_photographs(), "scenes": [encode(paint(scene), "JPEG") for scene in scenes]}
    sets |= {folder.name: [path.read_bytes() for path in sorted(folder.rglob("*.png"))] for folder in options.folders}
    sets = {name: files for name, files in sets.items() if files}
    rates = {name: found_rates(files[: MOST_CHANGED : 2 if options.quick else 1]) for name, files in sets.items()}
    kinds = next(iter(rates.values()))
    print_table([{"found": kind, **{name: f"{found[kind]:.3f}" for name, found in rates.items()}} for kind in kinds])
    values, goals = {}, {}
    for name, files in sets.items():
        false = false_pairs(files)
        print(f"{name}, {len(files)} files, mistaken: duplicates {false[0]:.2g}, leaks {false[1]:.2g} of pairs")
        if name in ("photographs", "scenes"):
            values |= {f"found-{name}": min(rates[name].values()), f"mistaken-{name}": max(false)}
            goals |= {f"found-{name}": (">=", 0.95), f"mistaken-{name}": ("<=", 0.001)}
    # Drawn scenes have far fewer different hashes than photographs.
    seconds = compare_speed(hashed(sets.get("photographs", sets["scenes"]))[0][0], rounds, raced, alone)
    goals |= {name: (">=", goal) for name, goal in TIMES.items()} | {"seconds-10000000": ("<=", 600.0)}
    return judge(values | {name: value for name, value in seconds.items() if name in goals}, goals, "near-images-")


if __name__ == "__main__":
    sys.exit(main())

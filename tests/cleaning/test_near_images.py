"""Images that look alike: search by hash, thumbnails, clusters; against comparing all with all."""

import io
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cleaning.duplicates.images import DuplicatesConfig
from cleaning.duplicates.near_images import (
    ImageSimilarity,
    first_kept,
    first_similar,
    leak_matches,
    near_pairs,
    parse_hashes,
    parse_thumbnails,
    thumbnail_distances,
)
from cleaning.leaks import LeaksConfig
from data_catalog.errors import SettingsError
from data_catalog.images.normalise import NormaliseConfig, NormalisedImage, normalise_image
from data_catalog.images.views import image_views
from data_catalog.sample.scene import encode, paint, place, random_scene

Hashes = NDArray[np.uint64]
Picture = Image.Image

# Few centres and few flips, so that many pairs are near, many equal, and many just too far.
HASHES = st.lists(
    st.builds(
        lambda centre, bits: centre ^ sum(1 << bit for bit in bits),
        st.sampled_from((0, 2**64 - 1, 0x5AC3_19E7_70F2_8B4D)),
        st.sets(st.integers(0, 63), max_size=9),
    ),
    max_size=40,
).map(lambda values: np.array(values, np.uint64))
DISTANCES = st.integers(0, 16)


def distances(one: Hashes, other: Hashes) -> NDArray[Any]:
    apart: NDArray[Any] = np.bitwise_count(one[:, None] ^ other[None, :])
    return apart


def as_set(pairs: NDArray[np.int64]) -> set[tuple[int, int]]:
    found = {(int(one), int(other)) for one, other in pairs}
    assert len(found) == len(pairs)
    return found


def looks_of(
    hashes: Hashes, thumbnails: NDArray[np.uint8] | None = None, *, max_distance: int = DuplicatesConfig().max_distance
) -> ImageSimilarity:
    """All of one colour, unless thumbnails say otherwise."""
    return ImageSimilarity(
        hashes=hashes,
        thumbnails=np.zeros((len(hashes), 192), np.uint8) if thumbnails is None else thumbnails,
        max_distance=max_distance,
        max_difference=DuplicatesConfig().max_thumbnail_difference,
    )


def stays_for(looks: ImageSimilarity) -> set[tuple[int, int]]:
    """Pairs (row that stays, row that goes for it), where the lower rows stay."""
    first = first_kept(looks, np.arange(len(looks.hashes)))
    return {(int(stays), row) for row, stays in enumerate(first) if stays != row}


def leaks_of(images: tuple[Hashes, NDArray[np.uint8]], references: tuple[Hashes, NDArray[np.uint8]]) -> Any:
    limits = LeaksConfig()
    difference = limits.max_thumbnail_difference
    return leak_matches(images, references, max_distance=limits.max_distance, max_difference=difference)


def one_by_one(alike: NDArray[np.bool_]) -> list[int]:
    """For each row the first one that stays and that it is like."""
    staying: list[int] = []
    found = []
    for row in range(len(alike)):
        found.append(next((other for other in staying if alike[row, other]), row))
        staying += [row] if found[-1] == row else []
    return found


@settings(max_examples=200, deadline=None)
@given(hashes=HASHES, max_distance=DISTANCES, seed=st.integers(0, 99))
def test_what_stays_is_what_comparing_all_one_by_one_says(hashes: Hashes, max_distance: int, seed: int) -> None:
    colours = np.random.default_rng(seed).integers(0, 3, len(hashes)) * 90
    thumbnails = np.repeat(colours.astype(np.uint8)[:, None], 192, axis=1)
    looks = looks_of(hashes, thumbnails, max_distance=max_distance)
    alike = (distances(hashes, hashes) <= max_distance) & (colours[:, None] == colours)
    assert first_kept(looks, np.arange(len(hashes))).tolist() == one_by_one(alike)
    order = np.random.default_rng(seed).permutation(len(hashes))
    backwards = first_kept(looks, order)
    assert backwards.tolist() == order[one_by_one(alike[np.ix_(order, order)])].tolist()


@settings(max_examples=200, deadline=None)
@given(hashes=HASHES, max_distance=DISTANCES, cut=st.integers(0, 40))
def test_the_first_reference_is_that_of_comparing_all(hashes: Hashes, max_distance: int, cut: int) -> None:
    rows, references = np.arange(len(hashes))[:cut], np.arange(len(hashes))[cut:][::-1]
    near = distances(hashes[rows], hashes[references]) <= max_distance
    expected = [int(references[row.argmax()]) if row.any() else -1 for row in near]
    assert first_similar(looks_of(hashes, max_distance=max_distance), rows, references).tolist() == expected


def test_crowds_are_what_comparing_all_one_by_one_says() -> None:
    """So many are near that they are looked at in parts."""
    numbers = np.random.default_rng(8)
    hashes = (np.uint64(1) << numbers.integers(0, 16, (3, 1500)).astype(np.uint64)).sum(axis=0, dtype=np.uint64)
    alike = distances(hashes, hashes) <= 4
    assert alike.sum() > 400_000
    looks = looks_of(hashes, max_distance=4)
    assert first_kept(looks, np.arange(1500)).tolist() == one_by_one(alike)
    rows, references = np.arange(700), np.arange(700, 1500)
    near = alike[:700, 700:]
    expected = np.where(near.any(axis=1), references[near.argmax(axis=1)], -1)
    assert first_similar(looks, rows, references).tolist() == expected.tolist()


class Counting(np.ndarray[Any, np.dtype[np.uint8]]):
    """Thumbnails that count how many are looked at."""

    num_read = 0

    def __getitem__(self, rows: Any) -> Any:
        found = np.asarray(self)[rows]
        self.num_read += len(found)
        return found


@pytest.mark.parametrize("num_hashes", [1, 3])
def test_each_pair_is_measured_once(num_hashes: int) -> None:
    thumbnails = np.random.default_rng(3).integers(0, 256, (300, 192), dtype=np.uint8).view(Counting)
    hashes = np.arange(300, dtype=np.uint64) % np.uint64(num_hashes)
    assert not stays_for(looks_of(hashes, thumbnails))
    assert thumbnails.num_read == 300 * 299


@pytest.mark.parametrize(
    ("max_distance", "num_equal"), [(2, 1), (2, 3), (2, 5), (4, 2), (4, 4), (6, 2), (6, 3), (8, 1), (8, 3), (16, 2)]
)
def test_all_numbers_of_blocks_find_the_same(max_distance: int, num_equal: int) -> None:
    """What large inputs choose by their sizes, on a small one that comparing all can answer."""
    numbers = np.random.default_rng(num_equal)
    hashes = numbers.integers(0, 2**64, 40, dtype=np.uint64)[numbers.integers(0, 40, 600)]
    for _ in range(1 + max_distance // 2):
        hashes = hashes ^ (np.uint64(1) << numbers.integers(0, 64, 600).astype(np.uint64))
    hashes = np.unique(hashes)
    near = np.argwhere(np.triu(distances(hashes, hashes) <= max_distance, 1))
    pairs = np.concatenate(list(near_pairs(hashes, max_distance=max_distance, num_equal=num_equal)))
    assert as_set(np.array(sorted(np.sort(pairs, axis=1).tolist()))) == {tuple(pair) for pair in near.tolist()}
    references = hashes[::3]
    found = near_pairs(hashes, references, max_distance=max_distance, num_equal=num_equal)
    expected = np.argwhere(distances(hashes, references) <= max_distance).tolist()
    assert sorted(np.concatenate(list(found)).tolist()) == expected


def test_large_inputs_find_what_was_planted() -> None:
    """200,000 hashes drawn at random are far from each other, but for 2,000 with 0 to 8 bits changed."""
    numbers = np.random.default_rng(5)
    hashes = numbers.integers(0, 2**64, 200_000, dtype=np.uint64)
    for at in range(2000):
        bits = numbers.choice(64, at % 9, replace=False)
        hashes[100_000 + at] = hashes[at] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    for max_distance in (4, 6, 8):
        planted = {(at, 100_000 + at) for at in range(2000) if at % 9 <= max_distance}
        looks = looks_of(hashes, np.broadcast_to(np.zeros(192, np.uint8), (200_000, 192)), max_distance=max_distance)
        found = stays_for(looks)
        assert planted <= found
        assert all(int(hashes[i] ^ hashes[j]).bit_count() <= max_distance for i, j in found)
        assert len(found) <= len(planted) + 5
        matches = first_similar(looks, np.arange(100_000, 200_000), np.arange(100_000))
        assert {(int(one), 100_000 + at) for at, one in enumerate(matches) if one >= 0} == {
            pair for pair in found if pair[0] < 100_000 <= pair[1]
        }


@pytest.mark.parametrize("config", [DuplicatesConfig, LeaksConfig])
@pytest.mark.parametrize("max_distance", [-1, 17])
def test_distances_out_of_bounds_are_refused(config: type[DuplicatesConfig | LeaksConfig], max_distance: int) -> None:
    with pytest.raises(SettingsError, match=r"max_distance must be between 0 and 16"):
        config(max_distance=max_distance)


def test_columns_become_arrays() -> None:
    texts = ["00000000000000ff", "8000000000000000", "0123456789abcdef", "ffffffffffffffff"]
    column = pa.chunked_array([texts[:1], [], texts[1:]], pa.string())
    assert [f"{value:016x}" for value in parse_hashes(column).tolist()] == texts
    assert [f"{value:016x}" for value in parse_hashes(column.chunk(2).slice(1, 2)).tolist()] == texts[2:]
    assert parse_hashes(pa.array([], pa.string())).shape == (0,)
    looks = np.arange(4 * 192, dtype=np.uint8).reshape(4, 192)
    cells = pa.array([look.tobytes() for look in looks], pa.binary())
    assert (parse_thumbnails(cells.slice(1)) == looks[1:]).all()
    assert parse_thumbnails(cells.slice(4)).shape == (0, 192)


@pytest.mark.parametrize("cell", [None, "", "00", "0" * 17])
def test_rows_without_a_hash_are_refused(cell: str | None) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        parse_hashes(pa.array(["0" * 16, cell], pa.string()))


THUMBNAILS = st.binary(min_size=192, max_size=192).map(lambda data: np.frombuffer(data, np.uint8).reshape(1, 192))


@settings(max_examples=100, deadline=None)
@given(one=THUMBNAILS, other=THUMBNAILS)
def test_thumbnail_distances_are_even_handed(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    there, back = distance(one, other), distance(other, one)
    assert there == back
    assert distance(one, one) == 0
    assert (there == 0) == (one == other).all()
    many = thumbnail_distances(one, other, np.zeros((3000, 2), np.int64))
    assert (many == there).all()


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of one thumbnail from another."""
    return thumbnail_distances(one, other, np.zeros((1, 2), np.int64))


def plain(*colour: int) -> NDArray[np.uint8]:
    return np.tile(np.array(colour, np.uint8), (1, 64))


def test_thumbnail_distances_of_plain_pictures() -> None:
    assert distance(plain(10, 10, 10), plain(74, 74, 74)) == pytest.approx(1)
    assert distance(plain(10, 10, 10), plain(11, 10, 10)) < 0.01


def disc(colour: str) -> Picture:
    """Off the middle: what is symmetric has a hash of which half the bits are noise."""
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((30, 50, 110, 120), fill=colour)
    return image


def file_of(image: Picture, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def normalised(*files: bytes) -> tuple[Hashes, NDArray[np.uint8]]:
    config = NormaliseConfig(min_image_size=1, max_aspect_ratio=100.0)
    return arrays([normalise_image(file, config) for file in files])


def arrays(images: list[NormalisedImage]) -> tuple[Hashes, NDArray[np.uint8]]:
    return parse_hashes(pa.array([image.phash for image in images])), parse_thumbnails(
        pa.array([image.thumbnail for image in images])
    )


def test_colours_and_places_tell_pictures_of_one_hash_apart() -> None:
    # The same brightness: the hash cannot see a difference.
    red, green = disc("#d02020"), disc("#00731f")
    hashes, thumbnails = normalised(*(file_of(image, "PNG") for image in (red, green)))
    assert np.bitwise_count(hashes[0] ^ hashes[1]) <= 6
    assert not stays_for(looks_of(hashes, thumbnails))
    again = normalised(file_of(red, "PNG"), file_of(green, "PNG"), file_of(red, "JPEG", quality=60))
    assert stays_for(looks_of(*again)) == {(0, 2)}


CHANGES: dict[str, Callable[[Picture], bytes]] = {
    "JPEG 50": lambda image: file_of(image, quality=50),
    "JPEG 95": lambda image: file_of(image, quality=95),
    "WebP": lambda image: file_of(image, "WEBP", quality=70),
    "PNG": lambda image: file_of(image, "PNG"),
    "half the size": lambda image: file_of(image.resize((image.width // 2, image.height // 2))),
    "a third of the size": lambda image: file_of(image.resize((image.width // 3, image.height // 3))),
    "PNG with alpha": lambda image: file_of(image.convert("RGBA"), "PNG"),
}


def blobs(width: int, height: int, seed: int = 1) -> Picture:
    """Noise of few scales: no symmetry, all colours."""
    numbers = np.random.default_rng(seed)
    small = Image.fromarray(numbers.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize("size", [(400, 300), (300, 400), (90, 1500), (1500, 60)], ids=str)
def test_copies_are_found_and_others_not(change: str, size: tuple[int, int]) -> None:
    pictures = [blobs(*size, seed=seed) for seed in range(6)]
    files = [file_of(image, quality=90) for image in pictures] + [CHANGES[change](image) for image in pictures]
    assert stays_for(looks_of(*normalised(*files))) == {(at, at + 6) for at in range(6)}


def test_transparent_pictures_are_compared_as_they_are_seen() -> None:
    image = blobs(200, 200).convert("RGBA")
    hidden = blobs(200, 200, seed=2).convert("RGBA")
    mask = Image.new("L", (200, 200), 0)
    ImageDraw.Draw(mask).polygon([(20, 180), (60, 30), (190, 120)], fill=255)
    white = Image.new("RGB", (200, 200), "white")
    white.paste(image.convert("RGB"), mask=mask)
    image.putalpha(mask)
    # What lies under transparent pixels differs, and nobody sees it.
    other = Image.composite(image, hidden, mask)
    other.putalpha(mask)
    files = [file_of(white), file_of(image, "PNG"), file_of(other, "WEBP", lossless=True, exact=True)]
    assert stays_for(looks_of(*normalised(*files))) == {(0, 1), (0, 2)}


def test_rows_of_equal_hashes_are_told_apart_by_what_looks_alike() -> None:
    hashes = np.zeros(7, np.uint64)
    hashes[6] = 1  # near
    colours = [(0, 0, 0), (200, 0, 0), (0, 0, 1), (201, 0, 0), (0, 0, 200), (199, 0, 0), (0, 1, 200)]
    thumbnails = np.concatenate([plain(*colour) for colour in colours])
    assert stays_for(looks_of(hashes, thumbnails)) == {(0, 2), (1, 3), (1, 5), (4, 6)}


def test_drawn_scenes_are_no_duplicates_of_each_other() -> None:
    files = [encode(paint(place(random_scene(Random(f"scene {at}")), Random(at))), "JPEG") for at in range(400)]
    copies = [file_of(Image.open(io.BytesIO(file)), quality=70) for file in files[:40]]
    found = stays_for(looks_of(*normalised(*files, *copies)))
    assert found == {(at, 400 + at) for at in range(40)}


def views_of(images: list[Picture]) -> tuple[Hashes, NDArray[np.uint8], list[int]]:
    views = [(at, view) for at, image in enumerate(images) for view in image_views(file_of(image, quality=90))]
    hashes = parse_hashes(pa.array([view.phash for _, view in views]))
    return hashes, parse_thumbnails(pa.array([view.thumbnail for _, view in views])), [at for at, _ in views]


def cropped(image: Picture, left: float, top: float, right: float, bottom: float) -> Picture:
    width, height = image.size
    box = (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    return image.crop(box)


LEAKS: dict[str, Callable[[Picture], Picture]] = {
    "as it is": lambda image: image,
    "70 %": lambda image: image.resize((image.width * 7 // 10, image.height * 7 // 10)),
    "cropped by 3 % at each side": lambda image: cropped(image, 0.03, 0.03, 0.03, 0.03),
    "cropped by 3 % in all": lambda image: cropped(image, 0.015, 0.015, 0.015, 0.015),
    "cropped at the left": lambda image: cropped(image, 0.03, 0, 0, 0),
    "cropped at the top": lambda image: cropped(image, 0, 0.03, 0, 0),
    "cropped at a corner": lambda image: cropped(image, 0, 0, 0.03, 0.03),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "mirrored and cropped": lambda image: cropped(image, 0.03, 0.03, 0.03, 0.03).transpose(
        Image.Transpose.FLIP_LEFT_RIGHT
    ),
}


@pytest.mark.parametrize("kind", sorted(LEAKS))
def test_changed_test_images_are_found_by_their_views(kind: str) -> None:
    tests = [blobs(320, 240, seed=seed) for seed in range(20)]
    hashes, thumbnails, owners = views_of(tests)
    others = [file_of(blobs(320, 240, seed=1000 + seed)) for seed in range(60)]
    train = normalised(*others, *(file_of(LEAKS[kind](image), quality=60) for image in tests))
    found = leaks_of(train, (hashes, thumbnails))
    assert {(row, owners[reference]) for row, reference in found.tolist()} == {(60 + at, at) for at in range(20)}
    distances_found = np.bitwise_count(train[0][found[:, 0]] ^ hashes[found[:, 1]])
    assert distances_found.max() <= LeaksConfig().max_distance


def test_the_most_similar_reference_is_named_and_of_equal_ones_the_first() -> None:
    hashes = np.array([0, 0, 2**63], np.uint64)
    looks = np.concatenate([plain(0, 0, 0), plain(100, 0, 0), plain(0, 0, 0)])
    references = np.array([3, 0, 1, 0], np.uint64)
    reference_looks = np.concatenate([plain(0, 0, 3), plain(0, 0, 1), plain(0, 0, 1), plain(100, 0, 0)])
    found = leaks_of((hashes, looks), (references, reference_looks))
    assert found.tolist() == [[0, 1], [1, 3], [2, 1]]
    assert leaks_of((hashes[:0], looks[:0]), (references, reference_looks)).shape == (0, 2)
    assert leaks_of((hashes, looks), (references[:0], reference_looks[:0])).shape == (0, 2)

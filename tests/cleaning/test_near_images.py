"""Images that look alike: search by hash, thumbnails, clusters; against comparing all with all."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

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
from data_catalog.images.normalise import NormaliseConfig, normalise_image
from data_catalog.images.views import image_views

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


@pytest.mark.parametrize(("max_distance", "num_equal"), [(2, 1), (4, 2), (8, 3), (16, 2)])
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


THUMBNAILS = st.binary(min_size=192, max_size=192).map(lambda data: np.frombuffer(data, np.uint8).reshape(1, 192))


def plain(*colour: int) -> NDArray[np.uint8]:
    return np.tile(np.array(colour, np.uint8), (1, 64))


@given(one=THUMBNAILS, other=THUMBNAILS)
@example(plain(10, 10, 10), plain(74, 74, 74))
@example(plain(10, 10, 10), plain(11, 10, 10))
def test_thumbnails_are_as_far_from_each_other_either_way(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    there, back, same = (
        thumbnail_distances(*pair, np.zeros((3000, 2), np.int64)) for pair in ((one, other), (other, one), (one, one))
    )
    assert (there == back[0]).all()
    assert not same.any()
    assert (there[0] == 0) == (one == other).all()
    if (one == 10).all():
        assert there[0] == pytest.approx(1) if other[0, 0] == 74 else there[0] < 0.01


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


def arrays(images: Sequence[Any]) -> tuple[Hashes, NDArray[np.uint8]]:
    """Hashes and thumbnails of normalised images or views."""
    hashes, thumbnails = pa.array([image.phash for image in images]), pa.array([image.thumbnail for image in images])
    return parse_hashes(hashes), parse_thumbnails(thumbnails)


def test_colours_and_places_tell_pictures_of_one_hash_apart() -> None:
    # The same brightness: the hash cannot see a difference.
    red, green = disc("#d02020"), disc("#00731f")
    hashes, thumbnails = normalised(*(file_of(image, "PNG") for image in (red, green)))
    assert np.bitwise_count(hashes[0] ^ hashes[1]) <= 6
    assert not stays_for(looks_of(hashes, thumbnails))
    again = normalised(file_of(red, "PNG"), file_of(green, "PNG"), file_of(red, "JPEG", quality=60))
    assert stays_for(looks_of(*again)) == {(0, 2)}


def blobs(width: int, height: int, seed: int = 1) -> Picture:
    """Noise of few scales: no symmetry, all colours."""
    numbers = np.random.default_rng(seed)
    small = Image.fromarray(numbers.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def test_changed_test_images_are_found_by_their_views_and_no_others_are() -> None:
    found = [(at, view) for at in range(10) for view in image_views(file_of(blobs(320, 240, seed=at), quality=90))]
    owners, views = [at for at, _ in found], arrays([view for _, view in found])
    others = normalised(*(file_of(blobs(320, 240, seed=1000 + seed)) for seed in range(30)))
    assert leaks_of(others, views).shape == (0, 2)
    # Whole, and without 3 % of the sides: left, top, right, bottom.
    for cut in ((0, 0, 0, 0), (1, 1, 1, 1), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 1)):
        left, top, right, bottom = (3 * side * num // 100 for side, num in zip(cut, (320, 240) * 2, strict=True))
        cropped = [blobs(320, 240, seed=at).crop((left, top, 320 - right, 240 - bottom)) for at in range(10)]
        for change in (lambda image: image, ImageOps.mirror, lambda image: image.resize((224, 168))):
            leaks = leaks_of(normalised(*(file_of(change(image), quality=60) for image in cropped)), views)
            assert {(row, owners[reference]) for row, reference in leaks.tolist()} == {(at, at) for at in range(10)}


def test_the_most_similar_reference_is_named_and_of_equal_ones_the_first() -> None:
    hashes = np.array([0, 0, 2**63], np.uint64)
    looks = np.concatenate([plain(0, 0, 0), plain(100, 0, 0), plain(0, 0, 0)])
    references = np.array([3, 0, 1, 0], np.uint64)
    reference_looks = np.concatenate([plain(0, 0, 3), plain(0, 0, 1), plain(0, 0, 1), plain(100, 0, 0)])
    found = leaks_of((hashes, looks), (references, reference_looks))
    assert found.tolist() == [[0, 1], [1, 3], [2, 1]]
    assert leaks_of((hashes[:0], looks[:0]), (references, reference_looks)).shape == (0, 2)
    assert leaks_of((hashes, looks), (references[:0], reference_looks[:0])).shape == (0, 2)

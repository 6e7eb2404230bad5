"""Images that look alike, against comparing all with all; which of them stay, and more images never bring one back."""

import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cleaning.duplicates.images import DuplicatesConfig, Images, Verdict, judge_images
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


def test_the_most_similar_reference_is_named_and_of_equal_ones_the_first() -> None:
    hashes = np.array([0, 0, 2**63], np.uint64)
    looks = np.concatenate([plain(0, 0, 0), plain(100, 0, 0), plain(0, 0, 0)])
    references = np.array([3, 0, 1, 0], np.uint64)
    reference_looks = np.concatenate([plain(0, 0, 3), plain(0, 0, 1), plain(0, 0, 1), plain(100, 0, 0)])
    found = leaks_of((hashes, looks), (references, reference_looks))
    assert found.tolist() == [[0, 1], [1, 3], [2, 1]]
    assert leaks_of((hashes[:0], looks[:0]), (references, reference_looks)).shape == (0, 2)
    assert leaks_of((hashes, looks), (references[:0], reference_looks[:0])).shape == (0, 2)


TRAIN, VAL, TEST = 0, 1, 2
Rows = list[dict[str, Any]]


def images(rows: Rows) -> Images:
    """Rows say what differs: `bytes` (equal letters, equal bytes), `look`, and so on.

    A look is a number, other numbers look otherwise; or such a number, and how many steps on a way away from it.
    """
    firsts: dict[Any, int] = {}
    for number, row in enumerate(rows):
        firsts.setdefault(row["bytes"], number)
    looks = [row.get("look", 0) for row in rows]
    hashes, thumbnails = zip(*(seen(*(look if isinstance(look, tuple) else (look, 0))) for look in looks), strict=True)
    return Images(
        same_bytes=np.array([firsts[row["bytes"]] for row in rows], np.int64),
        hashes=np.array(hashes, np.uint64),
        preference=np.array([row.get("preference", number) for number, row in enumerate(rows)], np.int64),
        split=np.array([row.get("split", TRAIN) for row in rows], np.int64),
        placeholder=np.array([row.get("placeholder", False) for row in rows], np.bool_),
        left_out=np.array([row.get("left_out", False) for row in rows], np.bool_),
        thumbnails=np.stack(thumbnails),
    )


def seen(look: int, steps: int) -> tuple[int, Any]:
    """Hash and thumbnail: at each step another bit turns, and colours change by a 32nd of what tells pictures apart."""
    thumbnail = np.random.default_rng(look).integers(0, 150, 192) + 2 * steps
    return (look * 0x9E3779B97F4A7C15) % 2**64 ^ ((1 << steps) - 1), thumbnail.astype(np.uint8)


def alike(rows: Rows) -> Any:
    """Which look the same, directly, by comparing all with all."""
    every = images(rows)
    bits = np.bitwise_count(every.hashes[:, None] ^ every.hashes[None, :])
    pairs = np.indices(bits.shape).reshape(2, -1).T
    apart = thumbnail_distances(every.thumbnails, every.thumbnails, pairs).reshape(bits.shape)
    limits = DuplicatesConfig()
    return (bits <= limits.max_distance) & (apart <= limits.max_thumbnail_difference)


def judged(rows: Rows, **settings: Any) -> list[tuple[str, int]]:
    verdicts, account = judge_images(images(rows), DuplicatesConfig(**settings))
    return [(Verdict(verdict).name, other) for verdict, other in zip(verdicts.tolist(), account.tolist(), strict=True)]


def test_of_equal_bytes_and_of_equal_looks_the_preferred_one_stays() -> None:
    rows = [
        {"bytes": "a", "look": 1, "preference": 2},
        {"bytes": "a", "look": 1, "preference": 3},
        {"bytes": "b", "look": 1, "preference": 0},
        {"bytes": "c", "look": 2, "preference": 1},
    ]
    assert judged(rows) == [("NEAR_DUPLICATE", 2), ("NEAR_DUPLICATE", 2), ("KEEP", 2), ("KEEP", 3)]
    assert judged(rows, near_images=False) == [("KEEP", 0), ("DUPLICATE", 0), ("KEEP", 2), ("KEEP", 3)]
    off = judged(rows, near_images=False, images=False)
    assert [verdict for verdict, _ in off] == ["KEEP"] * 4


def test_an_image_that_looks_the_same_as_a_held_out_one_is_in_no_other_split() -> None:
    rows = [
        {"bytes": "a", "look": 1, "preference": 0},
        {"bytes": "b", "look": 1, "preference": 1, "split": VAL},
        {"bytes": "c", "look": 1, "preference": 2, "split": VAL},
        {"bytes": "d", "look": 2, "preference": 3, "split": VAL},
        {"bytes": "e", "look": 2, "preference": 4, "split": TEST},
    ]
    assert judged(rows) == [("SPLIT_LEAK", 1), ("KEEP", 1), ("NEAR_DUPLICATE", 1), ("SPLIT_LEAK", 4), ("KEEP", 4)]
    only_guard = judged(rows, images=False, near_images=False)
    assert only_guard == [("SPLIT_LEAK", 1), ("KEEP", 1), ("KEEP", 2), ("SPLIT_LEAK", 4), ("KEEP", 4)]
    assert judged(rows, split_guard=False)[0] == ("KEEP", 0)


def test_what_looks_like_a_stand_in_is_one_and_images_of_test_sets_are_nobodys_duplicates() -> None:
    rows = [
        {"bytes": "a", "look": 1, "preference": 5, "placeholder": True},
        {"bytes": "b", "look": 1, "preference": 0},
        {"bytes": "c", "look": 2, "preference": 1},
    ]
    assert judged(rows) == [("PLACEHOLDER", 0), ("PLACEHOLDER", 0), ("KEEP", 2)]
    assert judged(rows, near_images=False)[1] == ("KEEP", 1)
    held = [{"bytes": "a", "look": 1, "left_out": True}, {"bytes": "b", "look": 1}, {"bytes": "b", "look": 1}]
    assert judged(held) == [("KEEP", 0), ("KEEP", 1), ("DUPLICATE", 1)]
    one = images(held[:1])
    nothing = Images(**{field.name: getattr(one, field.name)[:0] for field in fields(one)})
    assert [len(found) for found in judge_images(nothing, DuplicatesConfig())] == [0, 0]


def test_a_held_out_image_costs_training_what_looks_like_it_and_no_more() -> None:
    rows: Rows = [{"bytes": number, "look": (1, number)} for number in range(20)]
    rows[10]["split"] = VAL
    expected = ["KEEP", *["NEAR_DUPLICATE"] * 3, *["SPLIT_LEAK"] * 6, "KEEP", *["SPLIT_LEAK"] * 6]
    assert [verdict for verdict, _ in judged(rows)] == [*expected, "KEEP", *["NEAR_DUPLICATE"] * 2]
    only_guard = judged(rows, images=False, near_images=False)
    leaks = [number for number, (verdict, _) in enumerate(only_guard) if verdict == "SPLIT_LEAK"]
    assert leaks == [*range(4, 10), *range(11, 17)]
    assert {account for verdict, account in only_guard if verdict == "SPLIT_LEAK"} == {10}


# Few looks, and few steps away from them, so that many look alike, and many only by way of a third.
LOOKS = st.tuples(st.integers(0, 1), st.integers(0, 25))
ROW = st.fixed_dictionaries(
    {
        "bytes": st.integers(0, 11),
        "split": st.sampled_from((TRAIN, TRAIN, VAL, TEST)),
        "left_out": st.sampled_from((False, False, False, True)),
    }
)
SWITCHES = st.fixed_dictionaries({name: st.booleans() for name in ("images", "near_images", "split_guard")})


def with_looks(rows: Rows, looks: list[tuple[int, int]], stand_ins: set[int]) -> Rows:
    """Equal bytes look the same; what is a stand-in is so by its bytes, and so is what is left out."""
    return [
        {**row, "look": looks[row["bytes"]], "placeholder": row["bytes"] in stand_ins, "left_out": row["bytes"] == 7}
        for row in rows
    ]


@given(
    rows=st.lists(ROW, min_size=1, max_size=20),
    preferences=st.permutations(range(20)),
    looks=st.lists(LOOKS, min_size=12, max_size=12),
    stand_ins=st.sets(st.integers(0, 11), max_size=2),
    switches=SWITCHES,
    order=st.permutations(range(20)),
)
def test_what_is_dropped_looks_like_what_it_is_dropped_for_and_no_two_splits_share_a_look(
    rows: Rows, preferences: list[int], looks: list[tuple[int, int]], stand_ins: set[int], switches: Any, order: Any
) -> None:
    """Whatever the order of rows."""
    ranked = [{**row, "preference": preferences[number]} for number, row in enumerate(rows)]
    known = with_looks(ranked, looks, stand_ins)
    found, likeness = judged(known, **switches), alike(known)
    order = [number for number in order if number < len(rows)]
    shuffled = enumerate(judged([known[number] for number in order], **switches))
    assert {order[place]: (verdict, order[other]) for place, (verdict, other) in shuffled} == dict(enumerate(found))
    kept = [number for number, (verdict, _) in enumerate(found) if verdict == "KEEP" and not known[number]["left_out"]]
    for number, (verdict, account) in enumerate(found):
        row, other = known[number], known[account]
        assert likeness[number, account]
        assert verdict in ("KEEP", "PLACEHOLDER") or account in kept
        assert verdict != "PLACEHOLDER" or other["placeholder"]
        assert verdict != "SPLIT_LEAK" or (switches["split_guard"] and other["split"] > row["split"])
        if verdict in ("DUPLICATE", "NEAR_DUPLICATE"):
            assert (verdict == "DUPLICATE") == (row["bytes"] == other["bytes"])
            best = {"KEEP": number, verdict: account}
            assert known[best[verdict]]["preference"] < row["preference"] or other["split"] > row["split"]
    for one in kept:
        assert found[one] == ("KEEP", one)
        for other_one in (number for number in kept if number != one and likeness[one, number]):
            assert not switches["near_images"]
            assert not switches["split_guard"] or known[one]["split"] == known[other_one]["split"]
            assert not switches["images"] or known[one]["bytes"] != known[other_one]["bytes"]

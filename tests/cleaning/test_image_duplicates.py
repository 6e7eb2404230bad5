"""Which images stay where several are the same, look it, or are in several splits; more images never bring one back."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.duplicates.images import DuplicatesConfig, Images, Verdict, judge_images
from cleaning.duplicates.near_images import thumbnail_distances
from cleaning.leaks import LeaksConfig
from data_catalog.errors import SettingsError

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


@pytest.mark.parametrize(
    ("config", "settings", "name"),
    [
        (DuplicatesConfig, {"max_distance": 17}, "duplicates.max_distance"),
        (LeaksConfig, {"max_distance": -1}, "leaks.max_distance"),
        (DuplicatesConfig, {"max_thumbnail_difference": -1.0}, "duplicates.max_thumbnail_difference"),
        (DuplicatesConfig, {"keep": ("size",)}, "duplicates.keep"),
        (DuplicatesConfig, {"keep": ("source", "source")}, "duplicates.keep"),
        (DuplicatesConfig, {"placeholder_urls": 1}, "duplicates.placeholder_urls"),
    ],
)
def test_bad_settings_are_named(config: Any, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        config(**settings)

"""Which images stay where several are the same, look it, or are in several splits; more images never bring one back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleaning.image_duplicates import Images, Verdict, judge_images
from cleaning.selection_config import DuplicatesConfig
from data_catalog.errors import ConfigError

TRAIN, VAL, TEST = 0, 1, 2


def images(rows: list[dict[str, Any]]) -> Images:
    """Rows say what differs: `bytes` (equal letters, equal bytes), `look` (a number: hash and colours), and so on."""
    firsts: dict[Any, int] = {}
    for number, row in enumerate(rows):
        firsts.setdefault(row["bytes"], number)
    looks = [row.get("look", 0) for row in rows]
    return Images(
        same_bytes=np.array([firsts[row["bytes"]] for row in rows], np.int64),
        hashes=np.array([(look * 0x9E3779B97F4A7C15) % 2**64 for look in looks], np.uint64),
        preference=np.array([row.get("preference", number) for number, row in enumerate(rows)], np.int64),
        split=np.array([row.get("split", TRAIN) for row in rows], np.int64),
        placeholder=np.array([row.get("placeholder", False) for row in rows], np.bool_),
        left_out=np.array([row.get("left_out", False) for row in rows], np.bool_),
        thumbnails=np.stack([np.random.default_rng(look).integers(0, 255, 192).astype(np.uint8) for look in looks]),
    )


def judged(rows: list[dict[str, Any]], **settings: Any) -> list[tuple[str, int]]:
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


def test_what_looks_like_a_stand_in_is_one() -> None:
    rows = [
        {"bytes": "a", "look": 1, "preference": 5, "placeholder": True},
        {"bytes": "b", "look": 1, "preference": 0},
        {"bytes": "c", "look": 2, "preference": 1},
    ]
    assert judged(rows) == [("PLACEHOLDER", 0), ("PLACEHOLDER", 0), ("KEEP", 2)]
    assert judged(rows, near_images=False)[1] == ("KEEP", 1)


def test_images_of_test_sets_are_nobodys_duplicates() -> None:
    rows = [{"bytes": "a", "look": 1, "left_out": True}, {"bytes": "b", "look": 1}, {"bytes": "b", "look": 1}]
    assert judged(rows) == [("KEEP", 0), ("KEEP", 1), ("DUPLICATE", 1)]


def test_no_image_at_all() -> None:
    nothing = Images(
        **{name: np.zeros(0, np.int64) for name in ("same_bytes", "preference", "split")},
        hashes=np.zeros(0, np.uint64),
        placeholder=np.zeros(0, np.bool_),
        left_out=np.zeros(0, np.bool_),
        thumbnails=np.zeros((0, 192), np.uint8),
    )
    verdicts, account = judge_images(nothing, DuplicatesConfig())
    assert (len(verdicts), len(account)) == (0, 0)


ROW = st.fixed_dictionaries(
    {
        "bytes": st.integers(0, 8),
        "split": st.sampled_from((TRAIN, TRAIN, VAL, TEST)),
        "left_out": st.sampled_from((False, False, False, True)),
    }
)
SWITCHES = st.fixed_dictionaries({name: st.booleans() for name in ("images", "near_images", "split_guard")})


def with_looks(rows: list[dict[str, Any]], stand_ins: set[int]) -> list[dict[str, Any]]:
    """Equal bytes look the same, and so do some others; what is a stand-in is so by its bytes."""
    return [{**row, "look": row["bytes"] // 3, "placeholder": row["bytes"] in stand_ins} for row in rows]


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(ROW, min_size=1, max_size=14),
    preferences=st.permutations(range(14)),
    num_before=st.integers(0, 14),
    stand_ins=st.lists(st.sets(st.integers(0, 8), max_size=2), min_size=2, max_size=2),
    switches=SWITCHES,
)
def test_what_was_dropped_stays_dropped_when_more_images_come(
    rows: list[dict[str, Any]],
    preferences: list[int],
    num_before: int,
    stand_ins: list[set[int]],
    switches: dict[str, bool],
) -> None:
    """Trying again relies on it: the bytes of what was dropped are gone."""
    ranked = [{**row, "preference": preferences[number]} for number, row in enumerate(rows)]
    ranked = [{**row, "left_out": row["bytes"] == 7} for row in ranked]  # by its bytes alone, too
    before = judged(with_looks(ranked[: max(1, num_before)], stand_ins[0]), **switches)
    after = judged(with_looks(ranked, stand_ins[0] | stand_ins[1]), **switches)
    for (verdict, _), (later, _) in zip(before, after, strict=False):
        assert verdict == "KEEP" or later != "KEEP"


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=12), switches=SWITCHES)
def test_every_look_keeps_an_image_and_no_held_out_one_is_shown_in_training(
    rows: list[dict[str, Any]], switches: dict[str, bool]
) -> None:
    looking = with_looks(rows, set())
    found = judged(looking, **switches)
    for look in {row["look"] for row in looking if not row["left_out"]}:
        kept = [
            row
            for row, (verdict, _) in zip(looking, found, strict=True)
            if row["look"] == look and verdict == "KEEP" and not row["left_out"]
        ]
        assert kept
        if switches["split_guard"]:
            assert len({row["split"] for row in kept}) == 1
        if switches["near_images"]:
            assert len(kept) == 1


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"max_distance": 17}, "duplicates.max_distance"),
        ({"max_thumbnail_difference": -1.0}, "duplicates.max_thumbnail_difference"),
        ({"keep": ("size",)}, "duplicates.keep"),
        ({"keep": ("source", "source")}, "duplicates.keep"),
        ({"placeholder_urls": 1}, "duplicates.placeholder_urls"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        DuplicatesConfig(**settings)

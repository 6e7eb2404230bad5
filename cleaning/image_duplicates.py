"""Which of a dataset's images stay where several are the same or look it, and none in two splits: numbers in and out.

Images are rows, by number. All that is decided here for a row can only be decided against it when more images come:
whoever tries again for images that are missing relies on it, since what was dropped is not kept.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from cleaning.selection_config import DuplicatesConfig

if TYPE_CHECKING:
    import numpy as np

    Ints = np.ndarray[Any, np.dtype[np.int64]]
    Flags = np.ndarray[Any, np.dtype[np.bool_]]
    Hashes = np.ndarray[Any, np.dtype[np.uint64]]
    Thumbnails = np.ndarray[Any, np.dtype[np.uint8]]


class Verdict(IntEnum):
    """What becomes of an image."""

    KEEP = 0
    PLACEHOLDER = 1
    SPLIT_LEAK = 2
    DUPLICATE = 3
    NEAR_DUPLICATE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What is known of each image; all arrays have one number a row.

    Args:
        same_bytes: the first row whose image has the same bytes.
        hashes: perceptual hashes.
        preference: place among all, the best first.
        split: 0, or the higher the less it may be shared: of train, val and test 0, 1 and 2.
        placeholder: its bytes are a host's stand-in for images that are gone.
        left_out: belongs to a test set: it is no one's duplicate.
        thumbnails: of shape (rows, 192); may lie on disk.
    """

    same_bytes: "Ints"
    hashes: "Hashes"
    preference: "Ints"
    split: "Ints"
    placeholder: "Flags"
    left_out: "Flags"
    thumbnails: "Thumbnails"


def judge_images(images: Images, config: DuplicatesConfig) -> "tuple[Ints, Ints]":
    """What becomes of every image that is not left out.

    Images that look like a stand-in are one, too. Where images that look the same are in several splits, those of the
    least guarded go first; of what is then left one stays.

    Returns:
        The `Verdict` of each row, and the row on whose account it is (of a row that stays: itself).
    """
    import numpy as np

    count = len(images.hashes)
    verdicts, account = np.full(count, Verdict.KEEP, np.int64), np.arange(count)
    same = images.same_bytes
    looks = _look_alike(images, config) if config.near_images or config.split_guard else same
    groups = looks if config.near_images else same

    stand_in = np.zeros(count, np.bool_)
    stand_in[groups[images.placeholder & ~images.left_out]] = True
    gone = stand_in[groups] & ~images.left_out
    verdicts[gone] = Verdict.PLACEHOLDER
    account[gone] = _best(groups, images.preference, images.placeholder & gone)[groups[gone]]

    if config.split_guard:
        highest = np.zeros(count, np.int64)
        known = ~images.left_out  # stand-ins too: what looked like one was dropped before it was known for one
        np.maximum.at(highest, looks[known], images.split[known])
        leaks = known & ~gone & (images.split < highest[looks])
        verdicts[leaks] = Verdict.SPLIT_LEAK
        guarded = _best(looks, images.preference, known & (images.split == highest[looks]))
        account[leaks] = guarded[looks[leaks]]

    if config.images or config.near_images:
        staying = (verdicts == Verdict.KEEP) & ~images.left_out
        best = _best(groups, images.preference, staying)
        repeats = staying & (best[groups] != account)
        kept = best[groups[repeats]]
        verdicts[repeats] = np.where(same[repeats] == same[kept], Verdict.DUPLICATE, Verdict.NEAR_DUPLICATE)
        account[repeats] = kept
    return verdicts, account


def _best(groups: "Ints", preference: "Ints", chosen: "Flags") -> "Ints":
    """By group, the chosen row of the best preference; of groups without a chosen row, anything."""
    import numpy as np

    best = np.zeros(len(groups), np.int64)
    rows = np.flatnonzero(chosen)
    worst_first = rows[np.argsort(-preference[rows], kind="stable")]
    best[groups[worst_first]] = worst_first  # the last one written is the best
    return best


def _look_alike(images: Images, config: DuplicatesConfig) -> "Ints":
    """By row, the first row of those that look the same, by way of others if need be."""
    from cleaning.near_images import cluster, duplicate_pairs

    pairs = duplicate_pairs(
        images.hashes,
        images.thumbnails,
        max_distance=config.max_distance,
        max_difference=config.max_thumbnail_difference,
    )
    return cluster(len(images.hashes), pairs)

"""Images that look alike: close by their perceptual hashes, and alike by their thumbnails, which see colours.

Both are as `data_catalog.images.encoding` makes them. Hashes alone take drawings on one plain ground for each other;
`benchmarks/near_images.py` says what the recommended limits find, and what they take for alike that is not.
"""

import numpy as np
from numpy.typing import NDArray

from cleaning.hamming import Hashes, Rows, matches_of_distinct, near_distinct, require_distance
from cleaning.hash_groups import HashGroups, in_order, joined, products
from cleaning.thumbnails import Thumbnails, distances_of, parse_hashes, parse_thumbnails, thumbnail_distance

__all__ = [
    "LEAK_DIFFERENCE",
    "LEAK_DISTANCE",
    "MAX_DIFFERENCE",
    "MAX_DISTANCE",
    "Hashes",
    "Rows",
    "Thumbnails",
    "cluster",
    "duplicate_pairs",
    "leak_matches",
    "near_matches",
    "near_pairs",
    "parse_hashes",
    "parse_thumbnails",
    "thumbnail_distance",
]

# Recommended for duplicates: bits of the hash, and what `thumbnail_distance` may say.
MAX_DISTANCE, MAX_DIFFERENCE = 6, 0.2
# Recommended for views of test images: what leaks may be cropped a little differently.
LEAK_DISTANCE, LEAK_DIFFERENCE = 8, 0.25


def near_pairs(hashes: Hashes, *, max_distance: int) -> Rows:
    """Rows of hashes that differ in at most so many bits: shape (num_pairs, 2), the lower row first, sorted.

    Of rows with equal hashes only the first takes part; each other one is paired with that one alone.

    Raises:
        ConfigError: the distance is not between 0 and 16.
    """
    require_distance(max_distance)
    groups = HashGroups.of(hashes)
    found = [np.sort(groups.first[pairs], axis=1) for pairs in near_distinct(groups.hashes, max_distance)]
    return in_order([groups.stars(), *found])


def near_matches(hashes: Hashes, references: Hashes, *, max_distance: int) -> Rows:
    """Rows, and references whose hashes differ in at most so many bits: shape (num_matches, 2), sorted.

    Of rows with equal hashes, and of references with equal ones, the first has all matches; each other row is matched
    with the first ones of the references alone, and each other reference with the first ones of the rows.

    Raises:
        ConfigError: the distance is not between 0 and 16.
    """
    require_distance(max_distance)
    mine, theirs = HashGroups.of(hashes), HashGroups.of(references)
    found = [
        np.column_stack([mine.first[pairs[:, 0]], theirs.first[pairs[:, 1]]])
        for pairs in matches_of_distinct(mine.hashes, theirs.hashes, max_distance)
    ]
    firsts = in_order(found)
    return in_order([firsts, joined(mine.stars(), firsts), joined(theirs.stars(), firsts[:, ::-1])[:, ::-1]])


def duplicate_pairs(
    hashes: Hashes,
    thumbnails: Thumbnails,
    *,
    max_distance: int = MAX_DISTANCE,
    max_difference: float = MAX_DIFFERENCE,
) -> Rows:
    """Rows of images that look alike: shape (num_pairs, 2), the lower row first, sorted.

    Rows with one hash are grouped: the first stands for all whose thumbnails are like its own, the next one left for
    those like its own, and so on. Only those that stand for others are compared with rows of other hashes, so that
    10,000 copies of one picture are 9,999 pairs.

    Args:
        hashes: of shape (num_rows,).
        thumbnails: of the same rows.
        max_distance: most bits in which hashes may differ.
        max_difference: most that `thumbnail_distance` may say.

    Raises:
        ConfigError: the distance is not between 0 and 16.
    """
    require_distance(max_distance)
    groups = HashGroups.of(hashes)
    stars, leaders = _led(groups, thumbnails, max_difference)
    found = [
        pairs[_are_alike(thumbnails, pairs, max_difference)]
        for positions in near_distinct(groups.hashes, max_distance)
        for pairs in products(positions, leaders, leaders)
    ]
    return in_order([stars, *(np.sort(pairs, axis=1) for pairs in found)])


def leak_matches(
    images: tuple[Hashes, Thumbnails],
    references: tuple[Hashes, Thumbnails],
    *,
    max_distance: int = LEAK_DISTANCE,
    max_difference: float = LEAK_DIFFERENCE,
) -> Rows:
    """Rows of images that look like a reference, each with the one that it is most like: shape (num_found, 2), sorted.

    Args:
        images: hashes of shape (num_rows,), and their thumbnails.
        references: likewise, of views of test images; the first one of several that are equally like an image counts.
        max_distance: most bits in which hashes may differ.
        max_difference: most that `thumbnail_distance` may say.

    Raises:
        ConfigError: the distance is not between 0 and 16.
    """
    require_distance(max_distance)
    mine, theirs = HashGroups.of(images[0]), HashGroups.of(references[0])
    best = np.full(len(images[0]), -1, np.int64)
    least = np.full(len(images[0]), np.inf, np.float32)
    for positions in matches_of_distinct(mine.hashes, theirs.hashes, max_distance):
        for pairs in products(positions, mine, theirs):
            differences = distances_of(images[1], references[1], pairs)
            _keep_best(pairs, differences, best, least)
    rows = np.flatnonzero(least <= max_difference)
    return np.column_stack([rows, best[rows]])


def _keep_best(pairs: Rows, differences: NDArray[np.float32], best: Rows, least: NDArray[np.float32]) -> None:
    """Note, for each row of `pairs`, the reference that it is most like, of equal ones the first."""
    order = np.lexsort((pairs[:, 1], differences, pairs[:, 0]))
    rows = pairs[order, 0]
    order = order[np.flatnonzero(np.diff(rows, prepend=-1))]
    rows, others, found = pairs[order, 0], pairs[order, 1], differences[order]
    better = (found < least[rows]) | ((found == least[rows]) & (others < best[rows]))
    best[rows[better]], least[rows[better]] = others[better], found[better]


def _led(groups: HashGroups, thumbnails: Thumbnails, max_difference: float) -> tuple[Rows, HashGroups]:
    """Pairs (leader, led) of rows that have one hash and look alike, and the groups of the leaders alone.

    A round compares what is left of each group with the first row of that.
    """
    stars = []
    is_leader = np.ones(len(groups.rows), bool)
    left = np.arange(len(groups.rows))
    group = np.repeat(np.arange(len(groups.hashes)), np.diff(groups.begins))
    while len(left):
        begins = np.flatnonzero(np.diff(group, prepend=-1))
        leaders = np.repeat(left[begins], np.diff(begins, append=len(left)))
        is_other = np.ones(len(left), bool)
        is_other[begins] = False
        leaders, left, group = leaders[is_other], left[is_other], group[is_other]
        pairs = np.column_stack([groups.rows[leaders], groups.rows[left]])
        alike = _are_alike(thumbnails, pairs, max_difference)
        stars.append(pairs[alike])
        is_leader[left[alike]] = False
        left, group = left[~alike], group[~alike]
    return in_order(stars), groups.only(is_leader)


def _are_alike(thumbnails: Thumbnails, pairs: Rows, max_difference: float) -> NDArray[np.bool_]:
    alike: NDArray[np.bool_] = distances_of(thumbnails, thumbnails, pairs) <= max_difference
    return alike


def cluster(num: int, pairs: Rows) -> Rows:
    """Clusters of rows that pairs connect: for each of `num` rows the lowest row of its cluster, shape (num,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    _, labels = connected_components(links, directed=False)
    _, first, cluster_of = np.unique(labels, return_index=True, return_inverse=True)
    lowest: Rows = first[cluster_of]
    return lowest

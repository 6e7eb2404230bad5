"""Captions that say the same in nearly the same words, among tens of millions of them: clusters, and a cap on each."""

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cleaning.caption_similarity import Likeness
from cleaning.caption_store import CaptionStore
from cleaning.like_forest import LikeForest, first_like_captions
from cleaning.minhash_candidates import BandFiles
from data_catalog.storage.shards import unit_interval

CAPTIONS_PER_BATCH = 50_000
PAIRS_PER_BATCH = 100_000
CAP_SALT = "captions of a cluster"

Rows = npt.NDArray[np.int64]


def cluster_captions(
    read: Callable[[], Iterator[Sequence[str]]],
    *,
    similarity: float,
    scratch: Path,
    function_words: Collection[str] | None = None,
    threads: int = 1,
) -> Rows:
    """For each caption, the lowest row number of the cluster that it belongs to; its own, where none before is like it.

    Captions with equal `duplicates.exact_key`s are in one cluster. So is each caption that is like the *first* of a
    cluster: no chain of small steps leads from one caption to an unlike one, at the price that two captions which are
    alike may belong to two clusters. A caption is like another if

    - their keys are at least so similar: twice the letters that they share in order, over the letters that they have
      (rapidfuzz's `ratio`), with the words as they stand or in alphabetical order; and
    - they do not differ in numbers, the order of these, words with digits, or symbols; and
    - where function words are given, each other word of one has its like in the other, and at most one (of two, none)
      stands in another place, not having changed places with its neighbour over a function word. Words are like each
      other that begin alike and differ in one slip of the keyboard, from four letters on, or in two letters at the end.

    At 0.85, "A man riding a horse on a beach" and "A man is riding a horse on the beach." are alike (0.89); "a red bus"
    and "a blue bus" are not (0.74). Letters alone cannot tell "two red cars in front of a small house" from "two blue
    cars in front of a small house" (0.92): where function words are given, these are not alike.

    Candidates come from MinHash of what the function words leave (`minhash_bands`): one pair in a hundred of those with
    one small difference is missed, more where two captions differ in several words or are very short. Rows may come
    in batches of any sizes.

    Args:
        read: the captions in order, batch by batch; called once.
        similarity: 0 to 1, of captions that are near-duplicates; tried from 0.8 to 0.95.
        scratch: a folder that may hold temporary files: the captions, and 200 bytes more a distinct one.
        function_words: of the captions' languages, lower case; an empty collection: all words tell captions apart.
            None: no words do.
        threads: that hash and compare letters; the result does not depend on it.

    Returns:
        Shape (captions,). Memory: about 120 bytes a caption.

    Raises:
        ValueError: the similarity is not above 0 and at most 1.
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be above 0 and at most 1, not {similarity}")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name, CaptionStore(Path(name) / "keys", read()) as store:
        likeness = Likeness(similarity, function_words)
        forest = _like_pairs(store, Path(name), likeness, threads)
        leaders = first_like_captions(forest, store.key, likeness.alike)
        return store.first_rows[leaders[store.number_of_row]]


def _like_pairs(store: CaptionStore, folder: Path, likeness: Likeness, threads: int) -> LikeForest:
    """Captions that are alike, connected by as few pairs as do it."""
    forest = LikeForest(len(store))
    batches = ([likeness.content(key) for key in keys] for keys in store.batches(CAPTIONS_PER_BATCH))
    for left, right in BandFiles(folder, batches, threads=threads).pairs():
        for start in range(0, len(left), PAIRS_PER_BATCH):
            pairs = forest.unconnected(left[start : start + PAIRS_PER_BATCH], right[start : start + PAIRS_PER_BATCH])
            alike = likeness.alike_pairs(store.keys(pairs[0]), store.keys(pairs[1]), threads=threads)
            forest.connect(pairs[:, alike])
    return forest


def crowded_rows(clusters: Rows, cap: int) -> Rows:
    """Rows of clusters that have more than `cap` rows, ascending: of these alone `cap_captions` needs to know more."""
    _, places, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return np.flatnonzero(sizes[places] > cap)


def cap_captions(clusters: Rows, identities: Sequence[str], *, cap: int) -> npt.NDArray[np.bool_]:
    """Which rows to drop, so that no cluster keeps those of more than `cap` identities: of the lowest stable hashes.

    All rows of a cluster must be there; in which order does not matter.

    Args:
        clusters: shape (rows,); equal numbers, one cluster.
        identities: one a row: sample ids. Rows of one identity in one cluster stay or go together.

    Returns:
        Shape (rows,); true: drop it.

    Raises:
        ValueError: the cap is below one, or there is not one identity a row.
    """
    if cap < 1 or len(clusters) != len(identities):
        raise ValueError(f"{len(clusters)} rows, {len(identities)} identities, cap {cap}")
    dropped = np.zeros(len(clusters), np.bool_)
    rows = crowded_rows(clusters, cap)
    draws = np.fromiter((unit_interval(identities[row], CAP_SALT) for row in rows), np.float64, len(rows))
    order = np.lexsort((draws, clusters[rows]))
    rows, draws, ordered = rows[order], draws[order], clusters[rows[order]]
    is_first, is_new = np.ones(len(rows), np.bool_), np.ones(len(rows), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]  # of its cluster
    is_new[1:] = is_first[1:] | (draws[1:] != draws[:-1])  # of another identity than the row before
    places = np.cumsum(is_new)
    places_before = np.maximum.accumulate(np.where(is_first, places, 0))
    dropped[rows[places - places_before >= cap]] = True
    return dropped

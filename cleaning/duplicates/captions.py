"""Captions that say the same: exactly, within a sample; in nearly the same words, among tens of millions; and a cap."""

import hashlib
import itertools
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.duplicates.minhash import BandFiles
from cleaning.duplicates.similarity import Likeness
from cleaning.text.scripts import exact_key
from data_catalog.errors import SettingsError
from data_catalog.stages import Drop, pending_rows, reject, texts
from data_catalog.storage.shards import save_parquet, unit_interval
from data_catalog.storage.work import StepFacts

DIGEST = np.dtype([("first", "<u8"), ("second", "<u8")])
CAPTIONS_PER_BATCH = 50_000
PAIRS_PER_BATCH = 100_000
MAX_BYTES_AT_ONCE = 32 * 1024 * 1024
# So many new pairs are kept, or a quarter of the old ones, before those that connect nothing new are thrown away.
MAX_NEW_PAIRS = 20_000
_MAX_DETAIL = 120  # characters of a caption that another repeats
# What captions of one image repeat: a translation that upstream has, else the caption that is translated later.
_SAID = ("caption", "clean_caption")
# A caption is compared with so many first captions of those that it hangs together with, and those of its neighbours.
MAX_LEADERS = 16
CAP_SALT = "captions of a cluster"

_LABELS = pa.schema([pa.field("cluster", pa.int64()), pa.field("is_beyond_cap", pa.bool_())])

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatsConfig:
    """Captions that say nearly the same, judged before they are translated."""

    near_captions: bool = True
    """Drop captions that are nearly the same as an earlier one of the same image."""
    min_similarity: float = 0.85
    """Similarity from which on two captions are nearly the same, above 0 and at most 1. Tried from 0.8 to 0.95."""
    common_captions: bool = True
    """Drop captions that are said too often ("a photo of"), beyond `max_images_per_caption`. A hash of the images' ids
    decides which ones stay."""
    max_images_per_caption: int = 1000
    """Most images that may have the same caption, or nearly the same, over all sources."""

    def __post_init__(self) -> None:
        if not 0 < self.min_similarity <= 1:
            raise SettingsError(f"repeats.min_similarity must be above 0, and at most 1, got {self.min_similarity}")
        if self.max_images_per_caption < 1:
            raise SettingsError(f"repeats.max_images_per_caption must be positive, got {self.max_images_per_caption}")


def cluster_captions(
    read: Callable[[], Iterator[Sequence[str]]],
    *,
    similarity: float,
    scratch: Path,
    function_words: Collection[str] | None = None,
    threads: int = 1,
) -> Rows:
    """For each caption, the lowest row number of the cluster that it belongs to; its own, where none before is like it.

    Captions with equal `exact_key`s are in one cluster. So is each caption that is like the *first* of a
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

    Candidates come from MinHash of what the function words leave (`cleaning.duplicates.minhash`): one pair in a
    hundred of those with one small difference is missed, more where two captions differ in several words or are very
    short. Rows may come in batches of any sizes.

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


def _like_pairs(store: "CaptionStore", folder: Path, likeness: Likeness, threads: int) -> "LikeForest":
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


def duplicate_captions(sample_ids: Sequence[str], captions: Sequence[str]) -> list[Drop | None]:
    """Drop each caption that an earlier row of the same sample has already; the first one stays.

    Reason: duplicate_caption. The order of rows decides, so rows must come in a stable order.
    """
    seen: set[tuple[str, str]] = set()
    verdicts: list[Drop | None] = []
    for sample_id, caption in zip(sample_ids, captions, strict=True):
        key = (sample_id, exact_key(caption))
        verdicts.append(Drop("duplicate_caption") if key in seen else None)
        seen.add(key)
    return verdicts


def label_repeats(
    shards: Sequence[Path],
    folder: Path,
    config: RepeatsConfig,
    *,
    function_words: Collection[str] | None,
    threads: int = 1,
) -> StepFacts:
    """Label, over all shards, captions that are nearly the same, and those that too many images have.

    The files are `00000.parquet`, ..., by shard: a row for each pending caption, in order, with the `cluster` of
    similar ones and whether it `is_beyond_cap`.

    Args:
        shards: caption rows.
        folder: empty; gets the files.
        config: what is similar, and how many are too many.
        function_words: see `cluster_captions`.
        threads: the result does not depend on them.

    Returns:
        How many captions there are, and how many of them are beyond the cap.
    """
    labels = cluster_captions(
        lambda: (said for _, said in _pending(shards, *_SAID)),
        similarity=config.min_similarity,
        scratch=folder / "scratch",
        function_words=function_words,
        threads=threads,
    )
    (folder / "scratch").rmdir()
    beyond = _beyond_cap(labels, shards, config)
    start = 0
    for number, ids in _pending(shards, "caption_id"):
        columns = [pa.array(values[start : start + len(ids)]) for values in (labels, beyond)]
        save_parquet(pa.Table.from_arrays(columns, schema=_LABELS), folder / f"{number:05d}.parquet")
        start += len(ids)
    return {"num_captions": start, "num_beyond_cap": int(beyond.sum())}


def _beyond_cap(labels: Rows, shards: Sequence[Path], config: RepeatsConfig) -> npt.NDArray[np.bool_]:
    """Tell which captions are of images beyond the cap of their cluster; ids are read of those alone that may be."""
    beyond = np.zeros(len(labels), np.bool_)
    crowded = crowded_rows(labels, config.max_images_per_caption)
    if len(crowded):
        ids = pa.chunked_array([pa.array(found, pa.string()) for _, found in _pending(shards, "sample_id")])
        identities = ids.take(pa.array(crowded)).to_pylist()
        beyond[crowded] = cap_captions(labels[crowded], identities, cap=config.max_images_per_caption)
    return beyond


def _pending(shards: Sequence[Path], *columns: str) -> Iterator[tuple[int, list[str]]]:
    """Yield, shard by shard, the first of some columns that is filled, for the pending rows."""
    for number, path in enumerate(shards):
        table = pq.read_table(path, columns=[*columns, "outcome"])
        yield number, _first_filled(table, columns, pending_rows(table))


def _first_filled(table: pa.Table, columns: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return the first of some columns that is filled, for some rows."""
    found: list[str] = pc.coalesce(*map(table.column, columns)).take(pa.array(rows, pa.int64())).to_pylist()
    return found


def drop_repeats(
    table: pa.Table,
    labels: Mapping[int, Mapping[str, Any]],
    config: RepeatsConfig,
    function_words: Collection[str] | None,
    *,
    step: str,
) -> pa.Table:
    """Drop near duplicates of captions of the same image that stay, and captions beyond the cap.

    Two captions of a cluster are both like its first, which may be another image's, and need not be like each other.

    Args:
        table: caption rows of one shard.
        labels: the `cluster` of each pending row, and whether it `is_beyond_cap`, by its number.
        config: what is dropped.
        function_words: see `cluster_captions`.
        step: in whose name.
    """
    likeness = Likeness(config.min_similarity, function_words)
    rows = pending_rows(table)
    staying: dict[tuple[str, int], list[str]] = defaultdict(list)
    verdicts: list[Drop | None] = []
    for row, sample_id, caption in zip(
        rows, texts(table, "sample_id", rows), _first_filled(table, _SAID, rows), strict=True
    ):
        said = staying[sample_id, labels[row]["cluster"]]
        like = _first_like(caption, said, likeness) if config.near_captions else None
        if like is not None:
            verdicts.append(Drop("near_duplicate_caption", f"like: {like}"[:_MAX_DETAIL]))
        elif config.common_captions and labels[row]["is_beyond_cap"]:
            verdicts.append(Drop("common_caption", f"more than {config.max_images_per_caption} images have its like"))
        else:
            verdicts.append(None)
            said.append(caption)
    return reject(table, rows, verdicts, step=step)


def _first_like(caption: str, said: Sequence[str], likeness: Likeness) -> str | None:
    """Return the first of some captions that this one resembles."""
    key = exact_key(caption) if said else ""
    for other in said:
        other_key = exact_key(other)
        if other_key == key or likeness.alike(other_key, key):
            return other
    return None


class CaptionStore:
    """The exact keys of captions in a file, each distinct one once, and which rows have equal ones.

    Memory: some 40 bytes a row. Use it as a context manager, which closes the file.

    Args:
        path: of a new file; the caller removes it.
        batches: the captions, in order.
    """

    def __init__(self, path: Path, batches: Iterable[Sequence[str]]) -> None:
        digests, ends = _write(path, batches)
        self.first_rows, self.number_of_row = _distinct(digests)
        # Where the text of each distinct key begins and ends.
        self._ends = ends[self.first_rows + 1]
        self._starts = ends[self.first_rows]
        self._file = os.open(path, os.O_RDONLY)

    def __enter__(self) -> "CaptionStore":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return len(self.first_rows)

    def key(self, number: int) -> str:
        """The exact key of a distinct caption."""
        start, end = int(self._starts[number]), int(self._ends[number])
        return os.pread(self._file, end - start, start).decode("utf-8", "surrogatepass")

    def keys(self, numbers: npt.NDArray[np.int64]) -> list[str]:
        """The exact keys of distinct captions, in the order asked for."""
        distinct, places = np.unique(numbers, return_inverse=True)
        starts, ends = self._starts[distinct].tolist(), self._ends[distinct].tolist()
        found = [
            os.pread(self._file, end - start, start).decode("utf-8", "surrogatepass")
            for start, end in zip(starts, ends, strict=True)
        ]
        return [found[place] for place in places.tolist()]

    def batches(self, size: int) -> Iterator[list[str]]:
        """All exact keys in order, some at a time."""
        for start in range(0, len(self), size):
            yield self._range(start, min(start + size, len(self)))

    def _range(self, start: int, stop: int) -> list[str]:
        """Keys that follow each other: read at once, with the repeated ones between them, unless those are many."""
        base, num_bytes = int(self._starts[start]), int(self._ends[stop - 1] - self._starts[start])
        if num_bytes > MAX_BYTES_AT_ONCE:
            return self.keys(np.arange(start, stop))
        raw = os.pread(self._file, num_bytes, base)
        places = zip((self._starts[start:stop] - base).tolist(), (self._ends[start:stop] - base).tolist(), strict=True)
        return [raw[begin:end].decode("utf-8", "surrogatepass") for begin, end in places]


def _write(path: Path, batches: Iterable[Sequence[str]]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
    """Write all keys; their digests, and where each ends, after a zero."""
    digests, sizes = [np.empty(0, DIGEST)], [np.zeros(1, np.int64)]
    with path.open("xb") as file:
        for batch in batches:
            raw = [exact_key(caption).encode("utf-8", "surrogatepass") for caption in batch]
            found = b"".join(hashlib.blake2b(key, digest_size=DIGEST.itemsize).digest() for key in raw)
            digests.append(np.frombuffer(found, DIGEST))
            sizes.append(np.fromiter(map(len, raw), np.int64, len(raw)))
            file.write(b"".join(raw))
    return np.concatenate(digests), np.cumsum(np.concatenate(sizes))


def _distinct(digests: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First rows of the distinct digests, ascending, and per row the number of its own among them."""
    order = np.lexsort((digests["second"], digests["first"]))  # stable: of equal digests, the earliest is first
    placed = digests[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = placed[1:] != placed[:-1]
    group = np.cumsum(is_new) - 1
    firsts = order[is_new]
    rank = np.empty(len(firsts), np.int64)
    by_row = np.argsort(firsts)
    rank[by_row] = np.arange(len(firsts))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = rank[group]
    return firsts[by_row], numbers


class LikeForest:
    """Captions and pairs of them that are alike: no more pairs than are needed to connect what is connected.

    Memory: 8 bytes a caption, 16 a pair.
    """

    def __init__(self, num_captions: int) -> None:
        self.num_captions = num_captions
        self._pairs = np.empty((2, 0), np.int64)
        self._num_settled = 0
        self._components = np.arange(num_captions)

    def unconnected(self, left: Rows, right: Rows) -> Rows:
        """Those of some pairs that would connect something, as far as is known; shape (2, pairs)."""
        news = self._components[left] != self._components[right]
        return np.stack((left[news], right[news]))

    def connect(self, pairs: Rows) -> None:
        """Add pairs that are alike; shape (2, pairs), the first number below the second."""
        self._pairs = np.concatenate((self._pairs, pairs), axis=1)
        if self._pairs.shape[1] > self._num_settled + max(MAX_NEW_PAIRS, self._num_settled // 4):
            self.settle()

    def settle(self) -> None:
        """Throw away pairs that connect nothing which those before them do not."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

        if not self._pairs.size:
            return
        _, places = np.unique(self._pairs[0] * self.num_captions + self._pairs[1], return_index=True)
        self._pairs = self._pairs[:, np.sort(places)]
        nodes, ends = np.unique(self._pairs, return_inverse=True)
        ends = ends.reshape(self._pairs.shape)
        # All weights differ, so that there is one least tree only.
        weights = np.arange(1, ends.shape[1] + 1, dtype=np.float64)
        tree = minimum_spanning_tree(coo_array((weights, ends), (len(nodes), len(nodes))).tocsr())
        self._pairs = self._pairs[:, np.sort(tree.data).astype(np.int64) - 1]
        self._num_settled = self._pairs.shape[1]
        _, labels = connected_components(tree, directed=False)
        _, firsts = np.unique(labels, return_index=True)
        self._components[nodes] = nodes[firsts][labels]

    def components(self) -> Iterator[tuple[Rows, list[Rows]]]:
        """Per connected component, its captions, ascending, and for each the lower ones that it has a pair with."""
        self.settle()
        nodes = np.unique(self._pairs)
        nodes = nodes[np.lexsort((nodes, self._components[nodes]))]
        lower, upper = self._pairs[:, np.lexsort(self._pairs)]
        begins, ends = np.searchsorted(upper, nodes), np.searchsorted(upper, nodes, side="right")
        starts = np.flatnonzero(np.diff(self._components[nodes], prepend=-1))
        for start, stop in itertools.pairwise([*starts.tolist(), len(nodes)]):
            yield nodes[start:stop], [lower[begins[at] : ends[at]] for at in range(start, stop)]


def first_like_captions(forest: LikeForest, key: Callable[[int], str], alike: Callable[[str, str], bool]) -> Rows:
    """For each caption, the first of its cluster: the lowest one that it is like, of those that are first themselves.

    Args:
        key: the text of a caption by its number.
    """
    leaders = np.arange(forest.num_captions)
    for members, neighbours in forest.components():
        firsts: list[int] = []
        for member, lower in zip(members.tolist(), neighbours, strict=True):
            near = set(lower.tolist())
            tried = sorted({*firsts[:MAX_LEADERS], *leaders[lower].tolist()})
            text = key(member) if tried and not near.issuperset(tried) else ""
            found = next((first for first in tried if first in near or alike(key(first), text)), member)
            leaders[member] = found
            if found == member:
                firsts.append(member)
    return leaders

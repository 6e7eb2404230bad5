"""Near-duplicate images: similar by their perceptual hashes, and by their thumbnails, which see colours.

Both are made by `data_catalog.images.normalise`. Hashes alone confuse different drawings on the same plain background.
`benchmarks/near_images.py` measures what the recommended limits find, and which unrelated images they match.

Near hashes are found exactly without comparing all pairs. The bits are cut into `max_distance + k` blocks: if two
hashes differ in at most `max_distance` bits, k of their blocks are equal. So for each choice of k blocks, the hashes
are sorted by these, and only those that agree in them are compared: pigeonholes, as in Manku, Jain and Das Sarma,
"Detecting near-duplicates for web crawling" (2007).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]
Thumbnails = NDArray[np.uint8]  # of shape (num_rows, 192): 8 x 8 pixels of RGB; a np.memmap will do

MAX_DISTANCE = 16
_BITS = 64
# Bits are permuted with this stride before they are cut into blocks: neighbouring bits of a pHash correlate, so that
# blocks of neighbours separate few images. It is odd, hence a permutation; measured on photographs, clip art and drawn
# scenes.
_BIT_ORDER = np.arange(_BITS) * 19 % _BITS
_CHUNK = 1 << 17  # rows at once, so that they fit a processor's cache
_MAX_KEY_BITS = 24  # a table has an entry for each possible key
_ROW_BITS = 63 - _MAX_KEY_BITS
_SAMPLE = 100_000
# Costs in nanoseconds: they decide the number of blocks, never the result.
_NS_SORTED = 110.0  # sort a row into a table
_NS_PROBED = 30.0  # look up a row in a table
_NS_COMPARED = 8.0  # compare two hashes
_NS_KEY = 5.0  # make an entry of a table

_HASH_DIGITS = 16
_PIXELS = 64
_THUMBNAIL_BYTES = 3 * _PIXELS
# Least contrast of a thumbnail, of 255: less is noise of an encoder.
_LEAST_CONTRAST = 4.0
# Difference of average colours, of 255, that weighs as much as a difference by the full contrast.
_COLOUR_SCALE = 64.0
# Pairs at once: they fit a processor's cache, and are so few that numpy's matrix products start no threads, which
# slow down machines where other processes work.
_PAIRS_AT_ONCE = 1 << 7
# Most pairs of near hashes, in addition to one a row, whose thumbnails are compared at once. If there are more, most
# rows are duplicates: the first half is deduplicated first, and rows similar to it are not compared further.
_MORE_PAIRS = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSimilarity:
    """Hashes and thumbnails of images, with the limits of similarity.

    Args:
        hashes: shape (num_rows,).
        thumbnails: thumbnails of the same rows; may be on disk.
        max_distance: most bits in which hashes may differ, 0 to `MAX_DISTANCE`.
        max_difference: largest value of `thumbnail_distances`.
    """

    hashes: Hashes
    thumbnails: Thumbnails
    max_distance: int
    max_difference: float

    def are_similar(self, pairs: Rows) -> NDArray[np.bool_]:
        """Return for each pair of rows whether their thumbnails are similar."""
        alike: NDArray[np.bool_] = thumbnail_distances(self.thumbnails, self.thumbnails, pairs) <= self.max_difference
        return alike


def first_kept(looks: ImageSimilarity, rows: Rows) -> Rows:
    """Return for each row the first kept row that it is similar to: itself, if it is similar to none before it.

    Kept rows are not similar to each other, and each dropped row is directly similar to a kept one.

    Args:
        looks: hashes and thumbnails of all rows.
        rows: numbers of different images, in order of preference.
    """
    near = _unless_too_many(near_pairs(looks.hashes[rows], max_distance=looks.max_distance), len(rows))
    if near is None:
        one, other = np.array_split(rows, 2)
        found = first_kept(looks, one)
        later = first_similar(looks, other, one[found == one])
        left = later < 0
        later[left] = first_kept(looks, other[left])
        return np.concatenate([found, later])
    pairs = np.sort(near[looks.are_similar(rows[near])], axis=1)
    # Pairs as single numbers sort faster.
    lower, upper = np.divmod(np.sort(pairs[:, 0] * len(rows) + pairs[:, 1]), max(len(rows), 1))
    first = np.arange(len(rows))
    places, begins = np.unique(lower, return_index=True)
    for place, (begin, end) in zip(places.tolist(), pairwise([*begins.tolist(), len(upper)]), strict=True):
        if first[place] == place:
            others = upper[begin:end]
            first[others[first[others] == others]] = place
    return rows[first]


def first_similar(looks: ImageSimilarity, rows: Rows, references: Rows) -> Rows:
    """Return for each row the first of the reference rows that it is similar to; -1 if there is none."""
    pairs = near_pairs(looks.hashes[rows], looks.hashes[references], max_distance=looks.max_distance)
    near = _unless_too_many(pairs, len(rows) + len(references))
    if near is None:
        one, other = np.array_split(references, 2)
        found = first_similar(looks, rows, one)
        left = found < 0
        found[left] = first_similar(looks, rows[left], other)
        return found
    alike = near[looks.are_similar(np.column_stack([rows[near[:, 0]], references[near[:, 1]]]))]
    first = np.full(len(rows), len(references))
    np.minimum.at(first, alike[:, 0], alike[:, 1])
    first_of_all: Rows = np.append(references, -1)[first]
    return first_of_all


def _unless_too_many(parts: Iterable[Rows], num_rows: int) -> Rows | None:
    """Return all pairs; None if they are too many to compare their thumbnails."""
    left = num_rows + _MORE_PAIRS
    found = [np.empty((0, 2), np.int64)]
    for pairs in parts:
        left -= len(pairs)
        if left < 0:
            return None
        found.append(pairs)
    return np.concatenate(found)


def leak_matches(
    images: tuple[Hashes, Thumbnails],
    references: tuple[Hashes, Thumbnails],
    *,
    max_distance: int,
    max_difference: float,
) -> Rows:
    """Return the rows of images that are similar to a reference, each with its most similar one.

    Args:
        images: hashes of shape (num_rows,), and their thumbnails.
        references: the same for views of test images; of several equally similar ones the first counts.
        max_distance: most bits in which hashes may differ.
        max_difference: largest value of `thumbnail_distances`.

    Returns:
        Shape (num_found, 2), sorted.
    """
    best = np.full(len(images[0]), -1, np.int64)
    least = np.full(len(images[0]), np.inf, np.float32)
    for pairs in near_pairs(images[0], references[0], max_distance=max_distance):
        differences = thumbnail_distances(images[1], references[1], pairs)
        order = np.lexsort((pairs[:, 1], differences, pairs[:, 0]))
        order = order[np.flatnonzero(np.diff(pairs[order, 0], prepend=-1))]  # the best one of each row
        rows, others, found = pairs[order, 0], pairs[order, 1], differences[order]
        better = (found < least[rows]) | ((found == least[rows]) & (others < best[rows]))
        best[rows[better]], least[rows[better]] = others[better], found[better]
    rows = np.flatnonzero(least <= max_difference)
    return np.column_stack([rows, best[rows]])


@dataclass(frozen=True, slots=True)
class _Table:
    """Choice of blocks of bits that hashes must agree in.

    Args:
        key: (lowest bit, number of bits) of each chosen block, as far as they fit into a key.
        key_bits: number of bits of the key; pairs with the same key may still differ in chosen bits outside of the key.
        chosen: mask of the chosen blocks.
        earlier: masks of the blocks that were skipped before the last chosen one.
    """

    key: tuple[tuple[int, int], ...]
    key_bits: int
    chosen: int
    earlier: tuple[int, ...]

    def keys(self, hashes: Hashes) -> Rows:
        """Return the key of each hash."""
        found = np.zeros(len(hashes), np.uint64)
        for low, width in self.key:
            bits = (hashes >> np.uint64(low)) & np.uint64((1 << width) - 1)
            found = (found << np.uint64(width)) | bits
        return found.astype(np.int64)

    def is_first(self, differences: Hashes) -> NDArray[np.bool_]:
        """Return for each pair, by its differing bits, whether this is its first table: most pairs occur in several."""
        first: NDArray[np.bool_] = (differences & np.uint64(self.chosen)) == 0
        for mask in self.earlier:
            first &= (differences & np.uint64(mask)) != 0
        return first


def _tables(max_distance: int, num_equal: int) -> Iterator[_Table]:
    """Yield one table for each choice of `num_equal` blocks, in lexicographic order."""
    num_blocks = max_distance + num_equal
    edges = [block * _BITS // num_blocks for block in range(num_blocks + 1)]
    masks = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    for chosen in combinations(range(num_blocks), num_equal):
        key, room = [], _MAX_KEY_BITS
        for block in chosen:
            width = min(edges[block + 1] - edges[block], room)
            key.append((edges[block], width))
            room -= width
        earlier = [masks[block] for block in range(max(chosen, default=0)) if block not in chosen]
        mask = sum(masks[block] for block in chosen)
        yield _Table(tuple(key), _MAX_KEY_BITS - room, mask, tuple(earlier))


def near_pairs(
    hashes: Hashes, references: Hashes | None = None, *, max_distance: int, num_equal: int | None = None
) -> Iterator[Rows]:
    """Yield pairs of positions of hashes that differ in few bits, each pair once, in parts of shape (num, 2).

    Args:
        hashes: shape (num_hashes,).
        references: hashes to pair with; None: pairs among `hashes`.
        max_distance: most bits that differ.
        num_equal: number of blocks that must be equal; None: the fastest, estimated on a sample.
    """
    mine = _permuted(hashes)
    theirs = mine if references is None else _permuted(references)
    if not len(mine) or not len(theirs):
        return
    if num_equal is None:
        num_equal = _fastest_num_equal(mine, theirs, max_distance)
    for table in _tables(max_distance, num_equal):
        keys = table.keys(theirs)
        ends = np.cumsum(np.bincount(keys, minlength=1 << table.key_bits))
        # Keys and positions as single numbers sort faster.
        order = np.sort(keys << _ROW_BITS | np.arange(len(theirs))) & ((1 << _ROW_BITS) - 1)
        ordered = theirs[order]
        for start in range(0, len(mine), _CHUNK):
            if references is None:  # each is compared with those after it
                rows, part = order[start : start + _CHUNK], ordered[start : start + _CHUNK]
                other = np.arange(start + 1, start + 1 + len(part))
                end = ends[table.keys(part)]
            else:
                part = mine[start : start + _CHUNK]
                rows, key = np.arange(start, start + len(part)), table.keys(part)
                end = ends[key]
                other = np.where(key > 0, ends[key - 1], 0)
            at = np.arange(len(part))
            while len(going := np.flatnonzero(other < end)):
                at, other, end = at[going], other[going], end[going]
                differences = part[at] ^ ordered[other]
                near = np.flatnonzero(np.bitwise_count(differences) <= max_distance)
                near = near[table.is_first(differences[near])]
                if len(near):
                    yield np.column_stack([rows[at[near]], order[other[near]]])
                other = other + 1


def _permuted(hashes: Hashes) -> Hashes:
    """Return the hashes with their bits permuted, which leaves distances unchanged."""
    found = np.empty(len(hashes), np.uint64)
    for start in range(0, len(hashes), _CHUNK):
        part = np.ascontiguousarray(hashes[start : start + _CHUNK])
        bits = np.unpackbits(part.view(np.uint8)).reshape(-1, _BITS)
        found[start : start + _CHUNK] = np.packbits(bits[:, _BIT_ORDER]).view(np.uint64)
    return found


def _fastest_num_equal(mine: Hashes, theirs: Hashes, max_distance: int) -> int:
    """Return the fastest number of equal blocks, estimated on a sample, since real hashes are not random."""
    samples = [some[:: max(1, len(some) // _SAMPLE)] for some in (mine, theirs)]
    num_pairs = len(mine) * len(theirs) / (2 if mine is theirs else 1)

    def cost(num_equal: int) -> float:
        table = next(_tables(max_distance, num_equal))
        (one, one_counts), (other, other_counts) = (np.unique(table.keys(some), return_counts=True) for some in samples)
        _, at, at_other = np.intersect1d(one, other, assume_unique=True, return_indices=True)
        met = float(one_counts[at].astype(float) @ other_counts[at_other])
        if mine is theirs:
            met -= len(samples[0])  # each with itself
        rate = max(met, 1.0) / (len(samples[0]) * len(samples[1]))
        a_table = _NS_SORTED * len(theirs) + _NS_PROBED * len(mine) * (mine is not theirs)
        a_table += _NS_KEY * (1 << table.key_bits) + _NS_COMPARED * num_pairs * rate
        return a_table * math.comb(max_distance + num_equal, num_equal)

    return min(range(0 if max_distance else 1, 6), key=cost)


def thumbnail_distances(one: Thumbnails, other: Thumbnails, pairs: Rows) -> NDArray[np.float32]:
    """Return the differences of thumbnails, pair by pair: float32 of shape (num_pairs,), 0 for equal ones.

    A difference is the larger of two shares: the mean difference of the pixels without their average colours, as a
    share of the lower contrast of the two (their mean deviation from the average colour); and the difference of the
    average colours as a share of 64. A small shape on a plain background has little contrast, so its place and colour
    count in full. Unrelated images have about 1.

    Args:
        one: uint8 of shape (num_rows, 192).
        other: the same.
        pairs: rows of `one` and of `other`; few of them are in memory at once.
    """
    found = np.empty(len(pairs), np.float32)
    least = np.float32(_LEAST_CONTRAST * _PIXELS * _THUMBNAIL_BYTES)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        shape, colour, contrast = _parts(one[pairs[part, 0]])
        other_shape, other_colour, other_contrast = _parts(other[pairs[part, 1]])
        by_shape = _sizes(shape - other_shape) / np.maximum(np.minimum(contrast, other_contrast), least)
        by_colour = np.abs(colour - other_colour).sum(axis=1) / np.float32(3 * _PIXELS * _COLOUR_SCALE)
        found[part] = np.maximum(by_shape, by_colour)
    return found


def _parts(thumbnails: Thumbnails) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return deviations from the average colour, (num, 192), that colour, (num, 3), and sums of absolute deviations.

    The unit is 1/64 of a brightness level: all sums are whole numbers below 2^24, so the order of addition does not
    matter.
    """
    pixels = thumbnails.astype(np.float32)
    colour = pixels @ np.tile(np.eye(3, dtype=np.float32), (_PIXELS, 1))
    shape = pixels * np.float32(_PIXELS) - np.tile(colour, _PIXELS)
    return shape, colour, _sizes(shape)


def _sizes(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of the absolute values of each row; a matrix product is faster than numpy's sums of short rows."""
    sizes: NDArray[np.float32] = np.abs(differences) @ np.ones(_THUMBNAIL_BYTES, np.float32)
    return sizes


def parse_hashes(column: pa.ChunkedArray | pa.Array) -> Hashes:
    """Return hashes of 16 hexadecimal digits as numbers: uint64 of shape (num_rows,).

    Raises:
        ValueError: a row has no hash, or one of another length.
    """
    digits = _cells(column, _HASH_DIGITS).decode("ascii")
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)


def parse_thumbnails(column: pa.ChunkedArray | pa.Array) -> Thumbnails:
    """Return thumbnails of 192 bytes: uint8 of shape (num_rows, 192).

    Raises:
        ValueError: a row has no thumbnail, or one of another length.
    """
    return np.frombuffer(_cells(column, _THUMBNAIL_BYTES), np.uint8).reshape(-1, _THUMBNAIL_BYTES)


def _cells(column: pa.ChunkedArray | pa.Array, num_bytes: int) -> bytes:
    """Return the bytes of all rows, one after the other."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    try:
        cells = [chunk.cast(pa.binary()).cast(pa.binary(num_bytes)) for chunk in chunks if len(chunk)]
    except pa.ArrowInvalid as error:
        raise ValueError(f"a row does not have {num_bytes} bytes: filter such rows first") from error
    if any(chunk.null_count for chunk in cells):
        raise ValueError(f"a row does not have {num_bytes} bytes: filter such rows first")
    return b"".join(chunk.buffers()[1].slice(chunk.offset * num_bytes, len(chunk) * num_bytes) for chunk in cells)

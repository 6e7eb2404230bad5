"""Images that look alike: close by their perceptual hashes, and alike by their thumbnails, which see colours.

Both are as `data_catalog.images.normalise` makes them. Hashes alone take drawings on one plain ground for each other;
`benchmarks/near_images.py` says what the recommended limits find, and what they take for alike that is not.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cleaning.duplicates.hamming import (
    MAX_DISTANCE,
    Hashes,
    HashGroups,
    Rows,
    matches_of_distinct,
    near_distinct,
    num_products,
    products,
    require_distance,
)
from data_catalog.errors import SettingsError

Thumbnails = NDArray[np.uint8]  # of shape (num_rows, 192): 8 x 8 pixels of RGB; a np.memmap will do

_HASH_DIGITS = 16
_PIXELS = 64
_THUMBNAIL_BYTES = 3 * _PIXELS
# What a thumbnail's contrast counts at least as, of 255: less is noise of an encoder.
_LEAST_CONTRAST = 4.0
# So far apart, of 255, average colours weigh as much as a picture that differs by all of its contrast.
_COLOUR_SCALE = 64.0
# Pairs at once: within a processor's cache, and so few that numpy's products of matrices start no threads, which cost
# far more than they bring where other processes work, too.
_CHUNK = 1 << 7
# So many pairs of near hashes are compared at once, by the number of rows. Where there are more, most rows look like
# one that stays: these are looked for among the first half, and what looks like them is compared no further.
_PAIRS_PER_ROW = 1
_MORE_PAIRS = 1 << 17


def require_likeness(section: str, max_distance: int, max_difference: float) -> None:
    """Raise SettingsError for limits of a section of a recipe that `Looks` cannot have."""
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise SettingsError(f"{section}.max_distance must be between 0 and {MAX_DISTANCE}, got {max_distance}")
    if not max_difference >= 0:
        raise SettingsError(f"{section}.max_thumbnail_difference must not be negative, got {max_difference}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What images look like, and how much two that look the same may differ.

    Args:
        hashes: of shape (num_rows,).
        thumbnails: of the same rows; may lie on disk.
        max_distance: most bits in which hashes may differ.
        max_difference: most that `thumbnail_distances` may say.

    Raises:
        SettingsError: the distance is not between 0 and 16.
    """

    hashes: Hashes
    thumbnails: Thumbnails
    max_distance: int
    max_difference: float

    def __post_init__(self) -> None:
        require_distance(self.max_distance)

    def are_alike(self, pairs: Rows) -> NDArray[np.bool_]:
        """Which pairs of rows look the same by their thumbnails."""
        alike: NDArray[np.bool_] = thumbnail_distances(self.thumbnails, self.thumbnails, pairs) <= self.max_difference
        return alike


def first_staying(looks: Looks, rows: Rows) -> Rows:
    """For each row the first one that stays and that it looks like: itself, where it looks like none before it.

    Those that stay look like none of each other, and what goes looks like one that stays, not by way of a third.

    Args:
        rows: numbers of different images, the first to stay first.
    """
    pairs = _pairs_alike(looks, rows)
    if pairs is not None:
        return rows[_first_of_neighbours(len(rows), pairs)]
    one, other = np.array_split(rows, 2)
    found = first_staying(looks, one)
    return np.concatenate([found, _after(looks, one[found == one], other)])


def _after(looks: Looks, stay: Rows, rows: Rows) -> Rows:
    """What `first_staying` says of rows that come after some that stay."""
    found = first_alike(looks, rows, stay)
    left = found < 0
    found[left] = first_staying(looks, rows[left])
    return found


def first_alike(looks: Looks, rows: Rows, references: Rows) -> Rows:
    """For each row the first of some other rows that it looks like, -1 where it looks like none."""
    found = _first_reference(looks, rows, references)
    if found is not None:
        return found
    one, other = np.array_split(references, 2)
    found = first_alike(looks, rows, one)
    left = found < 0
    found[left] = first_alike(looks, rows[left], other)
    return found


def leak_matches(
    images: tuple[Hashes, Thumbnails],
    references: tuple[Hashes, Thumbnails],
    *,
    max_distance: int,
    max_difference: float,
) -> Rows:
    """Rows of images that look like a reference, each with the one that it is most like: shape (num_found, 2), sorted.

    Args:
        images: hashes of shape (num_rows,), and their thumbnails.
        references: likewise, of views of test images; the first one of several that are equally like an image counts.
        max_distance: most bits in which hashes may differ.
        max_difference: most that `thumbnail_distances` may say.

    Raises:
        SettingsError: the distance is not between 0 and 16.
    """
    require_distance(max_distance)
    mine, theirs = HashGroups.of(images[0]), HashGroups.of(references[0])
    best = np.full(len(images[0]), -1, np.int64)
    least = np.full(len(images[0]), np.inf, np.float32)
    for positions in matches_of_distinct(mine.hashes, theirs.hashes, max_distance):
        for pairs in products(positions, mine, theirs):
            differences = thumbnail_distances(images[1], references[1], pairs)
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


def _pairs_alike(looks: Looks, rows: Rows) -> Rows | None:
    """Pairs of places in `rows` that look the same, the lower one first, sorted; None if too many hashes are near."""
    groups = HashGroups.of(looks.hashes[rows])
    same = groups.with_themselves()
    near = _unless_too_many(chain([same], near_distinct(groups.hashes, looks.max_distance)), groups, groups)
    if near is None:
        return None
    found = [np.empty(0, np.int64)]  # pairs as single numbers, which are quicker to sort
    for pairs in _each_once(same, near[len(same) :], groups):
        alike = pairs[looks.are_alike(rows[pairs])]
        found.append(alike[:, 0] * len(rows) + alike[:, 1])
    return np.column_stack(np.divmod(np.sort(np.concatenate(found)), max(len(rows), 1)))


def _each_once(same: Rows, near: Rows, groups: HashGroups) -> Iterator[Rows]:
    """Pairs of different rows, the lower one first, of groups with themselves and of pairs of different groups."""
    for pairs in products(same, groups, groups):
        yield pairs[pairs[:, 0] < pairs[:, 1]]  # a group with itself has each pair both ways round
    for pairs in products(near, groups, groups):
        yield np.sort(pairs, axis=1)


def _first_of_neighbours(num: int, pairs: Rows) -> Rows:
    """`first_staying` of places, by their pairs."""
    first = np.arange(num)
    places, begins = np.unique(pairs[:, 0], return_index=True)
    ends = np.append(begins, len(pairs))[1:]
    for place, begin, end in zip(places.tolist(), begins.tolist(), ends.tolist(), strict=True):
        if first[place] == place:
            others = pairs[begin:end, 1]
            first[others[first[others] == others]] = place
    return first


def _first_reference(looks: Looks, rows: Rows, references: Rows) -> Rows | None:
    """What `first_alike` says; None where too many hashes are near."""
    mine, theirs = HashGroups.of(looks.hashes[rows]), HashGroups.of(looks.hashes[references])
    near = _unless_too_many(matches_of_distinct(mine.hashes, theirs.hashes, looks.max_distance), mine, theirs)
    if near is None:
        return None
    first = np.full(len(rows), len(references))
    for pairs in products(near, mine, theirs):
        alike = pairs[looks.are_alike(np.column_stack([rows[pairs[:, 0]], references[pairs[:, 1]]]))]
        np.minimum.at(first, alike[:, 0], alike[:, 1])
    found: Rows = np.append(references, -1)[first]
    return found


def _unless_too_many(parts: Iterable[Rows], mine: HashGroups, theirs: HashGroups) -> Rows | None:
    """All pairs of groups; None where they stand for too many pairs of rows to compare their thumbnails."""
    left = _PAIRS_PER_ROW * (len(mine.rows) + len(theirs.rows)) + _MORE_PAIRS
    found = [np.empty((0, 2), np.int64)]
    for positions in parts:
        left -= num_products(positions, mine, theirs)
        if left < 0:
            return None
        found.append(positions)
    return np.concatenate(found)


def parse_hashes(column: pa.ChunkedArray | pa.Array) -> Hashes:
    """Hashes of 16 hexadecimal digits as numbers: uint64 of shape (num_rows,).

    Raises:
        ValueError: a row has no hash, or one of another length.
    """
    parts = [bytes.fromhex(data.decode("ascii")) for data in _cells(column, _HASH_DIGITS)]
    return np.frombuffer(b"".join(parts), ">u8").astype(np.uint64)


def parse_thumbnails(column: pa.ChunkedArray | pa.Array) -> Thumbnails:
    """Thumbnails of 192 bytes: uint8 of shape (num_rows, 192).

    Raises:
        ValueError: a row has no thumbnail, or one of another length.
    """
    return np.frombuffer(b"".join(_cells(column, _THUMBNAIL_BYTES)), np.uint8).reshape(-1, _THUMBNAIL_BYTES)


def _cells(column: pa.ChunkedArray | pa.Array, num_bytes: int) -> Iterator[bytes]:
    """The bytes of all rows, a chunk at a time."""
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        cells = chunk.cast(pa.large_binary())
        if cells.null_count or pc.any(pc.not_equal(pc.binary_length(cells), num_bytes)).as_py():
            raise ValueError(f"rows without {num_bytes} bytes have no place here: filter them first")
        if len(cells):
            begins = np.frombuffer(cells.buffers()[1], np.int64)[cells.offset :]
            yield cells.buffers()[2].slice(int(begins[0]), num_bytes * len(cells)).to_pybytes()


def thumbnail_distances(one: Thumbnails, other: Thumbnails, pairs: Rows) -> NDArray[np.float32]:
    """How far thumbnails are apart, pair by pair: float32 of shape (num_pairs,), 0 for equal ones, 1 for unlike ones.

    Two shares, of which the larger counts: the mean difference of the pixels, average colours set aside, as a share of
    the lesser contrast of the two (their mean deviation from the average colour); and the difference of the average
    colours as a share of 64. A small shape on a plain ground has little contrast: its place and colour count in full.

    Args:
        one: uint8 of shape (num_rows, 192).
        other: likewise.
        pairs: row of `one`, row of `other`; few of them are in memory at once.
    """
    found = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = _distance(one[pairs[part, 0]], other[pairs[part, 1]])
    return found


def _distance(one: Thumbnails, other: Thumbnails) -> NDArray[np.float32]:
    """In 64ths of a brightness: all sums are whole numbers below 2^24, the same in whatever order they are added up."""
    (shape, colour, contrast), (other_shape, other_colour, other_contrast) = _looks(one), _looks(other)
    least = np.float32(_LEAST_CONTRAST * _PIXELS * _THUMBNAIL_BYTES)
    by_shape = _sizes(shape - other_shape) / np.maximum(np.minimum(contrast, other_contrast), least)
    by_colour = np.abs(colour - other_colour).sum(axis=1) / np.float32(3 * _PIXELS * _COLOUR_SCALE)
    larger: NDArray[np.float32] = np.maximum(by_shape, by_colour)
    return larger


def _looks(thumbnails: Thumbnails) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Differences from the average colour, of shape (num, 192), that colour, (num, 3), and the sum of their sizes."""
    pixels = thumbnails.astype(np.float32)
    colour = pixels @ np.tile(np.eye(3, dtype=np.float32), (_PIXELS, 1))
    shape = pixels * np.float32(_PIXELS) - np.tile(colour, _PIXELS)
    return shape, colour, _sizes(shape)


def _sizes(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the absolute values of each row; by a product, which is quicker than numpy's sums of short rows."""
    sizes: NDArray[np.float32] = np.abs(differences) @ np.ones(_THUMBNAIL_BYTES, np.float32)
    return sizes

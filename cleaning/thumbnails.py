"""Columns of perceptual hashes and thumbnails as arrays, and how far thumbnails are apart."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cleaning.hamming import Hashes, Rows

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


def thumbnail_distance(one: Thumbnails, other: Thumbnails) -> NDArray[np.float32]:
    """How far thumbnails are apart, pair by pair: float32 of shape (num_pairs,), 0 for equal ones, 1 for unlike ones.

    Two shares, of which the larger counts: the mean difference of the pixels, average colours set aside, as a share of
    the lesser contrast of the two (their mean deviation from the average colour); and the difference of the average
    colours as a share of 64. A small shape on a plain ground has little contrast: its place and colour count in full.

    Args:
        one: uint8 of shape (num_pairs, 192).
        other: likewise.
    """
    return _in_chunks(len(one), lambda part: _distance(one[part], other[part]))


def distances_of(one: Thumbnails, other: Thumbnails, pairs: Rows) -> NDArray[np.float32]:
    """`thumbnail_distance` of pairs (row of `one`, row of `other`), few of which are in memory at once."""
    return _in_chunks(len(pairs), lambda part: _distance(one[pairs[part, 0]], other[pairs[part, 1]]))


def _in_chunks(num: int, distance: Callable[[slice], NDArray[np.float32]]) -> NDArray[np.float32]:
    found = np.empty(num, np.float32)
    for start in range(0, num, _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = distance(part)
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

"""Pairs of captions that share a band of their MinHash: linear in the captions, however many share one."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cleaning.caption_similarity import figure_marks
from cleaning.minhash_bands import MIN_EQUAL_BITS, NUM_BANDS, SKETCH_WORDS, equal_bits, signatures

# With so many captions before it a caption is compared in each band that it shares with others, and with the band's
# first. More of them cost time and find little: those that are alike lie beside each other.
NEIGHBOURS = 4
PLACES_PER_BLOCK = 500_000

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class BandFiles:
    """The bands of all captions, each in a file, and their sketches in memory (with their numbers 24 bytes a caption).

    Args:
        folder: an existing folder; the caller removes it. 8 bytes a caption and band.
        batches: the exact keys of captions, in order.
    """

    def __init__(self, folder: Path, batches: Iterable[Sequence[str]], *, threads: int = 1) -> None:
        self._paths = [folder / f"band-{number:02d}" for number in range(NUM_BANDS)]
        sketches, marks = [np.empty((0, SKETCH_WORDS), np.uint64)], [np.empty(0, np.uint64)]
        for path in self._paths:
            path.touch()
        for batch in batches:
            signed = signatures(batch, threads=threads)
            sketches.append(signed.sketches)
            marks.append(figure_marks(batch))
            for path, band in zip(self._paths, signed.bands, strict=True):
                with path.open("ab") as file:
                    file.write(band.tobytes())  # numpy's own writer says nothing where a small disk is full
        self._sketches = np.concatenate(sketches)
        self._marks = np.concatenate(marks)

    def pairs(self) -> Iterator[Pairs]:
        """Pairs that may be near-duplicates, block by block: numbers of captions, the first below the second.

        A pair may come again in another block.
        """
        for number, path in enumerate(self._paths):
            other_band = np.fromfile(self._paths[number - 1], np.uint64)
            order, bucket_starts = _crowded(np.fromfile(path, np.uint64), (other_band, self._marks))
            del other_band
            for start in range(0, len(order), PLACES_PER_BLOCK):
                yield self._likely_pairs(order, bucket_starts, start)

    def _likely_pairs(self, order: npt.NDArray[np.int64], bucket_starts: npt.NDArray[np.int64], start: int) -> Pairs:
        """Pairs of the captions at a block of places with those before them whose sketches are near enough."""
        places = np.arange(start, min(start + PLACES_PER_BLOCK, len(order)))
        found = []
        for others in _others(places, bucket_starts[places]):
            is_pair = others < places
            left, right = order[others[is_pair]], order[places[is_pair]]
            same_figures = self._marks[left] == self._marks[right]
            left, right = left[same_figures], right[same_figures]
            likely = equal_bits(self._sketches, left, right) >= MIN_EQUAL_BITS
            low, high = np.minimum(left, right)[likely], np.maximum(left, right)[likely]
            found.append(low * len(self._sketches) + high)
        distinct = np.unique(np.concatenate(found))
        return distinct // len(self._sketches), distinct % len(self._sketches)


def _crowded(
    band: npt.NDArray[np.uint64], inner_keys: Sequence[npt.NDArray[np.uint64]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Captions that share the band with another, bucket by bucket, and for each place where its bucket begins.

    Within a bucket they lie in the order of their numbers and another band: captions that are alike have the same
    numbers and often share that band too, and then lie beside each other, however crowded the bucket is.
    """
    order = np.argsort(band, kind="stable")
    placed = band[order]
    same = placed[1:] == placed[:-1]
    crowded = np.zeros(len(order), np.bool_)
    crowded[1:] |= same
    crowded[:-1] |= same
    order = order[crowded]
    order = order[np.lexsort((*(key[order] for key in inner_keys), band[order]))]
    placed = band[order]
    is_start = np.ones(len(order), np.bool_)
    is_start[1:] = placed[1:] != placed[:-1]
    return order, np.maximum.accumulate(np.where(is_start, np.arange(len(order)), 0))


def _others(places: npt.NDArray[np.int64], bucket_starts: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Places that the captions at some places are compared with: the nearest before them, and their bucket's first.

    A place that is compared with itself is compared with nothing.
    """
    for distance in range(1, NEIGHBOURS + 1):
        others = places - distance
        yield np.where(others >= bucket_starts, others, places)
    yield np.where(places - bucket_starts > NEIGHBOURS, bucket_starts, places)

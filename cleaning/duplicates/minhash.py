"""MinHash of captions: which of them may be alike, told by a few numbers each.

A caption is the set of its runs of four characters, white space included; where an ideograph begins a run, of two,
since one says as much as a word. `NUM_BANDS` bands of `ROWS_PER_BAND` minima each make candidates of two captions that
share a band: of those with a Jaccard similarity of 0.7 99 % do, of 0.6 87 %, of 0.5 55 %, of 0.4 23 %, of 0.1 one in
4,000.

In numpy, since what is dropped from a data set hangs on these numbers, and those of the libraries change with their
releases; and since those hand their minima over one Python number at a time (`benchmarks/near_captions.py` compares).
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cleaning.duplicates.similarity import figure_marks

NUM_BANDS, ROWS_PER_BAND = 25, 5
RUN, IDEOGRAPHIC_RUN = 4, 2  # characters
FIRST_IDEOGRAPH = 0x2E80  # the block of radicals; kana, ideographs and hangul syllables follow
CAPTIONS_PER_BLOCK = 1024  # what stays in a core's cache

# Two sketches of 64 bits, of one bit a minimum each; the last bits stay zero.
SKETCH_WORDS = 2
# Of 125 bits, captions of Jaccard similarity J agree in 62 (1 + J) on average, give or take 5: nearly all of 0.5 and
# more pass, one in twenty of 0.2.
MIN_EQUAL_BITS = 84

_SEED = 20_260_101
_RUN_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Signatures:
    """What is kept of the minima of some captions.

    Args:
        bands: uint64, shape (NUM_BANDS, captions): equal where all minima of a band are.
        sketches: uint64, shape (captions, SKETCH_WORDS): a bit a minimum, from which a similarity can be guessed.
    """

    bands: npt.NDArray[np.uint64]
    sketches: npt.NDArray[np.uint64]


def signatures(keys: Sequence[str], *, threads: int = 1) -> Signatures:
    """Bands and sketches of captions; each caption's are the same whatever its neighbours and the threads."""
    parts = [keys[start : start + CAPTIONS_PER_BLOCK] for start in range(0, len(keys), CAPTIONS_PER_BLOCK)]
    with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the interpreter
        blocks = list(pool.map(lambda part: _of_minima(minima(part)), parts))
    return Signatures(
        bands=np.concatenate([np.empty((NUM_BANDS, 0), np.uint64), *(block.bands for block in blocks)], axis=1),
        sketches=np.concatenate([np.empty((0, SKETCH_WORDS), np.uint64), *(block.sketches for block in blocks)]),
    )


def minima(keys: Sequence[str]) -> npt.NDArray[np.uint32]:
    """The least hash of each caption's runs under each permutation; shape (NUM_BANDS * ROWS_PER_BAND, captions)."""
    hashes, starts = run_hashes(keys)
    multipliers, summands = _permutations()
    found = np.empty((len(multipliers), len(keys)), np.uint32)
    permuted = np.empty_like(hashes)
    for row, multiplier, summand in zip(found, multipliers, summands, strict=True):
        np.multiply(hashes, multiplier, out=permuted)
        np.add(permuted, summand, out=permuted)
        np.minimum.reduceat(permuted, starts, out=row)
    return found


def run_hashes(keys: Sequence[str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Hashes of all captions' runs of characters, one caption after the other, and where each caption's begin."""
    padded = [_padded(key) for key in keys]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    num_runs = np.fromiter(map(len, padded), np.int64, len(padded)) - (RUN - 1)
    starts = np.cumsum(num_runs) - num_runs
    # A run that would reach into the next caption is none: each caption has three fewer runs than characters.
    places = np.arange(num_runs.sum()) + np.repeat((RUN - 1) * np.arange(len(padded)), num_runs)
    return _run_hashes_at(codes, places), starts


def _padded(key: str) -> str:
    """White space around a caption, so that its first and last words count as words, and it has a run at least."""
    ideographic = not key.isascii() and ord(max(key)) >= FIRST_IDEOGRAPH
    end = " " * (RUN - 1) if ideographic else " "
    return f" {key}{end}".ljust(RUN)


def _run_hashes_at(codes: npt.NDArray[np.uint64], places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """32 well-mixed bits of the run of characters at each place."""
    last = len(codes) - (RUN - 1)
    sums = np.zeros(max(last, 0), np.uint64)
    short = sums
    for at, multiplier in enumerate(_RUN_MULTIPLIERS):
        sums = sums + codes[at : last + at] * multiplier
        if at + 1 == IDEOGRAPHIC_RUN:
            short = sums
    sums = np.where(codes[: len(sums)] >= FIRST_IDEOGRAPH, short, sums)[places]
    sums = (sums ^ (sums >> _HALF)) * _MIX
    return (sums >> _HALF).astype(np.uint32)


def _permutations() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Odd multipliers and summands, modulo 2**32; PCG64's raw numbers, which numpy promises to keep."""
    raw = np.random.PCG64(_SEED).random_raw(NUM_BANDS * ROWS_PER_BAND)
    return (raw >> _HALF).astype(np.uint32) | np.uint32(1), raw.astype(np.uint32)


def _of_minima(found: npt.NDArray[np.uint32]) -> Signatures:
    bands = np.zeros((NUM_BANDS, found.shape[1]), np.uint64)
    for band, rows in zip(bands, found.reshape(NUM_BANDS, ROWS_PER_BAND, -1), strict=True):
        for row in rows:
            np.add(band, row, out=band)
            np.multiply(band, _MIX, out=band)
            np.bitwise_xor(band, band >> _HALF, out=band)
    return Signatures(bands=bands, sketches=_sketches(found))


def _sketches(found: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """One well-mixed bit of each minimum, 64 to a word."""
    bits = (found * np.uint32(0x9E3779B1)) >> np.uint32(31)
    sketches = np.zeros((found.shape[1], SKETCH_WORDS), np.uint64)
    for number, row in enumerate(bits):
        sketches[:, number // 64] |= row.astype(np.uint64) << np.uint64(number % 64)
    return sketches


def equal_bits(
    sketches: npt.NDArray[np.uint64], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """In how many of their NUM_BANDS * ROWS_PER_BAND bits the sketches of pairs agree; shape (pairs,)."""
    differing: npt.NDArray[np.int64] = np.bitwise_count(sketches[left] ^ sketches[right]).sum(axis=1, dtype=np.int64)
    return NUM_BANDS * ROWS_PER_BAND - differing


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

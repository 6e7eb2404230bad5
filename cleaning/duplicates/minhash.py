"""MinHash of captions: which of them may be alike, told by a few numbers each.

A caption is the set of its runs of four characters, white space included; where an ideograph begins a run, of two,
since one says as much as a word. `NUM_BANDS` bands of `ROWS_PER_BAND` minima each make candidates of two captions that
share a band: of those with a Jaccard similarity of 0.7 99 % do, of 0.6 87 %, of 0.5 55 %, of 0.4 23 %, of 0.1 one in
4,000.

In numpy, since what is dropped from a data set hangs on these numbers, and those of the libraries change with their
releases; and since those hand their minima over one Python number at a time (`benchmarks/near_captions.py` compares).
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cleaning.text.scripts import split_tokens

Rows = NDArray[np.int64]
Words = NDArray[np.uint64]

NUM_BANDS, ROWS_PER_BAND = 25, 5
RUN, IDEOGRAPHIC_RUN = 4, 2  # characters
FIRST_IDEOGRAPH = 0x2E80  # the block of radicals; kana, ideographs and hangul syllables follow
CAPTIONS_PER_BLOCK = 1024  # what stays in a core's cache
# A sketch has a bit a minimum, in words of 64; the last bits stay zero.
SKETCH_WORDS = 2
# Of 125 bits, captions of Jaccard similarity J agree in 62 (1 + J) on average, give or take 5: nearly all of 0.5 and
# more pass, one in twenty of 0.2.
MIN_EQUAL_BITS = 84
# With so many captions before it a caption is compared in each band that it shares with others, and with the band's
# first. More of them cost time and find little: those that are alike lie beside each other.
NEIGHBOURS = 4
PLACES_PER_BLOCK = 500_000

_RUN_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(32)
# Of the permutations, odd multipliers and summands, modulo 2**32: PCG64's raw numbers, which numpy promises to keep.
_RAW = np.random.PCG64(20_260_101).random_raw(NUM_BANDS * ROWS_PER_BAND)
_PERMUTATIONS = list(zip((_RAW >> _HALF).astype(np.uint32) | np.uint32(1), _RAW.astype(np.uint32), strict=True))

_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"(?:(?<!\S)[-\u2212])?\d+(?:[.,:/]\d+)*")
_PLAIN_SYMBOLS = "`^|~\u00b4\u00a8"  # that stand for an apostrophe, an accent or a dash
_MARKED = re.compile(r"""\d|[^\w\s.,;:!?'"()-]""")  # a digit, or what may be a symbol


class BandFiles:
    """The bands of all captions, each in a file, and their sketches in memory (with their numbers 24 bytes a caption).

    Each caption's are the same whatever its neighbours and the threads.

    Args:
        folder: an existing folder; the caller removes it. 8 bytes a caption and band.
        batches: the exact keys of captions, in order.
        threads: that hash.
    """

    def __init__(self, folder: Path, batches: Iterable[Sequence[str]], *, threads: int = 1) -> None:
        self._paths = [folder / f"band-{number:02d}" for number in range(NUM_BANDS)]
        sketches, marks = [np.empty((0, SKETCH_WORDS), np.uint64)], [np.empty(0, np.uint64)]
        for path in self._paths:
            path.touch()
        with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the interpreter
            for batch in batches:
                parts = [
                    batch[start : start + CAPTIONS_PER_BLOCK] for start in range(0, len(batch), CAPTIONS_PER_BLOCK)
                ]
                signed = list(pool.map(_signatures, parts))
                sketches += [sketch for _, sketch in signed]
                marks.append(figure_marks(batch))
                for number, path in enumerate(self._paths):
                    with path.open("ab") as file:  # numpy's own writer says nothing where a small disk is full
                        file.write(b"".join(bands[number].tobytes() for bands, _ in signed))
        self._sketches = np.concatenate(sketches)
        self._marks = np.concatenate(marks)

    def pairs(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs that may be near-duplicates, block by block: numbers of captions, the first below the second.

        A pair may come again in another block.
        """
        for number, path in enumerate(self._paths):
            other_band = np.fromfile(self._paths[number - 1], np.uint64)
            order, bucket_starts = _crowded(np.fromfile(path, np.uint64), (other_band, self._marks))
            del other_band
            for start in range(0, len(order), PLACES_PER_BLOCK):
                yield self._likely_pairs(order, bucket_starts, start)

    def _likely_pairs(self, order: Rows, bucket_starts: Rows, start: int) -> tuple[Rows, Rows]:
        """Return pairs of the captions at a block of places with those before them whose sketches are near enough."""
        places = np.arange(start, min(start + PLACES_PER_BLOCK, len(order)))
        starts = bucket_starts[places]
        # The nearest before them, and their bucket's first; a place beside itself is compared with nothing.
        near = [np.where(places - hop >= starts, places - hop, places) for hop in range(1, NEIGHBOURS + 1)]
        found = []
        for others in (*near, np.where(places - starts > NEIGHBOURS, starts, places)):
            is_pair = others < places
            left, right = order[others[is_pair]], order[places[is_pair]]
            same_figures = self._marks[left] == self._marks[right]
            left, right = left[same_figures], right[same_figures]
            differing = np.bitwise_count(self._sketches[left] ^ self._sketches[right]).sum(axis=1, dtype=np.int64)
            likely = NUM_BANDS * ROWS_PER_BAND - differing >= MIN_EQUAL_BITS
            low, high = np.minimum(left, right)[likely], np.maximum(left, right)[likely]
            found.append(low * len(self._sketches) + high)
        return np.divmod(np.unique(np.concatenate(found)), len(self._sketches))


def _crowded(band: Words, inner_keys: Sequence[Words]) -> tuple[Rows, Rows]:
    """Return captions that share the band with another, bucket by bucket, and for each place where its bucket begins.

    Within a bucket they lie in the order of their numbers and another band: captions that are alike have the same
    numbers and often share that band too, and then lie beside each other, however crowded the bucket is.
    """
    order = np.argsort(band, kind="stable")
    same = np.diff(band[order]) == 0
    order = order[np.append(same, False) | np.insert(same, 0, False)] if len(order) else order
    order = order[np.lexsort((*(key[order] for key in inner_keys), band[order]))]
    is_start = np.diff(band[order], prepend=~band[order][:1]) != 0
    return order, np.maximum.accumulate(np.where(is_start, np.arange(len(order)), 0))


def _signatures(keys: Sequence[str]) -> tuple[Words, Words]:
    """Return what is kept of the minima of some captions.

    Returns:
        Bands, shape (NUM_BANDS, captions): equal where all minima of a band are. Sketches, shape (captions,
        SKETCH_WORDS): a well-mixed bit a minimum, from which a similarity can be guessed.
    """
    hashes, starts = _run_hashes(keys)
    minima = np.empty((len(_PERMUTATIONS), len(keys)), np.uint32)
    permuted = np.empty_like(hashes)
    for row, (multiplier, summand) in zip(minima, _PERMUTATIONS, strict=True):
        np.multiply(hashes, multiplier, out=permuted)
        np.add(permuted, summand, out=permuted)
        np.minimum.reduceat(permuted, starts, out=row)
    bands = np.zeros((NUM_BANDS, len(keys)), np.uint64)
    for rows in minima.reshape(NUM_BANDS, ROWS_PER_BAND, -1).swapaxes(0, 1):
        bands = (bands + rows) * _MIX
        bands ^= bands >> _HALF
    bits = (minima * np.uint32(0x9E3779B1)) >> np.uint32(31)
    packed = np.packbits(bits.astype(np.uint8), axis=0, bitorder="little")
    return bands, np.ascontiguousarray(packed.T).view(np.uint64)


def _run_hashes(keys: Sequence[str]) -> tuple[NDArray[np.uint32], Rows]:
    """Return 32 well-mixed bits of each of all captions' runs, one caption after the other, and where each's begin."""
    padded = [_padded(key) for key in keys]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    num_runs = np.fromiter(map(len, padded), np.int64, len(padded)) - (RUN - 1)
    starts = np.cumsum(num_runs) - num_runs
    # A run that would reach into the next caption is none: each caption has three fewer runs than characters.
    places = np.arange(num_runs.sum()) + np.repeat((RUN - 1) * np.arange(len(padded)), num_runs)
    last = len(codes) - (RUN - 1)
    parts = [codes[at : last + at] * multiplier for at, multiplier in enumerate(_RUN_MULTIPLIERS)]
    short = sum(parts[1:IDEOGRAPHIC_RUN], parts[0])
    sums = np.where(codes[:last] >= FIRST_IDEOGRAPH, short, sum(parts[IDEOGRAPHIC_RUN:], short))[places]
    sums = (sums ^ (sums >> _HALF)) * _MIX
    return (sums >> _HALF).astype(np.uint32), starts


def _padded(key: str) -> str:
    """Put white space around a caption, so that its first and last words count as words, and it has a run at least."""
    ideographic = not key.isascii() and ord(max(key)) >= FIRST_IDEOGRAPH
    end = " " * (RUN - 1) if ideographic else " "
    return f" {key}{end}".ljust(RUN)


def figure_marks(keys: Sequence[str]) -> Words:
    """Return a number for each caption's `figures_of`: equal where those are, and zero where there are none."""
    marks = np.zeros(len(keys), np.uint64)
    for at, key in enumerate(keys):
        if figures := figures_of(key):
            digest = hashlib.blake2b(" ".join(figures).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            marks[at] = int.from_bytes(digest, "little")
    return marks


def figures_of(key: str) -> list[str]:
    """Return what may not differ: numbers in their order, with sign and separators; words with digits; symbols."""
    if not _MARKED.search(key):
        return []
    words = sorted({word for word in split_tokens(key) if _DIGIT.search(word)})
    signs = (sign for sign in _MARKED.findall(key) if sign not in _PLAIN_SYMBOLS)
    symbols = sorted(sign for sign in signs if unicodedata.category(sign).startswith("S"))
    return [*_NUMBER.findall(key), *words, *symbols]

"""Streams of captions on the disk, longer than memory: each distinct one once, by number; which ones repeat."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cleaning.duplicates import exact_key

# Texts are told apart by 16 bytes of a hash: among a thousand million of them, the odds that any two share those are
# below one in 10**20.
DIGEST = np.dtype([("first", "<u8"), ("second", "<u8")])
DIGESTS_PER_PART = 250_000  # sorted at a time
MAX_BYTES_AT_ONCE = 32 * 1024 * 1024


class CaptionStore:
    """The exact keys of captions in a file, and which rows have equal ones.

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


class TextDigests:
    """The digests of a stream of texts, kept in a file.

    Args:
        path: of a new file, 16 bytes a text; the caller removes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def add(self, texts: Iterable[str]) -> None:
        """Append texts to the stream."""
        digests = [hashlib.blake2b(text.encode(), digest_size=DIGEST.itemsize).digest() for text in texts]
        self.count += len(digests)
        with self.path.open("ab") as file:
            file.write(b"".join(digests))

    def repeats(self) -> npt.NDArray[np.bool_]:
        """For each text of the stream, in order, whether the same text came before it."""
        repeats = np.zeros(self.count, np.bool_)
        num_parts = -(-self.count // DIGESTS_PER_PART)
        for part in range(num_parts):
            places, digests = self._part(part, num_parts)
            order = np.lexsort((digests["second"], digests["first"]))  # stable: of equal digests, the earliest is first
            digests = digests[order]
            repeats[places[order[1:][digests[1:] == digests[:-1]]]] = True
        return repeats

    def _part(self, part: int, num_parts: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.void]]:
        """One of several parts of the digests, equal ones in the same part, with their places in the stream."""
        places, digests = [], []
        for start in range(0, self.count, DIGESTS_PER_PART):
            block = np.fromfile(self.path, DIGEST, DIGESTS_PER_PART, offset=start * DIGEST.itemsize)
            found = np.flatnonzero(block["first"] % num_parts == part)
            places.append(found + start)
            digests.append(block[found])
        return np.concatenate(places), np.concatenate(digests)

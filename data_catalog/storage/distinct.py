"""Which texts of a stream repeat an earlier one: for streams of any length, in bounded memory."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Texts are told apart by 16 bytes of a hash: among a thousand million of them, the odds that any two share those are
# below one in 10**20.
DIGEST = np.dtype([("first", "<u8"), ("second", "<u8")])
DIGESTS_PER_PART = 250_000  # sorted at a time


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

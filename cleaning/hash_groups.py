"""Rows grouped by their hash, so that 10,000 rows of one hash are one thing to look for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cleaning.hamming import Hashes, Rows, dealt

_CHUNK = 1 << 14


@dataclass(frozen=True, slots=True)
class HashGroups:
    """Distinct hashes, bits dealt out, ascending; the rows of number i are `rows[begins[i]:begins[i + 1]]`."""

    hashes: Hashes
    rows: Rows
    begins: Rows

    @classmethod
    def of(cls, hashes: Hashes) -> "HashGroups":
        """All rows, those of a group in order."""
        mixed = dealt(hashes)
        order = np.argsort(mixed, kind="stable")
        ordered = mixed[order]
        begins = np.flatnonzero(np.diff(ordered, prepend=~ordered[:1]))
        return cls(ordered[begins], order, np.append(begins, len(order)))

    @property
    def first(self) -> Rows:
        """The first row of each group."""
        return self.rows[self.begins[:-1]]

    def stars(self) -> Rows:
        """Pairs (first row of a group, another one of it)."""
        counts = np.diff(self.begins)
        is_other = np.ones(len(self.rows), bool)
        is_other[self.begins[:-1]] = False
        return np.column_stack([np.repeat(self.first, counts)[is_other], self.rows[is_other]])

    def only(self, kept: NDArray[np.bool_]) -> "HashGroups":
        """The same groups, with some of their rows; at least one of each.

        Args:
            kept: which of `rows`.
        """
        counts = np.concatenate([[0], np.cumsum(kept)])
        return HashGroups(self.hashes, self.rows[kept], counts[self.begins])


def products(positions: Rows, mine: HashGroups, theirs: HashGroups) -> Iterator[Rows]:
    """All pairs (row of one group, row of the other) of pairs of groups, a bounded number at a time."""
    low, low_other = mine.begins[positions[:, 0]], theirs.begins[positions[:, 1]]
    width = theirs.begins[positions[:, 1] + 1] - low_other
    ends = np.cumsum((mine.begins[positions[:, 0] + 1] - low) * width)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _CHUNK):
        number = np.arange(start, min(start + _CHUNK, total))
        at = np.searchsorted(ends, number, side="right")
        within = number - np.where(at > 0, ends[at - 1], 0)
        row, other = np.divmod(within, width[at])
        yield np.column_stack([mine.rows[low[at] + row], theirs.rows[low_other[at] + other]])


def joined(star: Rows, firsts: Rows) -> Rows:
    """For each pair (first, other) of `star` and (first, match) of `firsts`: (other, match)."""
    by_first = firsts[np.argsort(firsts[:, 0], kind="stable")]
    low, high = (np.searchsorted(by_first[:, 0], star[:, 0], side=side) for side in ("left", "right"))
    counts = high - low
    places = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return np.column_stack([np.repeat(star[:, 1], counts), by_first[places, 1]])


def in_order(parts: list[Rows]) -> Rows:
    """All pairs, sorted by both columns; shape (num_pairs, 2), also where there are none."""
    pairs = np.concatenate([np.empty((0, 2), np.int64), *parts])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]

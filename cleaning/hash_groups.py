"""Rows grouped by their hash, so that 10,000 rows of one hash are one thing to look for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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

    def sizes(self, positions: Rows) -> Rows:
        """How many rows groups have."""
        return self.begins[positions + 1] - self.begins[positions]

    def with_themselves(self) -> Rows:
        """Pairs of positions (group, the same group) of the groups of several rows."""
        return np.repeat(np.flatnonzero(np.diff(self.begins) > 1)[:, None], 2, axis=1)


def num_products(positions: Rows, mine: HashGroups, theirs: HashGroups) -> int:
    """How many pairs `products` has."""
    return int((mine.sizes(positions[:, 0]) * theirs.sizes(positions[:, 1])).sum())


def products(positions: Rows, mine: HashGroups, theirs: HashGroups) -> Iterator[Rows]:
    """All pairs (row of one group, row of the other) of pairs of groups, a bounded number at a time."""
    low, low_other = mine.begins[positions[:, 0]], theirs.begins[positions[:, 1]]
    width = theirs.sizes(positions[:, 1])
    ends = np.cumsum(mine.sizes(positions[:, 0]) * width)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _CHUNK):
        number = np.arange(start, min(start + _CHUNK, total))
        at = np.searchsorted(ends, number, side="right")
        within = number - np.where(at > 0, ends[at - 1], 0)
        row, other = np.divmod(within, width[at])
        yield np.column_stack([mine.rows[low[at] + row], theirs.rows[low_other[at] + other]])

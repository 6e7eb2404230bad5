"""All pairs of 64-bit hashes that differ in few bits, found exactly without comparing all with all.

Cut the bits into `max_distance + k` blocks: whatever two hashes differ in, k blocks of theirs are equal. So for each
choice of k blocks, sort by these and compare only what agrees in them: pigeonholes, as in Manku, Jain and Das Sarma,
"Detecting near-duplicates for web crawling" (2007).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from data_catalog.errors import SettingsError

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]

MAX_DISTANCE = 16
_BITS = 64
# Bits are dealt out with this stride before they are cut: neighbours in a pHash go together, so that blocks of
# neighbours tell few pictures apart. Odd, hence a permutation; measured on photographs, clip art and drawn scenes.
_STRIDE = 19
_CHUNK = 1 << 17  # of rows: what is worked on at once stays in a processor's cache
_PRODUCTS_AT_ONCE = 1 << 14
_SAMPLE = 100_000
# Costs in nanoseconds, by `benchmarks/near_images.py`: they decide how fine the blocks are, never what is found.
_NS_SORTED = 110.0  # a row in a table
_NS_PROBED = 30.0  # a row held against a table of references
_NS_COMPARED = 8.0  # two hashes
_NS_KEY = 40.0  # an entry of a table of references
_MAX_KEY_BITS = 24  # of a table of references, which has an entry for each key


def require_distance(max_distance: int) -> None:
    """Raise SettingsError unless the distance is between 0 and 16 bits."""
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise SettingsError(f"a distance of hashes must be between 0 and {MAX_DISTANCE} bits, got {max_distance}")


def dealt(hashes: Hashes) -> Hashes:
    """The hashes with their bits in another order, which leaves distances alone."""
    out = np.zeros_like(hashes, dtype=np.uint64)
    for start in range(0, len(hashes), _CHUNK):
        part, target = hashes[start : start + _CHUNK], out[start : start + _CHUNK]
        for bit in range(_BITS):
            target |= ((part >> np.uint64(bit)) & np.uint64(1)) << np.uint64(bit * _STRIDE % _BITS)
    return out


@dataclass(frozen=True, slots=True)
class _Table:
    """One choice of blocks, which are moved to the top of the word.

    Args:
        moves: (mask, left shift) of each run of bits; a negative shift is one to the right.
        key_bits: how many bits the chosen blocks have together.
        earlier: masks of the blocks that were passed over before the last chosen one.
    """

    moves: tuple[tuple[int, int], ...]
    key_bits: int
    earlier: tuple[int, ...]

    def keyed(self, hashes: Hashes) -> Hashes:
        """The hashes with the chosen bits on top."""
        return _moved(hashes, self.moves)

    def original(self, hashes: Hashes) -> Hashes:
        """Undo `keyed`."""
        back = ((mask << shift if shift >= 0 else mask >> -shift, -shift) for mask, shift in self.moves)
        return _moved(hashes, tuple(back))

    def is_first(self, differences: Hashes) -> NDArray[np.bool_]:
        """Which pairs, by the bits that differ, no earlier table has: all of them meet in some, most in several."""
        first = np.ones(len(differences), bool)
        for mask in self.earlier:
            first &= (differences & np.uint64(mask)) != 0
        return first


def _moved(hashes: Hashes, moves: tuple[tuple[int, int], ...]) -> Hashes:
    out = np.zeros_like(hashes)
    for start in range(0, len(hashes), _CHUNK):
        part, target = hashes[start : start + _CHUNK], out[start : start + _CHUNK]
        for mask, shift in moves:
            chosen = part & np.uint64(mask)
            target |= chosen << np.uint64(shift) if shift >= 0 else chosen >> np.uint64(-shift)
    return out


def _tables(max_distance: int, num_equal: int) -> Iterator[_Table]:
    """One for each choice of `num_equal` blocks, in lexicographic order."""
    num_blocks = max_distance + num_equal
    edges = [block * _BITS // num_blocks for block in range(num_blocks + 1)]
    masks = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    for chosen in combinations(range(num_blocks), num_equal):
        others = [block for block in range(num_blocks) if block not in chosen]
        moves, end = [], _BITS
        for block in (*chosen, *others):
            end -= edges[block + 1] - edges[block]
            moves.append((masks[block], end - edges[block]))
        key_bits = sum(edges[block + 1] - edges[block] for block in chosen)
        earlier = [masks[block] for block in others if chosen and block < chosen[-1]]
        yield _Table(_merged(moves), key_bits, tuple(earlier))


def _merged(moves: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Blocks that move equally far move together."""
    by_shift: dict[int, int] = {}
    for mask, shift in moves:
        by_shift[shift] = by_shift.get(shift, 0) | mask
    return tuple((mask, shift) for shift, mask in by_shift.items())


def near_distinct(hashes: Hashes, max_distance: int, *, num_equal: int | None = None) -> Iterator[Rows]:
    """Pairs of positions in an ascending array without equal hashes, each pair once, in several parts.

    Args:
        hashes: of shape (num,).
        max_distance: in bits.
        num_equal: how many blocks are to be equal; by default what is quickest, by a sample.
    """
    if len(hashes) < 2 or max_distance == 0:
        return
    if num_equal is None:
        num_equal = _best_for_pairs(hashes, max_distance)
    for table in _tables(max_distance, num_equal):
        keyed = table.keyed(hashes)
        keyed.sort()
        for one, difference in _near_in_runs(keyed, _BITS - table.key_bits, max_distance):
            originals, differences = table.original(one), table.original(difference)
            new = table.is_first(differences)
            pair = (originals[new], originals[new] ^ differences[new])
            yield np.column_stack([np.searchsorted(hashes, value) for value in pair])


def _near_in_runs(keyed: Hashes, free_bits: int, max_distance: int) -> Iterator[tuple[Hashes, Hashes]]:
    """Of hashes in order: one hash, and what another with the same key differs from it in, for all near pairs."""
    for start in range(0, len(keyed), _CHUNK):
        at = np.arange(start, min(start + _CHUNK, len(keyed)))
        hop = 1
        while len(at := at[at + hop < len(keyed)]):
            differences = keyed[at] ^ keyed[at + hop]
            if free_bits < _BITS:
                same = np.flatnonzero(differences >> np.uint64(free_bits) == 0)
                at, differences = at[same], differences[same]
            near = np.flatnonzero(np.bitwise_count(differences) <= max_distance)
            if len(near):
                yield keyed[at[near]], differences[near]
            hop += 1


def matches_of_distinct(
    hashes: Hashes, references: Hashes, max_distance: int, *, num_equal: int | None = None
) -> Iterator[Rows]:
    """Pairs (position, position of a reference) of two ascending arrays without equal hashes, each pair once.

    Arguments as of `near_distinct`; a table has an entry for each value of the equal blocks.
    """
    if not len(hashes) or not len(references):
        return
    if max_distance == 0:
        yield np.column_stack(np.intersect1d(hashes, references, assume_unique=True, return_indices=True)[1:])
        return
    if num_equal is None:
        num_equal = _best_for_matches(hashes, references, max_distance)
    for table in _tables(max_distance, num_equal):
        keyed = np.sort(table.keyed(references))
        shift = np.uint64(_BITS - table.key_bits)
        keys = np.arange((1 << table.key_bits) + 1, dtype=np.uint64)
        begins = np.searchsorted(keyed >> shift, keys) if table.key_bits else np.array([0, len(keyed)])
        for start in range(0, len(hashes), _CHUNK):
            part = table.keyed(hashes[start : start + _CHUNK])
            key = (part >> shift).astype(np.int64) if table.key_bits else np.zeros(len(part), np.int64)
            for at, other in _near_in_buckets(part, keyed, (begins[key], begins[key + 1]), max_distance):
                new = table.is_first(table.original(part[at] ^ keyed[other]))
                found = np.searchsorted(references, table.original(keyed[other[new]]))
                yield np.column_stack([start + at[new], found])


def _near_in_buckets(
    part: Hashes, references: Hashes, bounds: tuple[Rows, Rows], max_distance: int
) -> Iterator[tuple[Rows, Rows]]:
    """Positions in `part` and in `references`, of which each row is compared with those within its bounds."""
    at = np.arange(len(part))
    other, end = bounds
    while len(going := np.flatnonzero(other < end)):
        at, other, end = at[going], other[going], end[going]
        near = np.flatnonzero(np.bitwise_count(part[at] ^ references[other]) <= max_distance)
        if len(near):
            yield at[near], other[near]
        other = other + 1


def _best_for_pairs(hashes: Hashes, max_distance: int) -> int:
    """How many blocks are to be equal, by a sample: real hashes agree far more often than chance has it."""
    num_pairs = len(hashes) ** 2 / 2

    def cost(num_equal: int) -> float:
        tables = math.comb(max_distance + num_equal, num_equal)
        rate = _collision_rate(hashes, hashes, max_distance, num_equal)
        return tables * (_NS_SORTED * len(hashes) * (num_equal > 0) + _NS_COMPARED * num_pairs * rate)

    return min(range(6), key=cost)


def _best_for_matches(hashes: Hashes, references: Hashes, max_distance: int) -> int:
    """The same for rows held against references."""

    def cost(num_equal: int) -> float:
        tables = math.comb(max_distance + num_equal, num_equal)
        rate = _collision_rate(hashes, references, max_distance, num_equal)
        compared = _NS_COMPARED * len(hashes) * len(references) * rate
        entries = _NS_KEY * (1 << key_bits(num_equal))
        return tables * (_NS_PROBED * len(hashes) + _NS_SORTED * len(references) + entries + compared)

    def key_bits(num_equal: int) -> int:
        return math.ceil(_BITS * num_equal / (max_distance + num_equal))

    return min((length for length in range(6) if key_bits(length) <= _MAX_KEY_BITS), key=cost)


def _collision_rate(hashes: Hashes, others: Hashes, max_distance: int, num_equal: int) -> float:
    """Share of pairs that agree in the first choice of blocks, by evenly drawn samples."""
    table = next(_tables(max_distance, num_equal))
    if table.key_bits == 0:
        return 1.0
    samples = [some[:: max(1, len(some) // _SAMPLE)] for some in (hashes, others)]
    keys = [np.unique(table.keyed(some) >> np.uint64(_BITS - table.key_bits), return_counts=True) for some in samples]
    _, at, at_other = np.intersect1d(keys[0][0], keys[1][0], assume_unique=True, return_indices=True)
    counts = keys[0][1][at].astype(float), keys[1][1][at_other].astype(float)
    met = float((counts[0] * counts[1]).sum()) - (len(samples[0]) if hashes is others else 0)
    return max(met, 1.0) / (len(samples[0]) * len(samples[1]))


@dataclass(frozen=True, slots=True)
class HashGroups:
    """Rows grouped by their hash, so that 10,000 rows of one hash are one thing to look for.

    Distinct hashes, bits dealt out, ascending; the rows of number i are `rows[begins[i]:begins[i + 1]]`.
    """

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
    for start in range(0, total, _PRODUCTS_AT_ONCE):
        number = np.arange(start, min(start + _PRODUCTS_AT_ONCE, total))
        at = np.searchsorted(ends, number, side="right")
        within = number - np.where(at > 0, ends[at - 1], 0)
        row, other = np.divmod(within, width[at])
        yield np.column_stack([mine.rows[low[at] + row], theirs.rows[low_other[at] + other]])

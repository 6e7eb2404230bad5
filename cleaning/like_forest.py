"""Which captions hang together by pairs that are alike, and clusters of those that are like their cluster's first."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

# So many new pairs are kept, or a quarter of the old ones, before those that connect nothing new are thrown away.
MAX_NEW_PAIRS = 20_000
# A caption is compared with so many first captions of those that it hangs together with, and those of its neighbours.
MAX_LEADERS = 16

Numbers = npt.NDArray[np.int64]


class LikeForest:
    """Captions and pairs of them that are alike: no more pairs than are needed to connect what is connected.

    Memory: 8 bytes a caption, 16 a pair.
    """

    def __init__(self, num_captions: int) -> None:
        self.num_captions = num_captions
        self._pairs = np.empty((2, 0), np.int64)
        self._num_settled = 0
        self._components = np.arange(num_captions)

    def unconnected(self, left: Numbers, right: Numbers) -> Numbers:
        """Those of some pairs that would connect something, as far as is known; shape (2, pairs)."""
        news = self._components[left] != self._components[right]
        return np.stack((left[news], right[news]))

    def connect(self, pairs: Numbers) -> None:
        """Add pairs that are alike; shape (2, pairs), the first number below the second."""
        self._pairs = np.concatenate((self._pairs, pairs), axis=1)
        if self._pairs.shape[1] > self._num_settled + max(MAX_NEW_PAIRS, self._num_settled // 4):
            self.settle()

    def settle(self) -> None:
        """Throw away pairs that connect nothing which those before them do not."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

        if not self._pairs.size:
            return
        _, places = np.unique(self._pairs[0] * self.num_captions + self._pairs[1], return_index=True)
        self._pairs = self._pairs[:, np.sort(places)]
        nodes, ends = np.unique(self._pairs, return_inverse=True)
        ends = ends.reshape(self._pairs.shape)
        # All weights differ, so that there is one least tree only.
        weights = np.arange(1, ends.shape[1] + 1, dtype=np.float64)
        tree = minimum_spanning_tree(coo_array((weights, ends), (len(nodes), len(nodes))).tocsr())
        self._pairs = self._pairs[:, np.sort(tree.data).astype(np.int64) - 1]
        self._num_settled = self._pairs.shape[1]
        _, labels = connected_components(tree, directed=False)
        _, firsts = np.unique(labels, return_index=True)
        self._components[nodes] = nodes[firsts][labels]

    def components(self) -> Iterator[tuple[Numbers, list[Numbers]]]:
        """Per connected component, its captions, ascending, and for each the lower ones that it has a pair with."""
        self.settle()
        nodes = np.unique(self._pairs)
        nodes = nodes[np.lexsort((nodes, self._components[nodes]))]
        lower, upper = self._pairs[:, np.lexsort(self._pairs)]
        begins, ends = np.searchsorted(upper, nodes), np.searchsorted(upper, nodes, side="right")
        starts = np.flatnonzero(np.diff(self._components[nodes], prepend=-1))
        for start, stop in itertools.pairwise([*starts.tolist(), len(nodes)]):
            yield nodes[start:stop], [lower[begins[at] : ends[at]] for at in range(start, stop)]


def first_like_captions(forest: LikeForest, key: Callable[[int], str], alike: Callable[[str, str], bool]) -> Numbers:
    """For each caption, the first of its cluster: the lowest one that it is like, of those that are first themselves.

    Args:
        key: the text of a caption by its number.
    """
    leaders = np.arange(forest.num_captions)
    for members, neighbours in forest.components():
        firsts: list[int] = []
        for member, lower in zip(members.tolist(), neighbours, strict=True):
            near = set(lower.tolist())
            tried = sorted({*firsts[:MAX_LEADERS], *leaders[lower].tolist()})
            text = key(member) if tried and not near.issuperset(tried) else ""
            found = next((first for first in tried if first in near or alike(key(first), text)), member)
            leaders[member] = found
            if found == member:
                firsts.append(member)
    return leaders

"""Pictures that a set has twice, under two names: no model can tell them apart, so that it looks worse than it is."""

import hashlib
from collections.abc import Callable, Iterable

from training.galleries import Gallery, LabelledImages


class WatchedReader:
    """Reads a set's images as it does, and remembers what each one's bytes were."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._digests: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """See `Gallery.read`; may be called from several threads."""
        raw = self._read(name)
        self._digests[name] = hashlib.blake2b(raw, digest_size=16).digest()
        return raw

    def groups(self, names: Iterable[str]) -> list[list[str]]:
        """Those of the names, two or more together, that had the same bytes when they were read."""
        found: dict[bytes, list[str]] = {}
        for name in dict.fromkeys(names):
            if name in self._digests:
                found.setdefault(self._digests[name], []).append(name)
        return [group for group in found.values() if len(group) > 1]


def copies_note(test_set: Gallery | LabelledImages, there: Iterable[int], watched: WatchedReader) -> tuple[str, ...]:
    """A sentence on the copies of a set, if there are any that count: of classes, those with more than one class.

    Args:
        test_set: whose images were read.
        there: places of those that were scored.
        watched: what read them.
    """
    groups = watched.groups(test_set.images[place] for place in sorted(there))
    if isinstance(test_set, LabelledImages):
        labels = dict(zip(test_set.images, test_set.labels, strict=True))
        groups = [group for group in groups if len({labels[name] for name in group}) > 1]
        meaning = "under different classes: one of them at most can be found right"
    else:
        meaning = "so nothing tells them apart: captions of theirs never find their own image first"
    if not groups:
        return ()
    count = sum(map(len, groups))
    return (f"{count:,} images have the same bytes as another of the set ({groups[0][0]}, {groups[0][1]}), {meaning}",)

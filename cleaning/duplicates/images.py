"""Which of a dataset's images stay where several are the same or look it, and none in two splits: numbers in and out.

Images are rows, by number. What was dropped stays dropped when more images come, though it may then look like none that
stays: whoever tries again for images that are missing relies on it, since the bytes of what was dropped are not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cleaning.duplicates.hamming import Hashes
from cleaning.duplicates.near_images import Looks, Thumbnails, first_alike, first_staying, require_likeness
from data_catalog.errors import SettingsError

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

IMAGE_CRITERIA = ("source", "resolution", "captions")


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatesConfig:
    """Images that are the same or look it, over all sources, and what stands for images that are gone."""

    images: bool = True
    """Keep one of several samples whose images have the same bytes."""
    near_images: bool = True
    """Keep one of several samples whose images look the same."""
    max_distance: int = 6
    """Most bits, of 64, in which the perceptual hashes (`phash`) of two images that look the same differ."""
    max_thumbnail_difference: float = 0.2
    """Largest difference of the thumbnails of two images that look the same: 0 for equal ones, 1 for unlike ones. They
    have 8 by 8 pixels, and see colours, which the hashes do not."""
    keep: tuple[str, ...] = IMAGE_CRITERIA
    """Criteria that decide which sample stays, first things first: the better "source", the highest "resolution" before
    resizing, the most "captions"; then the lowest id."""
    sources: tuple[str, ...] = ()
    """Names of all sources of the recipe, the best first. Empty takes them in the order of the recipe."""
    merge_captions: bool = False
    """Publish the captions of the dropped samples with the image that stays."""
    split_guard: bool = True
    """Keep images that look the same out of several splits: those of train are dropped (and of val, where test has
    one), even if `images` or `near_images` are off."""
    captions: bool = True
    """Drop captions that an earlier one of the same image says already, but for case, width, white space and final
    punctuation."""
    placeholder_urls: int = 10
    """Addresses of one host that must bring the same bytes for these to be a placeholder, a picture of nothing: at
    least 2. 0 lets any number of them bring the same."""

    def __post_init__(self) -> None:
        require_likeness("duplicates", self.max_distance, self.max_thumbnail_difference)
        if self.placeholder_urls < 0 or self.placeholder_urls == 1:
            raise SettingsError(f"duplicates.placeholder_urls must be 0, or at least 2, got {self.placeholder_urls}")
        for name in self.keep:
            if name not in IMAGE_CRITERIA:
                raise SettingsError(f"duplicates.keep names {name!r}: there are {', '.join(IMAGE_CRITERIA)}")
        if len(set(self.keep)) < len(self.keep):
            raise SettingsError("duplicates.keep names a criterion twice")

    def source_order(self, names: Sequence[str]) -> list[str]:
        """The names of a recipe's sources, the best first.

        Raises:
            SettingsError: `sources` names others, or not all of them, or one twice.
        """
        if self.sources and sorted(self.sources) != sorted(names):
            raise SettingsError(
                f"duplicates.sources must name each source of the recipe once ({', '.join(names)}), got "
                f"{', '.join(self.sources)}"
            )
        return list(self.sources or names)


class Verdict(IntEnum):
    """What becomes of an image."""

    KEEP = 0
    PLACEHOLDER = 1
    SPLIT_LEAK = 2
    DUPLICATE = 3
    NEAR_DUPLICATE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What is known of each image; all arrays have one number a row.

    Args:
        same_bytes: the first row whose image has the same bytes.
        hashes: perceptual hashes.
        preference: place among all, the best first.
        split: 0, or the higher the less it may be shared: of train, val and test 0, 1 and 2.
        placeholder: its bytes are a host's stand-in for images that are gone.
        left_out: belongs to a test set: it is no one's duplicate.
        thumbnails: of shape (rows, 192); may lie on disk.
    """

    same_bytes: Ints
    hashes: Hashes
    preference: Ints
    split: Ints
    placeholder: Flags
    left_out: Flags
    thumbnails: Thumbnails


def judge_images(images: Images, config: DuplicatesConfig) -> tuple[Ints, Ints]:
    """What becomes of every image that is not left out.

    Images that look like the bytes of a stand-in are one, too. Of the others, the least shared split and in it the
    best preference first, each one stays unless it looks like one that stays already: no chain of small steps leads
    from an image to an unlike one.

    Returns:
        The `Verdict` of each row, and the row on whose account it is (of a row that stays: itself).
    """
    judge = _Judge(images, config)
    judge.drop_stand_ins()
    if config.near_images:
        judge.drop_alike()
    else:
        if config.split_guard:
            judge.drop_shared_splits()
        if config.images:
            judge.drop_equal()
    return judge.verdicts, judge.account


class _Judge:
    """Verdicts so far."""

    def __init__(self, images: Images, config: DuplicatesConfig) -> None:
        self.verdicts = np.full(len(images.hashes), Verdict.KEEP, np.int64)
        self.account = np.arange(len(images.hashes))
        self._images = images
        self._config = config
        self._looks = _looks(images, config)

    def drop_stand_ins(self) -> None:
        """Drop what has the bytes of a stand-in, or looks like them."""
        images = self._images
        rows = np.flatnonzero(images.placeholder & ~images.left_out)
        rows = rows[np.argsort(images.preference[rows])]
        first = self._first_of_bytes(rows)
        self.verdicts[rows], self.account[rows] = Verdict.PLACEHOLDER, first[images.same_bytes[rows]]
        if self._config.near_images:
            others = np.flatnonzero(self._staying())
            found = self._first_alike(others, rows[self.account[rows] == rows])
            alike = found >= 0
            self.verdicts[others[alike]], self.account[others[alike]] = Verdict.PLACEHOLDER, found[alike]

    def drop_alike(self) -> None:
        """Of what looks the same, drop all but the first."""
        rows = self._ordered(self._staying())
        self._drop(rows, first_staying(self._looks, rows))

    def drop_shared_splits(self) -> None:
        """Drop what looks like an image that stays of a less shared split."""
        split = self._images.split
        for level in np.unique(split)[::-1]:
            rows = self._ordered(self._staying() & (split == level))
            self._drop(rows, self._first_alike(rows, self._ordered(self._staying() & (split > level))))

    def drop_equal(self) -> None:
        """Of what has the same bytes, drop all but the first."""
        first = self._first_of_bytes(self._ordered(self._staying()))
        rows = self._ordered(self._staying())
        self._drop(rows, first[self._images.same_bytes[rows]])

    def _staying(self) -> Flags:
        staying: Flags = (self.verdicts == Verdict.KEEP) & ~self._images.left_out
        return staying

    def _ordered(self, chosen: Flags) -> Ints:
        """Rows, the first to stay first."""
        rows = np.flatnonzero(chosen)
        levels = self._images.split[rows] * self._config.split_guard
        ordered: Ints = rows[np.lexsort((self._images.preference[rows], -levels))]
        return ordered

    def _first_of_bytes(self, ordered: Ints) -> Ints:
        """By `same_bytes`, the first of some rows that has these bytes, or -1."""
        first = np.full(len(self.account), -1, np.int64)
        first[self._images.same_bytes[ordered[::-1]]] = ordered[::-1]  # the last one written counts
        return first

    def _first_alike(self, rows: Ints, others: Ints) -> Ints:
        if not len(rows) or not len(others):
            return np.full(len(rows), -1, np.int64)
        return first_alike(self._looks, rows, others)

    def _drop(self, rows: Ints, others: Ints) -> None:
        """Drop rows on account of others; those stay that have none (-1), or are it themselves."""
        images, chosen = self._images, (others >= 0) & (others != rows)
        rows, others = rows[chosen], others[chosen]
        same = images.same_bytes[rows] == images.same_bytes[others]
        is_leak = self._config.split_guard & (images.split[rows] < images.split[others])
        looks = np.where(same, Verdict.DUPLICATE, Verdict.NEAR_DUPLICATE)
        self.verdicts[rows] = np.where(is_leak, Verdict.SPLIT_LEAK, looks)
        self.account[rows] = others


def _looks(images: Images, config: DuplicatesConfig) -> Looks:
    return Looks(
        hashes=images.hashes,
        thumbnails=images.thumbnails,
        max_distance=config.max_distance,
        max_difference=config.max_thumbnail_difference,
    )

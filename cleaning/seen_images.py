"""Which images of a test set a dataset trains on: by what they are known by, by their bytes, by how they look."""

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from cleaning.leaks import LeaksConfig
from data_catalog.database.connections import questions
from data_catalog.identities import canonical_identities
from data_catalog.progress import Progress
from data_catalog.storage.manifest import Snapshot

if TYPE_CHECKING:
    from data_catalog.images.views import View

# A copy that was only encoded or sized anew is nearer than this, and two drawings on one ground hardly ever are: a
# build's guard may drop an image on a weaker suspicion than that on which a score may be refused.
SURE_DISTANCE, SURE_DIFFERENCE = 4, 0.1

# Validation chooses the epoch that is kept: what it sees, training has seen.
SEEN_SPLITS = ("train", "val")
SEEN = f"SELECT sample_id FROM pairs WHERE split IN {SEEN_SPLITS}"

# Captions of a merged image speak of the one that stays.
PLACES = f"""
    SELECT DISTINCT source, sample_id, url, path, page_url, coalesce(merged_into, sample_id) AS staying
    FROM captions WHERE outcome = 'kept' AND staying IN ({SEEN}) ORDER BY ALL
"""

LOOKS = f"""
    SELECT sample_id, sha256, phash, thumbnail
    FROM image_outcomes WHERE phash IS NOT NULL AND sample_id IN ({SEEN}) ORDER BY sample_id
"""


class SeenImages:
    """The images that a snapshot has to train and validate on, read once for all sets that are compared with them.

    Args:
        snapshot: that a model was trained on.
        leaks: by what images are compared, and how much images that look the same may differ.
    """

    def __init__(self, snapshot: Snapshot, leaks: LeaksConfig) -> None:
        self._snapshot, self._leaks = snapshot, leaks

    def among(
        self, names: Sequence[str], identities: Sequence[Collection[str]], read: Callable[[str], bytes]
    ) -> tuple[dict[int, tuple[str, bool]], tuple[str, ...]]:
        """Return which images of a set are among them.

        Args:
            names: of the set's images.
            identities: all that each of them is known by, as `data_catalog.identities` spells it.
            read: bytes of an image by name; raises OSError where there are none.

        Returns:
            By place, why, and whether that is sure; and by what they were compared, such as "identity".
        """
        found = self._by_pixels(names, read)
        ways = ["bytes", "looks"] if self._leaks.by_pixels else ["bytes"]
        if self._leaks.by_identity and any(identities):
            found |= self._by_identity(identities)
            ways.insert(0, "identity")
        return {place: seen for place, seen in found.items() if _is_there(names[place], read)}, tuple(ways)

    @cached_property
    def _identities(self) -> dict[str, str]:
        """The sample of each identity."""
        kinds = {name: entry["kind"] for name, entry in self._snapshot.manifest["settings"]["sources"].items()}
        known: dict[str, str] = {}
        with questions(self._snapshot) as ask:
            for batch in ask(PLACES).to_batches(max_chunksize=10_000):
                for row in batch.to_pylist():
                    staying, source = row.pop("staying"), row.pop("source")
                    known.update(dict.fromkeys(canonical_identities(source_kind=kinds[source], **row), staying))
        return known

    @cached_property
    def _looks(self) -> pa.Table:
        with questions(self._snapshot) as ask:
            return ask(LOOKS)

    def _by_identity(self, identities: Sequence[Collection[str]]) -> dict[int, tuple[str, bool]]:
        shared = ((place, min(self._identities.keys() & own, default=None)) for place, own in enumerate(identities))
        return {
            place: (f"{identity} is {self._identities[identity]}", True)
            for place, identity in shared
            if identity is not None
        }

    def _by_pixels(self, names: Sequence[str], read: Callable[[str], bytes]) -> dict[int, tuple[str, bool]]:
        columns = (self._looks.column(name).to_pylist() for name in ("sha256", "sample_id"))
        by_bytes = dict(zip(*columns, strict=True))
        found: dict[int, tuple[str, bool]] = {}
        views: list[View] = []
        places: list[int] = []
        with (
            warnings.catch_warnings(),
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
            Progress("compare with training images", total=len(names), unit="images") as progress,
        ):
            warnings.simplefilter("ignore")  # of Pillow's, on files that are large or odd; outside of the threads
            seen = pool.map(lambda name: _views_of(name, read, has_looks=self._leaks.by_pixels), names)
            for place, (digest, looks) in enumerate(seen):
                if digest in by_bytes:
                    found[place] = (f"the same bytes as {by_bytes[digest]}", True)
                views += looks
                places += [place] * len(looks)
                progress.advance(1)
        for is_sure in (True, False):
            for view, sample_id in self._alike(views, is_sure=is_sure):
                what = "the same picture as" if is_sure else "looks like"
                found.setdefault(places[view], (f"{what} {sample_id}", is_sure))
        return found

    def _alike(self, views: "Sequence[View]", *, is_sure: bool) -> Iterator[tuple[int, str]]:
        """Yield places of views that look like one of these images, and its sample; whole ones alone to be sure."""
        from cleaning.duplicates.near_images import leak_matches, parse_hashes, parse_thumbnails
        from data_catalog.images.views import WHOLE

        places = [place for place, view in enumerate(views) if view.view == WHOLE or not is_sure]
        if not places or not self._looks.num_rows:
            return
        hashes = pa.array([views[place].phash for place in places], pa.string())
        thumbnails = pa.array([views[place].thumbnail for place in places], pa.binary())
        leaks = self._leaks
        found = leak_matches(
            (parse_hashes(hashes), parse_thumbnails(thumbnails)),
            (parse_hashes(self._looks.column("phash")), parse_thumbnails(self._looks.column("thumbnail"))),
            max_distance=min(SURE_DISTANCE, leaks.max_distance) if is_sure else leaks.max_distance,
            max_difference=SURE_DIFFERENCE if is_sure else leaks.max_thumbnail_difference,
        )
        sample_ids = self._looks.column("sample_id")
        yield from ((places[view], sample_ids[row].as_py()) for view, row in found.tolist())


def _is_there(name: str, read: Callable[[str], bytes]) -> bool:
    try:
        return bool(read(name))
    except OSError:
        return False


def _views_of(name: str, read: Callable[[str], bytes], *, has_looks: bool) -> "tuple[str | None, list[View]]":
    """Return the hash of an image's bytes, and its looks: none where it is no picture, is not there or is not asked."""
    from data_catalog.images.decoding import ImageRejectedError
    from data_catalog.images.views import image_views

    try:
        raw = read(name)
    except OSError:
        return None, []
    try:
        return hashlib.sha256(raw).hexdigest(), image_views(raw) if has_looks else []
    except ImageRejectedError:
        return hashlib.sha256(raw).hexdigest(), []

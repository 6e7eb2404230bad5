"""Which images of a test set a model was trained on: by what they are known by, by their bytes, by how they look."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.leaks import LeaksConfig
from data_catalog.images.opening import ImageRejectedError
from data_catalog.images.views import WHOLE
from data_catalog.progress import Progress
from data_catalog.schema import KEPT
from data_catalog.storage.manifest import Snapshot
from data_catalog.test_sets.identities import canonical_identities
from training.encode_files import quiet_decoders
from training.galleries import Guard, Seen

if TYPE_CHECKING:
    from data_catalog.images.views import View

# Validation chooses the epoch that is kept: what it sees, training has seen.
SEEN_SPLITS = ("train", "val")
# A copy that was only encoded or sized anew is nearer than this, and two drawings on one ground hardly ever are: a
# build's guard may drop an image on a weaker suspicion than that on which a score may be refused.
SURE_DISTANCE, SURE_DIFFERENCE = 4, 0.1
_IDENTITY_COLUMNS = ("sample_id", "source", "url", "path", "page_url", "merged_into")


class TrainingImages:
    """What a model was trained and validated on, read once for all sets that it is compared with.

    Args:
        snapshot: that the model was trained on.
        leaks: by what images are compared, and how much images that look the same may differ.
    """

    def __init__(self, snapshot: Snapshot, leaks: LeaksConfig) -> None:
        self._snapshot, self._leaks = snapshot, leaks

    def guard(self, names: Sequence[str], identities: Sequence[Collection[str]], read: Callable[[str], bytes]) -> Guard:
        """Which images of a set the model has seen.

        Args:
            names: of the set's images.
            identities: all that each of them is known by, as `data_catalog.test_sets.identities` spells it.
            read: bytes of an image by name; raises OSError where there are none.
        """
        found: dict[int, Seen] = {}
        ways: list[str] = []
        found |= self._by_pixels(names, read)
        ways += ["bytes", "looks"] if self._leaks.by_pixels else ["bytes"]
        if self._leaks.by_identity and any(identities):
            found |= self._by_identity(identities)
            ways.insert(0, "identity")
        there = {place: seen for place, seen in found.items() if _is_there(names[place], read)}
        return Guard(seen=there, ways=tuple(ways))

    @cached_property
    def _samples(self) -> frozenset[str]:
        return _samples_seen(self._snapshot)

    @cached_property
    def _identities(self) -> dict[str, str]:
        return _known_identities(self._snapshot, self._samples)

    @cached_property
    def _looks(self) -> pa.Table:
        return _looks(self._snapshot, self._samples)

    def _by_identity(self, identities: Sequence[Collection[str]]) -> dict[int, Seen]:
        shared = ((place, min(self._identities.keys() & own, default=None)) for place, own in enumerate(identities))
        return {
            place: Seen(why=f"{identity} is {self._identities[identity]}", is_sure=True)
            for place, identity in shared
            if identity is not None
        }

    def _by_pixels(self, names: Sequence[str], read: Callable[[str], bytes]) -> dict[int, Seen]:
        trained = self._looks
        by_bytes = dict(zip(trained.column("sha256").to_pylist(), trained.column("sample_id").to_pylist(), strict=True))
        found: dict[int, Seen] = {}
        views: list[View] = []
        places: list[int] = []
        with (
            quiet_decoders(),
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
            Progress("compare with training images", total=len(names), unit="images") as progress,
        ):
            seen = pool.map(lambda name: _views_of(name, read, has_looks=self._leaks.by_pixels), names)
            for place, (digest, looks) in enumerate(seen):
                if digest in by_bytes:
                    found[place] = Seen(why=f"the same bytes as {by_bytes[digest]}", is_sure=True)
                views += looks
                places += [place] * len(looks)
                progress.advance(1)
        for is_sure in (True, False):
            for view, sample_id in _alike(views, trained, self._leaks, is_sure=is_sure):
                what = "the same picture as" if is_sure else "looks like"
                found.setdefault(places[view], Seen(why=f"{what} {sample_id}", is_sure=is_sure))
        return found


def _samples_seen(snapshot: Snapshot) -> frozenset[str]:
    files = [path for split in SEEN_SPLITS for path in snapshot.pair_files(split)]
    columns = (pq.read_table(path, columns=["sample_id"]).column("sample_id").to_pylist() for path in files)
    return frozenset(sample_id for column in columns for sample_id in column)


def _known_identities(snapshot: Snapshot, samples: Collection[str]) -> dict[str, str]:
    """The sample that each identity was trained on in; captions of a merged image speak of the one that stays."""
    kinds = {name: entry["kind"] for name, entry in snapshot.manifest["settings"]["sources"].items()}
    known: dict[str, str] = {}
    for row in _rows(snapshot):
        staying = row["merged_into"] or row["sample_id"]
        if staying not in samples:
            continue
        found = canonical_identities(
            source_kind=kinds[row["source"]],
            sample_id=row["sample_id"],
            url=row["url"],
            path=row["path"],
            page_url=row["page_url"],
        )
        known.update(dict.fromkeys(found, staying))
    return known


def _rows(snapshot: Snapshot) -> Iterator[Mapping[str, Any]]:
    for path in snapshot.caption_files():
        file = pq.ParquetFile(path)
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=[*_IDENTITY_COLUMNS, "outcome"])
            yield from table.filter(pc.equal(table.column("outcome"), KEPT)).to_pylist()


def _alike(
    views: "Sequence[View]", trained: pa.Table, leaks: LeaksConfig, *, is_sure: bool
) -> Iterator[tuple[int, str]]:
    """Places of views that look like an image that was trained on, and its sample; whole ones alone to be sure."""
    from cleaning.duplicates.near_images import leak_matches, parse_hashes, parse_thumbnails

    places = [place for place, view in enumerate(views) if view.view == WHOLE or not is_sure]
    if not places or not trained.num_rows:
        return
    hashes = pa.array([views[place].phash for place in places], pa.string())
    thumbnails = pa.array([views[place].thumbnail for place in places], pa.binary())
    found = leak_matches(
        (parse_hashes(hashes), parse_thumbnails(thumbnails)),
        (parse_hashes(trained.column("phash")), parse_thumbnails(trained.column("thumbnail"))),
        max_distance=min(SURE_DISTANCE, leaks.max_distance) if is_sure else leaks.max_distance,
        max_difference=SURE_DIFFERENCE if is_sure else leaks.max_thumbnail_difference,
    )
    sample_ids = trained.column("sample_id").to_pylist()
    yield from ((places[view], sample_ids[row]) for view, row in found.tolist())


def _looks(snapshot: Snapshot, samples: Collection[str]) -> pa.Table:
    """Return bytes' hashes and looks of the images that were seen."""
    columns = ["sample_id", "sha256", "phash", "thumbnail"]
    table = pa.concat_tables([pq.ParquetFile(path).read(columns=columns) for path in snapshot.image_files()])
    is_seen = pc.is_in(table.column("sample_id"), pa.array(sorted(samples), pa.string()))
    return table.filter(pc.and_(is_seen, pc.is_valid(table.column("phash"))))


def _is_there(name: str, read: Callable[[str], bytes]) -> bool:
    try:
        return bool(read(name))
    except OSError:
        return False


def _views_of(name: str, read: Callable[[str], bytes], *, has_looks: bool) -> "tuple[str | None, list[View]]":
    """The hash of an image's bytes, and how it looks; nothing where it is not there, is no picture or is not asked."""
    from data_catalog.images.views import image_views

    try:
        raw = read(name)
    except OSError:
        return None, []
    try:
        return hashlib.sha256(raw).hexdigest(), image_views(raw) if has_looks else []
    except ImageRejectedError:
        return hashlib.sha256(raw).hexdigest(), []

"""Which images of a test set a model was trained on: by what they are known by, by their bytes, by how they look."""

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.selection_config import LeaksConfig
from data_catalog.images.opening import ImageRejectedError
from data_catalog.manifest import Snapshot
from data_catalog.progress import Progress
from data_catalog.schema import KEPT
from data_catalog.test_sets.identities import canonical_identities

if TYPE_CHECKING:
    from data_catalog.images.views import View

logger = logging.getLogger(__name__)

# Validation chooses the epoch that is kept: what it sees, training has seen.
SEEN_SPLITS = ("train", "val")
_IDENTITY_COLUMNS = ("sample_id", "source", "url", "path", "page_url", "merged_into")


def seen_images(
    snapshot: Snapshot,
    names: Sequence[str],
    identities: Sequence[Collection[str]],
    read: Callable[[str], bytes],
    leaks: LeaksConfig,
) -> dict[int, str]:
    """Places of the images that a model of a snapshot was trained or validated on, and how that is known.

    Args:
        snapshot: that the model was trained on.
        names: of the set's images.
        identities: all that each of them is known by, as `data_catalog.test_sets.identities` spells it.
        read: bytes of an image by name; raises OSError where there are none.
        leaks: how much images that look the same may differ.
    """
    samples = _samples_seen(snapshot)
    found = _by_pixels(snapshot, samples, names, read, leaks) if leaks.by_pixels else {}
    known = _known_identities(snapshot, samples) if leaks.by_identity else {}
    for place, own in enumerate(identities):
        shared = [identity for identity in own if identity in known]
        if shared:
            found[place] = f"{min(shared)} is {known[min(shared)]}"
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
        columns = [name for name in _IDENTITY_COLUMNS if name in file.schema_arrow.names]
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=[*columns, "outcome"])
            kept = table.filter(pc.equal(table.column("outcome"), KEPT)).select(columns)
            yield from (dict.fromkeys(_IDENTITY_COLUMNS) | row for row in kept.to_pylist())


def _by_pixels(
    snapshot: Snapshot, samples: Collection[str], names: Sequence[str], read: Callable[[str], bytes], leaks: LeaksConfig
) -> dict[int, str]:
    trained = _looks(snapshot, samples)
    if trained is None:
        logger.warning("snapshot %s holds no thumbnails: images are compared by name alone", snapshot.snapshot)
        return {}
    by_bytes = dict(zip(trained.column("sha256").to_pylist(), trained.column("sample_id").to_pylist(), strict=True))
    found: dict[int, str] = {}
    views: list[View] = []
    places: list[int] = []
    threads = len(os.sched_getaffinity(0))
    with (
        ThreadPoolExecutor(threads) as pool,
        Progress("compare with training images", total=len(names), unit="images") as progress,
    ):
        for place, (digest, looks) in enumerate(pool.map(lambda name: _views_of(name, read), names)):
            if digest in by_bytes:
                found[place] = f"the same bytes as {by_bytes[digest]}"
            views += looks
            places += [place] * len(looks)
            progress.advance(1)
    for view, sample_id in _alike(views, trained, leaks):
        found.setdefault(places[view], f"looks like {sample_id}")
    return found


def _alike(views: "Sequence[View]", trained: pa.Table, leaks: LeaksConfig) -> Iterator[tuple[int, str]]:
    """Places of views that look like an image that was trained on, and its sample."""
    from cleaning.near_images import leak_matches
    from cleaning.thumbnails import parse_hashes, parse_thumbnails

    if not views or not trained.num_rows:
        return
    hashes = pa.array([view.phash for view in views], pa.string())
    thumbnails = pa.array([view.thumbnail for view in views], pa.binary())
    found = leak_matches(
        (parse_hashes(hashes), parse_thumbnails(thumbnails)),
        (parse_hashes(trained.column("phash")), parse_thumbnails(trained.column("thumbnail"))),
        max_distance=leaks.max_distance,
        max_difference=leaks.max_thumbnail_difference,
    )
    sample_ids = trained.column("sample_id").to_pylist()
    yield from ((view, sample_ids[row]) for view, row in found.tolist())


def _looks(snapshot: Snapshot, samples: Collection[str]) -> pa.Table | None:
    """Bytes and looks of the images that were seen; None of a snapshot that keeps none."""
    columns = ["sample_id", "sha256", "phash", "thumbnail"]
    tables = []
    for path in snapshot.image_files():
        file = pq.ParquetFile(path)
        if "thumbnail" not in file.schema_arrow.names:
            return None
        tables.append(file.read(columns=columns))
    if not tables:
        return None
    table = pa.concat_tables(tables)
    is_seen = pc.is_in(table.column("sample_id"), pa.array(sorted(samples), pa.string()))
    return table.filter(pc.and_(is_seen, pc.is_valid(table.column("phash"))))


def _views_of(name: str, read: Callable[[str], bytes]) -> "tuple[str | None, list[View]]":
    """The hash of an image's bytes, and how it looks; nothing where it is not there, or is no picture."""
    from data_catalog.images.views import image_views

    try:
        raw = read(name)
    except OSError:
        return None, []
    try:
        return hashlib.sha256(raw).hexdigest(), image_views(raw)
    except ImageRejectedError:
        return hashlib.sha256(raw).hexdigest(), []

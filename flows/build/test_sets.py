"""The test sets that a recipe names: read, their images hashed, and kept to compare others with."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.leaks import LeaksConfig, caption_digests, leaking_captions
from data_catalog.images.views import VIEWS, write_views
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit
from data_catalog.test_sets.images import TestImage
from data_catalog.test_sets.registry import TEST_SET_KINDS
from flows.build.engine import Job

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

IDENTITIES_FILE, CAPTIONS_FILE, PIXELS_FILE = "identities.parquet", "captions.parquet", "pixels.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestViews:
    """How the images of a test set look, whole and in part, as they are and mirrored: one entry a view.

    Args:
        hashes: perceptual hashes, uint64.
        thumbnails: uint8 of shape (views, 192).
        names: the image of each view.
        names_by_sha256: images by the hash of their bytes.
    """

    hashes: "np.ndarray[Any, np.dtype[np.uint64]]"
    thumbnails: "np.ndarray[Any, np.dtype[np.uint8]]"
    names: Sequence[str]
    names_by_sha256: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestContents:
    """What a test set holds, as committed; read from disk when it is first asked for.

    Args:
        name: the recipe's name for it.
        commit: what `read_test_set` wrote.
    """

    name: str
    commit: Commit

    @property
    def identities(self) -> frozenset[str]:
        """Return all that its images are known by."""
        return _identities(self.commit.path(IDENTITIES_FILE))

    def has_captions(self, captions: Sequence[str]) -> list[bool]:
        """Tell, for each caption, whether the set has it, punctuation and case aside."""
        return leaking_captions(captions, _digests(self.commit.path(CAPTIONS_FILE)))

    def views(self) -> TestViews:
        """Return the views of its images; none, where their pixels are not there."""
        return _views(self.commit.path(PIXELS_FILE))

    def entry(self, leaks: LeaksConfig) -> dict[str, Any]:
        """Return what the set holds, and by what a build was guarded against it, for the manifest."""
        facts = self.commit.facts
        ways = {
            "identity": leaks.by_identity and facts["num_identities"] > 0,
            "caption": leaks.by_caption and facts["num_captions"] > 0,
            "pixels": leaks.by_pixels and facts["num_hashed"] > 0,
        }
        return {**facts, "action": leaks.action, "guarded_by": [way for way, is_used in ways.items() if is_used]}


def test_contents(job: Job, names: Sequence[str]) -> list[TestContents]:
    """Return the recipe's test sets, of which a job reads `test-set`."""
    return [TestContents(name=name, commit=commit) for name, commit in zip(names, job.all("test-set"), strict=True)]


def read_test_set(
    job: Job, *, name: str, kind: str, config: Any, files: Sequence[Sequence[str]], images: str | None, min_words: int
) -> Mapping[str, Any]:
    """Read a test set and hash its images, where they are there.

    Args:
        job: reads no step.
        name: the recipe's name for it.
        kind: of its files.
        config: of that kind.
        files: name and sha256 of each of them.
        images: content hash of its images; None: they are not looked at, or it has none.
        min_words: captions of fewer words are left out.
    """
    reads = TEST_SET_KINDS[kind]
    found = list(reads.read(config))
    captions = caption_digests((caption for image in found for caption in image.captions), min_words=min_words)
    identities = _identity_rows(found)
    save_parquet(identities, job.folder / IDENTITIES_FILE)
    save_parquet(pa.table({"digest": pa.array(sorted(captions), pa.uint64())}), job.folder / CAPTIONS_FILE)
    location = reads.images(config) if images else None
    pixels = job.folder / PIXELS_FILE
    if location is None:
        save_parquet(VIEWS.empty_table(), pixels)
    else:
        write_views(location, [image.name for image in found], pixels, job.tools.workers)
    num_hashed = _num_hashed(pixels)
    if location is not None and num_hashed < len(found):
        _warn_of_lost(name, location, num_lost=len(found) - num_hashed, num_images=len(found))
    return {
        "num_images": len(found),
        "num_identities": identities.num_rows,
        "num_captions": len(captions),
        "num_hashed": num_hashed,
    }


def _warn_of_lost(name: str, location: str, *, num_lost: int, num_images: int) -> None:
    logger.warning(
        "%s of %s images of test set %s are not in %s, or no pictures: training images are not compared with them",
        f"{num_lost:,}",
        f"{num_images:,}",
        name,
        location,
    )


def _num_hashed(path: Path) -> int:
    table = pq.read_table(path, columns=["name", "drop_reason"])
    return len(table.filter(pc.is_null(table.column("drop_reason"))).column("name").unique())


def _identity_rows(images: Sequence[TestImage]) -> pa.Table:
    rows = sorted((identity, image.name) for image in images for identity in image.identities)
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in (0, 1)]
    return pa.table(columns, names=["identity", "name"])


@functools.lru_cache(maxsize=64)
def _identities(path: Path) -> frozenset[str]:
    return frozenset(pq.read_table(path).column("identity").to_pylist())


@functools.lru_cache(maxsize=64)
def _digests(path: Path) -> frozenset[int]:
    return frozenset(pq.read_table(path).column("digest").to_pylist())


@functools.lru_cache(maxsize=64)
def _views(path: Path) -> TestViews:
    from cleaning.duplicates.near_images import parse_hashes, parse_thumbnails

    table = pq.read_table(path)
    seen = table.filter(pc.is_null(table.column("drop_reason")))
    names = seen.column("name").to_pylist()
    return TestViews(
        hashes=parse_hashes(seen.column("phash")),
        thumbnails=parse_thumbnails(seen.column("thumbnail")),
        names=names,
        names_by_sha256=dict(zip(seen.column("sha256").to_pylist(), names, strict=True)),
    )

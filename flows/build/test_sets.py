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
from data_catalog.images.workers import ImageWorkers
from data_catalog.storage.shards import digest, save_parquet
from data_catalog.storage.work import Commit, WorkStore
from data_catalog.test_sets.images import TestImage
from flows.build.step_outputs import TEST_SET, step_key
from flows.build.upstream_hashes import entries_identity
from flows.recipe.sources import TestSetSettings
from flows.recipe.what_settings import test_set_settings

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
        kind: of its files.
        file_hashes: name and sha256 of each of them.
        commit: what `read_test_set` wrote.
        images_digest: of its own images, or None where the recipe names no place of them.
    """

    name: str
    kind: str
    file_hashes: Sequence[Mapping[str, str]]
    commit: Commit
    images_digest: str | None

    @property
    def identity(self) -> str:
        """What anything that is compared with the set depends on."""
        return digest([self.name, sorted(self.commit.files.items())])

    @property
    def identities(self) -> frozenset[str]:
        """All that its images are known by."""
        return _identities(self.commit.path(IDENTITIES_FILE))

    def has_captions(self, captions: Sequence[str]) -> list[bool]:
        """For each caption, whether the set has it, whatever its punctuation and case."""
        return leaking_captions(captions, _digests(self.commit.path(CAPTIONS_FILE)))

    def views(self) -> TestViews:
        """How its images look; nothing, where their pixels are not there."""
        return _views(self.commit.path(PIXELS_FILE))

    def entry(self, leaks: LeaksConfig) -> dict[str, Any]:
        """What a manifest says of the set: what it holds, and by what a build was guarded against it."""
        facts = self.commit.facts
        ways = {
            "identity": leaks.by_identity and facts["num_identities"] > 0,
            "caption": leaks.by_caption and facts["num_captions"] > 0,
            "pixels": leaks.by_pixels and facts["num_hashed"] > 0,
        }
        return {
            "kind": self.kind,
            "files": list(self.file_hashes),
            "images": self.images_digest if leaks.by_pixels else None,
            **facts,
            "action": leaks.action,
            "guarded_by": [way for way, is_used in ways.items() if is_used],
        }


def read_test_set(
    work: WorkStore,
    test_set: TestSetSettings,
    workers: ImageWorkers,
    *,
    min_words: int,
    file_hashes: Sequence[Mapping[str, str]],
    location_digest: str | None,
) -> TestContents:
    """Read a test set and hash its images, where they are there.

    Args:
        min_words: captions of fewer words are left out.
        file_hashes: name and sha256 of each of its files, in order.
        location_digest: of its images at their location; None: they are not looked at, or have none.
    """
    inputs = [digest(entries_identity(file_hashes)), *([location_digest] if location_digest else [])]
    settings = {**test_set_settings(test_set), "min_words": min_words}

    def produce(folder: Path) -> Mapping[str, Any]:
        images = list(test_set.kind.read(test_set.config))
        captions = caption_digests((caption for image in images for caption in image.captions), min_words=min_words)
        identities = _identity_rows(images)
        save_parquet(identities, folder / IDENTITIES_FILE)
        save_parquet(pa.table({"digest": pa.array(sorted(captions), pa.uint64())}), folder / CAPTIONS_FILE)
        location = test_set.kind.images(test_set.config) if location_digest else None
        if location is None:
            save_parquet(VIEWS.empty_table(), folder / PIXELS_FILE)
        else:
            write_views(location, [image.name for image in images], folder / PIXELS_FILE, workers)
        num_hashed = _num_hashed(folder / PIXELS_FILE)
        if location is not None and num_hashed < len(images):
            _warn_of_lost(test_set.name, location, num_lost=len(images) - num_hashed, num_images=len(images))
        return {
            "num_images": len(images),
            "num_identities": identities.num_rows,
            "num_captions": len(captions),
            "num_hashed": num_hashed,
        }

    commit = work.run(step_key(TEST_SET, inputs, settings), produce)
    return TestContents(
        name=test_set.name,
        kind=test_set.kind.kind,
        file_hashes=file_hashes,
        commit=commit,
        images_digest=location_digest,
    )


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

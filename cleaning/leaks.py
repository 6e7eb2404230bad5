"""Leak guard: images and captions of test sets among those of a build, or among those that a model was trained on.

Images are compared by identity and similarity, captions by their letters. A build uses `TestContents`, a scoreboard
`SeenImages`.

A caption is compared, regardless of punctuation and case, by the 64-bit BLAKE2b digest of its key. For ten million
captions against 150,000 keys, the chance of a single false match is one in twelve million: 1e7 * 1.5e5 / 2**64.
"""

import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from annotated_types import Ge, Interval

from cleaning.duplicates.near_images import (
    MAX_DISTANCE,
    Thumbnails,
    leak_matches,
    parse_hashes,
    parse_thumbnails,
)
from cleaning.text.scripts import count_words
from data_catalog.base.progress import Progress
from data_catalog.catalog.connections import snapshot_queries
from data_catalog.catalog.manifest import Snapshot
from data_catalog.catalog.sorting import samples_of_bytes
from data_catalog.catalog.work import Commit, StepFacts
from data_catalog.disk.files import save_parquet
from data_catalog.fetch.image_views import VIEWS, WHOLE, View, image_views, write_views
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.images.decoders import without_heif
from data_catalog.images.decoding import ImageRejectedError
from data_catalog.rows.caption_keys import caption_key
from data_catalog.rows.identities import canonical_identities
from data_catalog.rows.stages import Drop, pending_rows, reject, set_values, texts
from data_catalog.sources.test_sets import TestImage

IDENTITIES_FILE, CAPTIONS_FILE, PIXELS_FILE = "identities.parquet", "captions.parquet", "pixels.parquet"

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaksConfig:
    """Leak guard: how images and captions of the recipe's test sets are found, and what happens to them."""

    action: Literal["drop", "mark"] = "drop"
    """On a match, "drop" removes the pair; "mark" publishes it in a separate file, outside all splits."""
    by_identity: bool = True
    """Search for images by identity: URLs, and the numbers or names of COCO, Flickr, Wikimedia and Open Images."""
    by_caption: bool = True
    """Search for captions, ignoring punctuation and case."""
    by_pixels: bool = True
    """Search for images by bytes and similarity, if the test set's images are available."""
    min_caption_words: Annotated[int, Ge(1)] = 4
    """Captions with fewer words are not searched for: they match by chance."""
    max_distance: Annotated[int, Interval(ge=0, le=MAX_DISTANCE)] = 8
    """Maximum number of bits, of the perceptual hash's 64, in which an image differs from a test image or its views."""
    max_thumbnail_difference: Annotated[float, Ge(0)] = 0.25
    """Maximum difference of their 8 x 8 thumbnails: 0 if equal, 1 if unrelated."""


def caption_digest(text: str) -> int:
    """Return the digest of a caption's key: an unsigned 64-bit number, the same on every machine."""
    # A lone surrogate is invalid text, and should not stop the build.
    key = caption_key(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest(), "big")


def caption_digests(texts: Iterable[str], *, min_words: int) -> frozenset[int]:
    """Return the digests of the captions of test sets with at least `min_words`: "a cat" matches by chance."""
    return frozenset(caption_digest(text) for text in texts if count_words(text) >= min_words and caption_key(text))


def leaking_captions(texts: Sequence[str], digests: Container[int]) -> list[bool]:
    """Return for each text whether a test set has it; `digests` come from `caption_digests`."""
    return [caption_digest(text) in digests for text in texts]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestContents:
    """Contents of a test set as `write_test_set` wrote them, read from disk when they are first needed."""

    name: str
    commit: Commit

    @property
    def identities(self) -> frozenset[str]:
        """Return all identities of its images."""
        return _distinct(self.commit.path(IDENTITIES_FILE), "identity")

    def has_captions(self, captions: Sequence[str]) -> list[bool]:
        """Return for each caption whether the set has it, ignoring punctuation and case."""
        return leaking_captions(captions, _distinct(self.commit.path(CAPTIONS_FILE), "digest"))


def guarded_by(found: StepFacts, leaks: LeaksConfig) -> list[str]:
    """Return the checks that the leak guard used for a test set, given the counts of its contents."""
    ways = {
        "identity": leaks.by_identity and found["num_identities"] > 0,
        "caption": leaks.by_caption and found["num_captions"] > 0,
        "pixels": leaks.by_pixels and found["num_hashed"] > 0,
    }
    return [way for way, is_used in ways.items() if is_used]


def write_test_set(
    found: Sequence[TestImage], folder: Path, *, min_words: int, pixels: tuple[str, ImageWorkers] | None
) -> StepFacts:
    """Write the contents of a test set for `TestContents`, hash its images if they are available, and count all.

    `pixels` is the location of its images, and the workers that decode them; None: no comparison by pixels.
    """
    captions = caption_digests((caption for image in found for caption in image.captions), min_words=min_words)
    identities = sorted((identity, image.name) for image in found for identity in image.identities)
    columns = [pa.array([row[place] for row in identities], pa.string()) for place in (0, 1)]
    save_parquet(pa.table(columns, names=["identity", "name"]), folder / IDENTITIES_FILE)
    save_parquet(pa.table({"digest": pa.array(sorted(captions), pa.uint64())}), folder / CAPTIONS_FILE)
    if pixels is None:
        save_parquet(VIEWS.empty_table(), folder / PIXELS_FILE)
    else:
        location, workers = pixels
        write_views(location, [image.name for image in found], folder / PIXELS_FILE, workers)
    return {
        "num_images": len(found),
        "num_identities": len(identities),
        "num_captions": len(captions),
        "num_hashed": len(_decoded_views(folder / PIXELS_FILE).column("name").unique()),
    }


def _decoded_views(path: Path) -> pa.Table:
    """Return the views of a test set's images that could be decoded; empty if its images are not available."""
    table = pq.read_table(path)
    return table.filter(pc.is_null(table.column("drop_reason")))


@functools.lru_cache(maxsize=64)
def _distinct(path: Path, column: str) -> frozenset[Any]:
    return frozenset(pq.read_table(path).column(column).to_pylist())


def judge_identities(
    table: pa.Table, tests: Sequence[TestContents], leaks: LeaksConfig, *, kinds: Mapping[str, str], step: str
) -> pa.Table:
    """Drop or mark the pending rows whose image has an identity of a test set's image; `kinds` are those of sources."""
    rows = pending_rows(table)
    names = ("sample_id", "source", "url", "path", "page_url")
    cells = zip(*(texts(table, name, rows) for name in names), strict=True)
    found = {}
    for sample_id, source, url, path, page_url in cells:
        if sample_id not in found:
            identities = canonical_identities(
                source_kind=kinds[source], sample_id=sample_id, url=url, path=path, page_url=page_url
            )
            shared = ((test.name, test.identities.intersection(identities)) for test in tests)
            drops = (Drop("test_image", f"{name}: {min(same)}") for name, same in shared if same)
            found[sample_id] = next(drops, None)
    return drop_or_mark(table, rows, [found[each] for each in texts(table, "sample_id", rows)], leaks, step=step)


def judge_captions(
    table: pa.Table,
    tests: Sequence[TestContents],
    leaks: LeaksConfig,
    *,
    column: str,
    step: str,
    where: pa.Array | None = None,
) -> pa.Table:
    """Drop or mark the pending rows, where `where` is true, whose text in `column` is a caption of a test set."""
    for test in tests:
        rows = pending_rows(table, where)
        found = test.has_captions(texts(table, column, rows))
        drops = [Drop("test_caption", test.name) if is_there else None for is_there in found]
        table = drop_or_mark(table, rows, drops, leaks, step=step)
    return table


def drop_or_mark(
    table: pa.Table, rows: list[int], drops: Sequence[Drop | None], leaks: LeaksConfig, *, step: str
) -> pa.Table:
    """Reject the rows that have a `Drop`, or write its reason and detail into their `leaks`."""
    if leaks.action == "drop":
        return reject(table, rows, drops, step=step)
    marked = [(row, drop) for row, drop in zip(rows, drops, strict=True) if drop is not None]
    known = table.column("leaks").to_pylist()
    marks = [[*(known[row] or []), f"{drop.reason} {drop.detail}"] for row, drop in marked]
    return set_values(table, "leaks", [row for row, _ in marked], marks)


def pixel_leaks(
    files: Sequence[Path],
    facts: pa.Table,
    thumbnails: Thumbnails,
    tests: Sequence[TestContents],
    leaks: LeaksConfig,
) -> dict[int, str]:
    """Return, by row number, the test image that an image equals or is similar to.

    `files` are the normalised images of all shards, `facts` come from `data_catalog.catalog.sorting.image_facts`.
    """
    images = (facts.column("phash").to_numpy(), thumbnails)
    found: dict[int, str] = {}
    for test in tests:
        views = _decoded_views(test.commit.path(PIXELS_FILE))
        names = views.column("name").to_pylist()
        names_by_sha256 = dict(zip(views.column("sha256").to_pylist(), names, strict=True))
        same = samples_of_bytes(files, pa.array(list(names_by_sha256), pa.string()))
        rows = pc.index_in(same.column("sample_id"), facts.column("sample_id"))
        for row, sha256 in zip(rows.to_pylist(), same.column("sha256").to_pylist(), strict=True):
            found.setdefault(row, f"{test.name}: {names_by_sha256[sha256]}")
        alike = leak_matches(
            images,
            (parse_hashes(views.column("phash")), parse_thumbnails(views.column("thumbnail"))),
            max_distance=leaks.max_distance,
            max_difference=leaks.max_thumbnail_difference,
        )
        for row, view in alike.tolist():
            found.setdefault(row, f"{test.name}: {names[view]}")
    return found


# Limits for a sure match: a re-encoded or resized copy is nearer than this, and two drawings on one background hardly
# ever are. A score is refused only for sure matches; a build drops images on weaker evidence.
SURE_DISTANCE, SURE_DIFFERENCE = 4, 0.1

# Validation selects the best epoch, so its images count as seen in training.
SEEN_SPLITS = ("train", "val")
SEEN = f"SELECT sample_id FROM pairs WHERE split IN {SEEN_SPLITS}"

# Captions of a merged image belong to the image that stays.
PLACES = f"""
    SELECT DISTINCT source, sample_id, url, path, page_url, coalesce(merged_into, sample_id) AS staying
    FROM captions WHERE outcome = 'kept' AND staying IN ({SEEN}) ORDER BY ALL
"""

LOOKS = f"""
    SELECT sample_id, sha256, phash, thumbnail
    FROM image_outcomes WHERE phash IS NOT NULL AND sample_id IN ({SEEN}) ORDER BY sample_id
"""


class SeenImages:
    """Training and validation images of a snapshot, read once and compared with several test sets."""

    def __init__(self, snapshot: Snapshot, leaks: LeaksConfig) -> None:
        self._snapshot, self._leaks = snapshot, leaks

    def find(
        self, names: Sequence[str], identities: Sequence[Collection[str]], read: Callable[[str], bytes]
    ) -> tuple[dict[int, tuple[str, bool]], tuple[str, ...]]:
        """Return the images of a test set that are among the seen images.

        Args:
            names: names of the set's images.
            identities: identities of each of them, as `data_catalog.rows.identities` spells them.
            read: returns the bytes of an image by name; raises OSError if there are none.

        Returns:
            By position, the reason and whether the match is sure; and the comparisons used, such as "identity".
        """
        found = self._by_pixels(names, read)
        ways = ["bytes", "looks"] if self._leaks.by_pixels else ["bytes"]
        if self._leaks.by_identity and any(identities):
            for place, own in enumerate(identities):
                if shared := min(self._identities.keys() & own, default=None):
                    found[place] = (f"{shared} is {self._identities[shared]}", True)
            ways.insert(0, "identity")
        return {place: seen for place, seen in found.items() if _is_there(names[place], read)}, tuple(ways)

    @cached_property
    def _identities(self) -> dict[str, str]:
        """Return the sample id of each identity."""
        kinds = {name: entry["kind"] for name, entry in self._snapshot.manifest["settings"]["sources"].items()}
        known: dict[str, str] = {}
        with snapshot_queries(self._snapshot) as ask:
            for batch in ask(PLACES).to_batches(max_chunksize=10_000):
                for row in batch.to_pylist():
                    staying, source = row.pop("staying"), row.pop("source")
                    known.update(dict.fromkeys(canonical_identities(source_kind=kinds[source], **row), staying))
        return known

    @cached_property
    def _looks(self) -> pa.Table:
        with snapshot_queries(self._snapshot) as ask:
            return ask(LOOKS)

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
            warnings.simplefilter("ignore")  # Pillow's, on large or odd files; set here, since threads share the filter
            seen = pool.map(lambda name: _views_of(name, read, has_looks=self._leaks.by_pixels), names)
            for place, (digest, looks) in enumerate(seen):
                if digest in by_bytes:
                    found[place] = (f"the same bytes as {by_bytes[digest]}", True)
                views += looks
                places += [place] * len(looks)
                progress.advance(1)
        for is_sure in (True, False):
            for view, sample_id in self._similar(views, is_sure=is_sure):
                what = "the same picture as" if is_sure else "looks like"
                found.setdefault(places[view], (f"{what} {sample_id}", is_sure))
        return found

    def _similar(self, views: Sequence[View], *, is_sure: bool) -> Iterator[tuple[int, str]]:
        """Yield positions of views similar to a seen image, with its sample id; sure matches need whole views."""
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


def _views_of(name: str, read: Callable[[str], bytes], *, has_looks: bool) -> tuple[str | None, list[View]]:
    """Return the hash of an image's bytes, and its views; None and [] for what cannot be read or decoded."""
    try:
        raw = read(name)
    except OSError:
        return None, []
    sha256 = hashlib.sha256(raw).hexdigest()
    if not has_looks:
        return sha256, []
    picture, rejection = without_heif(raw)
    try:
        return sha256, [] if rejection else image_views(picture)
    except ImageRejectedError:
        return sha256, []

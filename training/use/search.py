"""Find the images of a dataset or a folder that are most similar to a text or an image.

Features are computed once and cached: those of a dataset beside the model, those of a folder in that folder, where they
are updated when files change.

The search is exact. Products are computed in float32 and in blocks, which is twice as fast as in float64. All rows that
may be among the k best, given the maximum rounding error of float32 sums, are then computed again in float64. So the
result is that of a float64 search.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_catalog.base.errors import DamagedError, DefectError, InputError, SettingsError
from data_catalog.base.plain_text import counted
from data_catalog.base.progress import Progress
from data_catalog.catalog.manifest import require_snapshot
from data_catalog.disk.files import digest, sha256_of
from data_catalog.disk.lock import writer_lock
from data_catalog.rows.image_formats import IMAGE_SUFFIXES, is_image_name
from training.data.features import (
    FeatureIndex,
    read_index,
    stacked,
    text_features,
    write_index,
)
from training.data.images import (
    Features,
    decode_all,
    encode_files,
    encoded_images,
    picture_features,
    read_picture,
)
from training.data.pairs import Floats, Integers, RowGroup, read_rows, row_groups
from training.towers.model import LoadedModel, open_model, require_texts
from training.towers.trained_models import current_model, pair_hashes

Found = tuple[Integers, Integers, Floats]  # query, row and cosine of each match

QUERIES_AT_A_TIME = 1024
_MOST_ROWS = 65_536
_PRODUCTS = 1 << 22  # number of products in a block: 16 MiB of float32
_PAIRS = 4096  # matches that are computed in float64 at a time


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The best rows for each query, best first. Of equal rows the one with the lower index comes first.

    Args:
        indices: int64, shape (queries, min(k, rows)).
        cosines: float64, shape (queries, min(k, rows)).
    """

    indices: Integers
    cosines: Floats


def nearest(features: Features, queries: Features, k: int) -> Neighbours:
    """Return the `k` rows of `features` with the highest cosine to each query, or all rows if there are fewer.

    Extra memory does not grow with the number of rows or queries.

    Args:
        features: unit rows, float32, shape (rows, dim). May be memory-mapped: it is read once for every
            `QUERIES_AT_A_TIME` queries.
        queries: unit rows, float32, shape (queries, dim).
        k: maximum number of rows per query.

    Raises:
        SettingsError: `k` is below 1.
        DamagedError: a number is not finite.
        DefectError: the shapes do not match.
    """
    if k < 1:
        raise SettingsError(f"k must be positive, got {k}")
    if features.ndim != 2 or queries.ndim != 2 or (len(features) and features.shape[1] != queries.shape[1]):
        raise DefectError(f"features of shape {features.shape} cannot be searched by queries of shape {queries.shape}")
    if not np.isfinite(queries).all():
        raise DamagedError("the features of a query are not finite: the model is damaged")
    k = min(k, len(features))
    indices = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float64)
    for start in range(0, len(queries) if k else 0, QUERIES_AT_A_TIME):
        some = queries[start : start + QUERIES_AT_A_TIME]
        _, rows, found = _nearest(features, some, k)
        indices[start : start + len(some)] = rows.reshape(len(some), k)
        cosines[start : start + len(some)] = found.reshape(len(some), k)
    return Neighbours(indices, cosines)


def _nearest(features: Features, queries: Features, k: int) -> Found:
    """Return the k best matches of each query, best first, query by query."""
    # Maximum rounding error of a float32 product of unit rows, for any order of summation. Source: N. Higham, Accuracy
    # and Stability of Numerical Algorithms (2002), section 3.1. It is doubled (eps is twice the unit roundoff), because
    # rows have length 1 only approximately.
    error = float(queries.shape[1] * np.finfo(np.float32).eps)
    floors = np.full(len(queries), -np.inf)  # float32 products below these cannot be among the k best
    best: Found = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    pending: list[Found] = []
    size = max(1, min(_MOST_ROWS, _PRODUCTS // len(queries)))
    for start in range(0, len(features), size):
        pending.append(_candidates(features[start : start + size], queries, floors, k=k, error=error, start=start))
        # Select rarely, because it sorts. Until then the floors are only lower than possible.
        if sum(len(pairs[0]) for pairs in pending) >= len(queries) * k:
            best, pending = _best_of([best, *pending], k), []
            if len(best[0]) == len(queries) * k:
                floors = best[2].reshape(len(queries), k)[:, -1] - error
    return _best_of([best, *pending], k)


def _candidates(block: Features, queries: Features, floors: Floats, *, k: int, error: float, start: int) -> Found:
    """Return the matches of a query and a row of the block that may be among the query's k best."""
    with np.errstate(invalid="ignore", over="ignore"):  # checked below
        products = queries @ block.T
    # A number that is not finite affects the product of its row with every query, so one column reveals all of them.
    if not np.isfinite(products[0]).all():
        row = start + int(np.flatnonzero(~np.isfinite(products[0]))[0])
        raise DamagedError(f"the features of image number {row} are not finite: the model or the index is damaged")
    passing = products >= _lowered(floors)
    if k < len(block) and np.count_nonzero(passing) > 4 * k * len(queries):
        # The k best of all rows are among the k best of their blocks.
        own = np.partition(products, -k, axis=1)[:, -k].astype(np.float64) - 2 * error
        passing = products >= _lowered(np.maximum(floors, own))
    chosen, rows = np.divmod(np.flatnonzero(passing), len(block))
    cosines = np.empty(len(rows))
    for first in range(0, len(rows), _PAIRS):
        some = slice(first, first + _PAIRS)
        left, right = block[rows[some]].astype(np.float64), queries[chosen[some]].astype(np.float64)
        # Each sum has the same order for every row, so equal rows have equal cosines.
        np.einsum("ij,ij->i", left, right, out=cosines[some])
    return chosen, rows + start, cosines


def _lowered(floors: Floats) -> Any:
    """Return floors as a float32 column, rounded down. float32 comparisons are twice as fast."""
    return np.nextafter(floors.astype(np.float32), np.float32(-np.inf))[:, None]


def _best_of(parts: list[Found], k: int) -> Found:
    chosen, rows, cosines = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((rows, -cosines, chosen))
    chosen, rows, cosines = chosen[order], rows[order], cosines[order]
    kept = np.arange(len(chosen)) - np.searchsorted(chosen, chosen) < k  # the first k of each query
    return chosen[kept], rows[kept], cosines[kept]


logger = logging.getLogger(__name__)

INDEX_FOLDER = "index"  # in the model's folder
FOLDER_INDEX = ".vernaclip"  # in the searched folder
ROOT_INDEXES = "folder-indexes"  # in a root, for folders that are not writable
PORTION, MOST_PORTIONS = 8192, 10  # files per write of the index, and the maximum number of writes
_SAMPLE_COLUMNS = (
    "split",
    "sha256",
    "url",
    "page_url",
    "license",
    "attribution",
)  # columns of a pair shard that a hit contains
_NOT_IN_JSON = ("image", "name", "path")
_NAME_IS_NO_TEXT = "its name is not valid UTF-8: rename it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An image that a search found: a sample of a dataset, or a file of a folder.

    Args:
        rank: rank, from 1.
        cosine: cosine similarity of image and query.
        name: id of the sample, or path of the file relative to the searched folder.
        path: path of the file. None for a sample.
        image: the encoded image of a sample. Empty for a file.
        captions: all captions of a sample.
        split: split of a sample.
        sha256: sha256 of a sample's image before normalisation.
        url: address of a sample's image, if its source states it.
        page_url: address of the page with the image, if the source states it.
        license: license of the image, if the source states it.
        attribution: author of the image, if the source states it.
    """

    rank: int
    cosine: float
    name: str
    path: Path | None = None
    image: bytes = b""
    captions: tuple[str, ...] = ()
    split: str | None = None
    sha256: str | None = None
    url: str | None = None
    page_url: str | None = None
    license: str | None = None
    attribution: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the image."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_IN_JSON}
        is_sample = self.path is None
        place = {"sample_id": self.name if is_sample else None, "path": None if is_sample else str(self.path)}
        return {**found, **place, "captions": list(self.captions)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The images that are most similar to a text or an image, best first.

    Args:
        query: the text, or the path of the image.
        hits: the images.
        num_images: number of searched images.
        model_sha256: sha256 of the model's weights.
        unreadable: files of a folder that cannot be read, each with the reason.
        left_out: names of images that are the same file as the query, and would be hits.
    """

    query: str | Path
    hits: tuple[Hit, ...]
    num_images: int
    model_sha256: str
    unreadable: tuple[tuple[Path, str], ...] = ()
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the images."""
        return {
            "query": self.query if isinstance(self.query, str) else None,
            "query_image": str(self.query) if isinstance(self.query, Path) else None,
            "model_sha256": self.model_sha256,
            "num_images": self.num_images,
            "hits": [hit.to_json() for hit in self.hits],
            "left_out": list(self.left_out),
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Images with their features, for many searches. Create it with `shard_gallery` or `folder_gallery`.

    Args:
        model: the loaded model.
        features: one unit row per image, shape (images, dim).
        hits: returns the hits of the neighbours of one query.
        unreadable: files of a folder that cannot be read, each with the reason.
    """

    model: LoadedModel
    features: Features
    hits: Callable[[Neighbours], tuple[Hit, ...]]
    unreadable: tuple[tuple[Path, str], ...] = ()

    def search(self, query: str | Path, k: int) -> SearchResult:
        """Return the `k` images that are most similar to a text or an image.

        Raises:
            SettingsError: the text is empty, or k is below 1.
            InputError: the image cannot be read.
            DamagedError: a shard cannot be read, or the model's files are damaged.
        """
        _check_query(query, k)
        hits, left_out = _without_query(query, self.model, self.features, k, self.hits)
        return SearchResult(
            query=query,
            hits=hits,
            num_images=len(self.features),
            model_sha256=self.model.sha256,
            unreadable=self.unreadable,
            left_out=left_out,
        )


def search(
    query: str | Path,
    files: Sequence[Path],
    model: LoadedModel | Path,
    *,
    k: int = 12,
    sha256: Callable[[Path], str] = sha256_of,
) -> SearchResult:
    """Return the `k` images of pair shards that are most similar to a query. Cache features in the model's folder.

    Args:
        query: the text, or the path of an image.
        files: pair shards to search, of any split.
        model: a model folder, or a loaded model, for which nothing is cached.
        k: maximum number of images.
        sha256: returns the sha256 of a file; pass a lookup if hashes are already known.

    Raises:
        SettingsError: the query is empty.
        InputError: there are no images, or no trained model; or the query is not a readable image.
        DamagedError: a shard cannot be read, or the model's files are damaged.
    """
    _check_query(query, k)
    return shard_gallery(files, model, sha256=sha256).search(query, k)


def shard_gallery(
    files: Sequence[Path],
    model: LoadedModel | Path,
    *,
    sha256: Callable[[Path], str] = sha256_of,
    searched: Sequence[Path] = (),
) -> Gallery:
    """Return the images of pair shards, ready to be searched.

    The index is one for each model. Images that it has, of whichever snapshot, are not encoded again.

    Args:
        files: pair shards of a snapshot, all of which are indexed.
        model: a model folder, or a loaded model, for which nothing is cached.
        sha256: returns the sha256 of a file; pass a lookup if hashes are already known.
        searched: shards to search. Empty searches all.

    Raises:
        InputError: there are no images, or no trained model.
        DamagedError: a shard cannot be read, or the model's files are damaged.
    """
    loaded = open_model(model)
    hashes = [sha256(path) for path in files]
    place = model / INDEX_FOLDER if isinstance(model, Path) else None
    cached = _cached_index(
        place,
        lambda found: [found.facts["model"], found.facts["shards"]] == [loaded.sha256, hashes],
        lambda found: _updated_shards(loaded, files, hashes, found),
    )
    groups = [
        RowGroup(path, number, num_rows)
        for path, sizes in zip(files, cached.facts["row_groups"], strict=True)
        for number, num_rows in enumerate(sizes)
    ]
    features = cached.features
    if searched:
        features = features[
            np.repeat([group.path in searched for group in groups], [group.num_rows for group in groups])
        ]
        groups = [group for group in groups if group.path in searched]
    if not len(features):
        raise InputError("there are no images to search: build the dataset first")
    return Gallery(model=loaded, features=features, hits=lambda found: _hits(groups, found))


def _updated_shards(
    model: LoadedModel, files: Sequence[Path], hashes: Sequence[str], cached: FeatureIndex | None
) -> Iterator[FeatureIndex]:
    """Yield the index of pair shards: rows of the cached one for images that it has, by their bytes, and new rows."""
    rows: dict[str, Features] = {}
    if cached is not None and cached.facts["model"] == model.sha256:
        rows = dict(zip(cached.facts["images"], np.asarray(cached.features), strict=True))
    groups = row_groups(files)
    total = sum(group.num_rows for group in groups)
    images, num_encoded, num_written = list[str](), 0, 0
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        Progress("encode images", total=total, unit="images") as progress,
    ):
        for group in groups:
            encoded = encoded_images(group)
            names = [hashlib.sha256(image).hexdigest() for image in encoded]
            fresh = {name: image for name, image in zip(names, encoded, strict=True) if name not in rows}
            if fresh:
                pixels = decode_all(list(fresh.values()), model.preprocessing, pool)
                rows |= zip(fresh, picture_features(model, pixels), strict=True)
            images += names
            num_encoded += len(fresh)
            progress.advance(group.num_rows)
            if num_encoded - num_written >= max(PORTION, total // MOST_PORTIONS):
                num_written = num_encoded
                known = {"model": model.sha256, "shards": [], "row_groups": [], "images": list(rows)}
                yield FeatureIndex(stacked(list(rows.values())), known)
    logger.info("encoded %s of %s", f"{num_encoded:,}", counted(len(images), "image"))
    # Sizes of row groups too, so that only the shards with hits are opened.
    sizes = [[group.num_rows for group in groups if group.path == path] for path in files]
    facts = {"model": model.sha256, "shards": list(hashes), "row_groups": sizes, "images": images}
    yield FeatureIndex(stacked([rows[image] for image in images]), facts)


def search_dataset(
    root: Path, dataset: str | None, query: str | Path, *, num_hits: int, split: str | None = None
) -> SearchResult:
    """Return the images of a dataset or one of its splits that are most similar to a query, with its newest model.

    The images are those of the newest snapshot, also those that were added since the model was trained.

    Args:
        root: folder of the catalog.
        dataset: name of the dataset. None takes the only dataset that has a model.
        query: the text, or the path of an image.
        num_hits: maximum number of images.
        split: name of a split. None searches all.

    Raises:
        InputError: there is no such model, the split has no images, or the query is not a readable image.
    """
    _check_query(query, num_hits)
    model = current_model(root, dataset)
    snapshot = require_snapshot(root, model.snapshot.dataset)
    searched = () if split is None else snapshot.pair_files(split)
    if split is not None and not searched:
        raise InputError(f"the {split} split has no images: search another one")
    hashes = pair_hashes(snapshot)
    gallery = shard_gallery(list(hashes), model.folder, sha256=hashes.__getitem__, searched=searched)
    return gallery.search(query, num_hits)


def query_features(model: LoadedModel, query: str | Path) -> Features:
    """Return the features of a query, shape (1, dim). Log a warning if the text is too long for the model.

    Raises:
        InputError: an image cannot be read.
    """
    if isinstance(query, Path):
        pixels = model.preprocessing.resized(read_picture(query, model.image_size).image)
        return picture_features(model, np.stack([pixels]))
    if model.tokenizer.too_long([query]):
        logger.warning(
            "the text is longer than the %d tokens of the model's context: its end is cut off",
            model.tokenizer.context_length,
        )
    return text_features(model, [query])


def _check_query(query: str | Path, k: int) -> None:
    """Raise if a query is empty or not an image, or k is below 1, before the model is loaded.

    Raises:
        SettingsError: the text is empty or not valid Unicode, or k is below 1.
        InputError: the image cannot be read.
    """
    if k < 1:
        raise SettingsError(f"k must be positive, got {k}")
    if isinstance(query, Path):
        read_picture(query, 1)
    else:
        require_texts([query])


def _without_query(
    query: str | Path,
    model: LoadedModel,
    features: Features,
    k: int,
    read: Callable[[Neighbours], tuple[Hit, ...]],
) -> tuple[tuple[Hit, ...], tuple[str, ...]]:
    """Return the `k` best hits, and the names of better ones that were left out: they are the same file as the query.

    Args:
        query: the text, or the path of an image.
        model: the model.
        features: features of the searched images.
        k: maximum number of hits.
        read: returns the hits of some rows.
    """
    row = query_features(model, query)
    content = query.read_bytes() if isinstance(query, Path) else b""
    sha256 = hashlib.sha256(content).hexdigest()
    wanted = k
    while True:
        hits = read(nearest(features, row, wanted))
        same = {hit.rank for hit in hits if content and _has_content(hit, content, sha256)}
        if len(hits) - len(same) >= k or wanted >= len(features):
            break
        wanted = k + len(same)
    kept = (hit for hit in hits if hit.rank not in same)
    return (
        tuple(replace(hit, rank=rank) for rank, hit in enumerate(kept, start=1)),
        tuple(hit.name for hit in hits if hit.rank in same),
    )


def _has_content(hit: Hit, content: bytes, sha256: str) -> bool:
    """Return whether a hit has this content and its hash: as a file, or as a sample before or after normalisation."""
    if hit.path is None:
        return hit.image == content or hit.sha256 == sha256
    return hit.path.is_file() and hit.path.stat().st_size == len(content) and hit.path.read_bytes() == content


def _cached_index(
    place: Path | None,
    is_current: Callable[[FeatureIndex], bool],
    make: Callable[[FeatureIndex | None], Iterator[FeatureIndex]],
) -> FeatureIndex:
    """Return the cached index if it is current. Otherwise create a new one from it, and cache that.

    Args:
        place: folder of the index. None caches nothing.
        is_current: returns whether an index is up to date.
        make: yields ever more complete indexes from the cached one, if any. Each is written.
    """
    cached = read_index(place) if place is not None else None
    if cached is not None and is_current(cached):
        logger.info("search %s, whose features are in %s", counted(len(cached.features), "image"), place)
        return cached
    if place is None:
        for made in make(None):
            cached = made  # replaces the one before, to free its memory
    else:
        with writer_lock(place):
            cached = read_index(place)
            if cached is None or not is_current(cached):
                for made in make(cached):
                    write_index(place, made.features, made.facts)
                    cached = made
    assert cached is not None, "make yields at least one index"
    return cached


def _hits(groups: Sequence[RowGroup], found: Neighbours) -> tuple[Hit, ...]:
    """Read the samples of the hits. Each row group with hits is read once, and no other."""
    ends = np.cumsum([group.num_rows for group in groups])
    hits: dict[int, Hit] = {}
    places = sorted((int(index), rank) for rank, index in enumerate(found.indices[0].tolist(), start=1))
    for number, ranked in groupby(places, key=lambda place: int(np.searchsorted(ends, place[0], side="right"))):
        table = read_rows(groups[number], ("sample_id", "captions", "image", *_SAMPLE_COLUMNS))
        start = int(ends[number]) - groups[number].num_rows
        for index, rank in ranked:
            row = table.slice(index - start, 1).to_pylist()[0]
            hits[rank] = Hit(
                rank=rank,
                cosine=float(found.cosines[0, rank - 1]),
                name=row["sample_id"],
                image=row["image"]["bytes"],
                captions=tuple(row["captions"]),
                **{name: row[name] for name in _SAMPLE_COLUMNS},
            )
    return tuple(hits[rank] for rank in sorted(hits))


class _File(NamedTuple):
    """An image file, with the facts that show if it has changed.

    Args:
        name: path relative to the folder, with "/".
        size: size in bytes.
        modified_ns: time of the last change of content (mtime), in nanoseconds.
        touched_ns: time of the last change of content or metadata, such as permissions (ctime), in nanoseconds.
    """

    name: str
    size: int
    modified_ns: int
    touched_ns: int

    @property
    def content(self) -> tuple[str, int, int]:
        """Return the facts that change with the content."""
        return self[:3]


def search_folder(
    query: str | Path, folder: Path, model: LoadedModel | Path, *, k: int = 12, root: Path | None = None
) -> SearchResult:
    """Return the `k` images of a folder and its subfolders that are most similar to a query.

    Features are cached in the folder, with one index per model. Only files with a new size or modification time are
    encoded again. Hidden files and folders, and links to folders, are skipped.

    Args:
        query: the text, or the path of an image.
        folder: the folder.
        model: a model folder or a loaded model.
        k: maximum number of images.
        root: catalog that gets the index if the folder is not writable. None keeps the index in memory then.

    Raises:
        SettingsError: the query is empty.
        InputError: there is no such folder, no readable image, or no trained model; or the query is not a readable
            image.
        DamagedError: the model's files are damaged.
    """
    _check_query(query, k)
    return folder_gallery(folder, model, root=root).search(query, k)


def folder_gallery(folder: Path, model: LoadedModel | Path, *, root: Path | None = None) -> Gallery:
    """Return the images of a folder, ready to be searched. Arguments and errors are those of `search_folder`."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    files, nameless = _image_files(folder)
    if not files:
        raise InputError(f"{folder} contains no image files ({', '.join(IMAGE_SUFFIXES)})")
    loaded = open_model(model)
    inside = folder / FOLDER_INDEX
    written = inside if inside.exists() else folder
    place = None
    # The superuser can write to any folder, but a folder that nobody may write to should not be changed.
    if written.stat().st_mode & 0o222 and os.access(written, os.W_OK | os.X_OK):
        place = inside / loaded.sha256[:12]
    elif root is not None:
        place = root / ROOT_INDEXES / digest([str(folder.resolve()), loaded.sha256])[:12]

    def is_current(cached: FeatureIndex) -> bool:
        good = {tuple(file) for file in cached.facts["files"]}
        broken = {(name, *entry[:-1]) for name, entry in cached.facts["broken"].items()}
        seen = {file.content if file.content in good else tuple(file) for file in files}
        return cached.facts["model"] == loaded.sha256 and good | broken == seen

    cached = _cached_index(place, is_current, lambda cached: _updated_indexes(loaded, folder, files, cached))
    names = [name for name, *_ in cached.facts["files"]]
    unreadable = (
        *nameless,
        *((folder / name, str(entry[-1])) for name, entry in sorted(cached.facts["broken"].items())),
    )
    if not names:
        raise InputError(f"none of the {len(files):,} image files of {folder} can be read: {unreadable[0][1]}")

    def hits(found: Neighbours) -> tuple[Hit, ...]:
        return tuple(
            Hit(rank=rank, cosine=float(cosine), name=names[index], path=folder / names[index])
            for rank, (index, cosine) in enumerate(zip(found.indices[0], found.cosines[0], strict=True), start=1)
        )

    return Gallery(model=loaded, features=cached.features, hits=hits, unreadable=unreadable)


def _image_files(folder: Path) -> tuple[list[_File], list[tuple[Path, str]]]:
    """Return the files with image suffixes, sorted by name, and the files whose names are not valid UTF-8."""
    files, nameless = [], []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place, name)
            if name.startswith(".") or not is_image_name(name):
                continue
            below = path.relative_to(folder).as_posix()
            if any("\ud800" <= letter <= "\udfff" for letter in below):
                nameless.append((path, _NAME_IS_NO_TEXT))
                continue
            try:
                found = path.stat()
                files.append(_File(below, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
            except OSError:  # a broken link, which decoding reports
                files.append(_File(below, -1, -1, -1))
    return sorted(files), sorted(nameless)


def _updated_indexes(
    model: LoadedModel, folder: Path, files: Sequence[_File], cached: FeatureIndex | None
) -> Iterator[FeatureIndex]:
    """Yield updated indexes: cached rows of unchanged files, and new rows for more and more of the other files.

    Rows that an interrupted search has written are kept. Files that could not be read are tried again.
    """
    rows: dict[tuple[Any, ...], Features] = {}
    if cached is not None and cached.facts["model"] == model.sha256:
        names = (tuple(file) for file in cached.facts["files"])
        rows = dict(zip(names, np.asarray(cached.features), strict=True))
    fresh = [file for file in files if file.content not in rows]
    logger.info("encode %s of %s in %s", f"{len(fresh):,}", counted(len(files), "image file"), folder)
    broken: dict[str, list[Any]] = {}
    step = max(PORTION, len(files) // MOST_PORTIONS)
    for start in range(0, max(len(fresh), 1), step):
        portion = {folder / file.name: file for file in fresh[start : start + step]}
        encoded, reasons = encode_files(model, list(portion))
        rows |= {portion[path].content: row for path, row in encoded.items()}
        broken |= {portion[path].name: [*portion[path][1:], reason] for path, reason in reasons.items()}
        good = [file.content for file in files if file.content in rows]
        facts = {"model": model.sha256, "files": [list(file) for file in good], "broken": broken}
        yield FeatureIndex(stacked([rows[file] for file in good]), facts)

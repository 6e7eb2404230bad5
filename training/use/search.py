"""Find the images of a dataset or a folder that are most similar to a text or an image.

Features are computed once and cached: those of a dataset beside the model, those of a folder in that folder, where they
are updated when files change.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.plain_text import counted
from data_catalog.base.progress import Progress
from data_catalog.disk.files import digest
from data_catalog.disk.lock import writer_lock
from data_catalog.rows.fetch_reasons import NORMALISE_REASONS
from data_catalog.rows.image_formats import HEIF, IMAGE_SUFFIXES, is_image_name, reads_heif
from training.data.features import FeatureIndex, read_index, stacked, text_features, write_index
from training.data.images import Features, decode_all, encode_files, encoded_images, picture_features, read_picture
from training.data.pairs import Floats, Integers, RowGroup, read_rows, row_groups
from training.towers.model import LoadedModel, open_model, require_texts

logger = logging.getLogger(__name__)

SPARE = 64  # rows beyond the k best that are compared in float64
INDEX_FOLDER = "index"  # in the model's folder
FOLDER_INDEX = ".vernaclip"  # in the searched folder
ROOT_INDEXES = "folder-indexes"  # in a root, for folders that are not writable
PORTION, MOST_PORTIONS = 8192, 10  # images per write of the index, and the maximum number of writes
SAMPLE_COLUMNS = ("split", "sha256", "url", "page_url", "license", "attribution")

# Path below the folder, size, and the times in nanoseconds when content and metadata, such as permissions, changed.
File = tuple[str, int, int, int]


def nearest(features: Features, query: Features, k: int) -> tuple[Integers, Floats]:
    """Return the places of the `k` rows with the highest cosine to a query, best first, and their cosines.

    Products in float32 choose k + `SPARE` rows, products in float64 order them. Equal rows among these keep their
    order. `features` has unit rows, shape (rows, dim), and may be memory-mapped; `query` is a unit row, shape (dim,).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        products = features @ query
    require_finite(products)
    rows = np.arange(len(products))
    if k + SPARE < len(products):
        rows = np.sort(np.argpartition(products, -(k + SPARE))[-(k + SPARE) :])
    # einsum adds up every row in the same order, so equal rows have equal cosines.
    cosines: Floats = np.einsum("ij,j->i", features[rows].astype(np.float64), query.astype(np.float64))
    order = np.argsort(-cosines, kind="stable")[:k]
    return rows[order], cosines[order]


def require_finite(values: Any) -> None:
    """Refuse results of damaged weights."""
    if not np.isfinite(values).all():
        raise DamagedError("features are not finite: the model or the index of its images is damaged")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An image that a search found: a sample of a dataset with its encoded image, or a file of a folder."""

    rank: int = 0
    cosine: float
    name: str  # of the sample, or the path relative to the searched folder
    path: Path | None = None
    image: bytes = b""
    captions: tuple[str, ...] = ()
    split: str | None = None
    sha256: str | None = None  # of a sample's image before normalisation
    url: str | None = None
    page_url: str | None = None
    license: str | None = None
    attribution: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the image."""
        return {
            "rank": self.rank,
            "cosine": self.cosine,
            "captions": list(self.captions),
            **{name: getattr(self, name) for name in SAMPLE_COLUMNS},
            "sample_id": self.name if self.path is None else None,
            "path": None if self.path is None else str(self.path),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The images that are most similar to a text or an image, best first."""

    query: str | Path
    hits: tuple[Hit, ...]
    num_images: int  # that were searched
    model_sha256: str
    unreadable: tuple[tuple[Path, str], ...] = ()  # files of a folder, each with the reason
    left_out: tuple[str, ...] = ()  # names of images that are the same file as the query, and would be hits

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
    """Images with their features, one unit row each, for many searches; `hits` returns those at some places."""

    model: LoadedModel
    features: Features
    hits: Callable[[Integers, Floats], list[Hit]]
    unreadable: tuple[tuple[Path, str], ...] = ()

    def search(self, query: str | Path, k: int) -> SearchResult:
        """Return the `k` images that are most similar to a text or an image, without those that are the same file."""
        check_query(query, k)
        row = query_features(self.model, query)
        content = query.read_bytes() if isinstance(query, Path) else b""
        wanted = k
        while True:
            hits = self.hits(*nearest(self.features, row, wanted))
            same = [hit.name for hit in hits if content and _has_content(hit, content)]
            if len(hits) - len(same) >= k or wanted >= len(self.features):
                break
            wanted = k + len(same)
        others = (hit for hit in hits if hit.name not in same)
        return SearchResult(
            query=query,
            hits=tuple(replace(hit, rank=rank) for rank, hit in enumerate(others, start=1)),
            num_images=len(self.features),
            model_sha256=self.model.sha256,
            unreadable=self.unreadable,
            left_out=tuple(same),
        )


def check_query(query: str | Path, k: int) -> None:
    """Refuse a query that is empty or no image, as should be done before the model is loaded."""
    if k < 1:
        raise SettingsError(f"k must be positive, got {k}")
    if isinstance(query, Path):
        read_picture(query, 1)
    else:
        require_texts([query])


def query_features(model: LoadedModel, query: str | Path) -> Features:
    """Return the features of a query, shape (dim,). Log a warning if the text is too long for the model."""
    if isinstance(query, Path):
        pixels = model.preprocessing.resized(read_picture(query, model.image_size).image)
        return picture_features(model, np.stack([pixels])).reshape(-1)
    if model.tokenizer.too_long([query]):
        most = model.tokenizer.context_length
        logger.warning("the text is longer than the %d tokens of the model's context: its end is cut off", most)
    return text_features(model, [query]).reshape(-1)


def _has_content(hit: Hit, content: bytes) -> bool:
    """Return whether a hit is the same file: that of a folder, or that of a sample before or after normalisation."""
    if hit.path is None:
        return hit.image == content or hit.sha256 == hashlib.sha256(content).hexdigest()
    return hit.path.is_file() and hit.path.stat().st_size == len(content) and hit.path.read_bytes() == content


def shard_gallery(
    shards: Mapping[Path, str], model: LoadedModel | Path, *, searched: Sequence[Path] | None = None
) -> Gallery:
    """Return the images of pair shards, ready to be searched.

    The shards of a snapshot, with their sha256, are all indexed, and `searched` or all are searched. The index is one
    for each model folder; for a loaded model nothing is cached. Images that it has, of whichever snapshot, are not
    encoded again.
    """
    loaded, hashes, groups = open_model(model), list(shards.values()), row_groups(list(shards))
    features = _index(
        model / INDEX_FOLDER if isinstance(model, Path) else None,
        loaded,
        lambda facts: bool(facts["shards"] == hashes),
        lambda cached: _encoded_shards(loaded, groups, hashes, cached),
    ).features
    if searched is not None:
        chosen = np.array([group.path in searched for group in groups], dtype=bool)
        features = features[np.repeat(chosen, [group.num_rows for group in groups])]
        groups = [group for group in groups if group.path in searched]
    if not len(features):
        raise InputError("there are no images to search: build the dataset first, or name another split")
    return Gallery(model=loaded, features=features, hits=lambda rows, cosines: _samples(groups, rows, cosines))


def folder_gallery(folder: Path, model: LoadedModel | Path, *, root: Path | None = None) -> Gallery:
    """Return the images of a folder and its subfolders, ready to be searched.

    Features are cached in the folder, with one index per model, or in the root if the folder is not writable. Only new
    and changed files are encoded again. Hidden files and folders, and links to folders, are skipped.
    """
    files, unreadable = _image_files(folder)
    if not files:
        raise InputError(f"{folder} is no folder with image files ({', '.join(IMAGE_SUFFIXES)})")
    loaded = open_model(model)
    index = _index(
        _folder_index(folder, loaded, root),
        loaded,
        lambda facts: {*map(tuple, facts["files"]), *_broken(facts)} == set(files) and not _lacked_heif(facts),
        lambda cached: _encoded_files(loaded, folder, files, cached),
    )
    names = [name for name, *_ in index.facts["files"]]
    unreadable += [(folder / name, reason) for (name, *_), reason in sorted(_broken(index.facts).items())]
    if not names:
        raise InputError(f"none of the {len(files):,} image files of {folder} can be read: {unreadable[0][1]}")

    def hits(rows: Integers, cosines: Floats) -> list[Hit]:
        found = zip((names[row] for row in rows), cosines.tolist(), strict=True)
        return [Hit(cosine=cosine, name=name, path=folder / name) for name, cosine in found]

    return Gallery(model=loaded, features=index.features, hits=hits, unreadable=tuple(unreadable))


def _index(
    place: Path | None,
    model: LoadedModel,
    is_current: Callable[[dict[str, Any]], bool],
    encode: Callable[[FeatureIndex | None], Iterator[FeatureIndex]],
) -> FeatureIndex:
    """Return the index cached at a place if it is current; else the last, complete one that `encode` makes of it."""

    def cached() -> FeatureIndex | None:
        found = None if place is None else read_index(place)
        return found if found is not None and found.facts["model"] == model.sha256 else None

    found = cached()
    if found is not None and is_current(found.facts):
        logger.info("search %s, whose features are in %s", counted(len(found.features), "image"), place)
        return found
    with nullcontext() if place is None else writer_lock(place):
        found = cached()  # another process may have written it meanwhile
        if found is None or not is_current(found.facts):
            for found in encode(found):  # noqa: B020 - each index replaces the one before, to free its memory
                if place is not None:
                    write_index(place, found.features, found.facts)
    assert found is not None, "encode yields at least one index"
    return found


def _encoded_shards(
    model: LoadedModel, groups: Sequence[RowGroup], hashes: Sequence[str], cached: FeatureIndex | None
) -> Iterator[FeatureIndex]:
    """Yield the index of pair shards: rows of the cached one for images that it has, by their bytes, and new rows."""
    rows: dict[str, Features] = {}
    if cached is not None:
        rows = dict(zip(cached.facts["images"], np.asarray(cached.features), strict=True))
    total = sum(group.num_rows for group in groups)
    images, num_known, num_written = list[str](), len(rows), len(rows)
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
            progress.advance(group.num_rows)
            if len(rows) - num_written >= max(PORTION, total // MOST_PORTIONS):
                num_written = len(rows)
                facts = {"model": model.sha256, "shards": [], "images": list(rows)}
                yield FeatureIndex(stacked(list(rows.values())), facts)
    logger.info("encoded %s of %s", f"{len(rows) - num_known:,}", counted(len(images), "image"))
    facts = {"model": model.sha256, "shards": list(hashes), "images": images}
    yield FeatureIndex(stacked([rows[image] for image in images]), facts)


def _samples(groups: Sequence[RowGroup], rows: Integers, cosines: Floats) -> list[Hit]:
    """Return the samples at some places. Each row group with hits is read once, and no other."""
    wanted = dict(zip(rows.tolist(), cosines.tolist(), strict=True))
    hits: dict[int, Hit] = {}
    start = 0
    for group in groups:
        inside = [row for row in wanted if start <= row < start + group.num_rows]
        if inside:
            table = read_rows(group, ("sample_id", "captions", "image", *SAMPLE_COLUMNS))
        for row in inside:
            (sample,) = table.slice(row - start, 1).to_pylist()
            hits[row] = Hit(
                cosine=wanted[row],
                name=sample["sample_id"],
                image=sample["image"]["bytes"],
                captions=tuple(sample["captions"]),
                **{name: sample[name] for name in SAMPLE_COLUMNS},
            )
        start += group.num_rows
    return [hits[row] for row in wanted]


def _folder_index(folder: Path, model: LoadedModel, root: Path | None) -> Path | None:
    """Return where the features of a folder are cached: in the folder, or in the root if it is not writable."""
    inside = folder / FOLDER_INDEX
    written = inside if inside.exists() else folder
    # The superuser can write to any folder, but a folder that nobody may write to should not be changed.
    if written.stat().st_mode & 0o222 and os.access(written, os.W_OK | os.X_OK):
        return inside / model.sha256[:12]
    return None if root is None else root / ROOT_INDEXES / digest([str(folder.resolve()), model.sha256])[:12]


def _image_files(folder: Path) -> tuple[list[File], list[tuple[Path, str]]]:
    """Return the files with image suffixes, sorted by name, and those whose names no index can hold."""
    files, nameless = list[File](), []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in names if is_image_name(name) and not name.startswith(".")):
            below = path.relative_to(folder).as_posix()
            if any("\ud800" <= letter <= "\udfff" for letter in below):
                nameless.append((path, "its name is not valid UTF-8: rename it"))
                continue
            try:
                found = path.stat()
                files.append((below, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
            except OSError:  # a broken link, which decoding reports
                files.append((below, -1, -1, -1))
    return sorted(files), sorted(nameless)


def _broken(facts: dict[str, Any]) -> dict[File, str]:
    """Return the files of an index that cannot be read, each with the reason."""
    return {(name, *times): reason for name, (*times, reason) in facts["broken"].items()}


def _lacked_heif(facts: dict[str, Any]) -> bool:
    """Return whether files of an index were not read for want of a decoder that is installed now."""
    reason = f"{NORMALISE_REASONS['format_not_allowed'].meaning} ({HEIF}"
    return reads_heif() and any(why.startswith(reason) for *_, why in facts["broken"].values())


def _encoded_files(
    model: LoadedModel, folder: Path, files: Sequence[File], cached: FeatureIndex | None
) -> Iterator[FeatureIndex]:
    """Yield indexes of a folder: cached rows of unchanged files, and rows of more of the others; broken ones again."""
    rows: dict[File, Features] = {}
    if cached is not None:
        rows = dict(zip(map(tuple, cached.facts["files"]), np.asarray(cached.features), strict=True))
    fresh = [file for file in files if file not in rows]
    logger.info("encode %s of %s in %s", f"{len(fresh):,}", counted(len(files), "image file"), folder)
    broken: dict[str, list[Any]] = {}
    step = max(PORTION, len(files) // MOST_PORTIONS)
    for start in range(0, max(len(fresh), 1), step):
        portion = {folder / file[0]: file for file in fresh[start : start + step]}
        encoded, reasons = encode_files(model, list(portion))
        rows |= {portion[path]: row for path, row in encoded.items()}
        broken |= {portion[path][0]: [*portion[path][1:], reason] for path, reason in reasons.items()}
        good = [file for file in files if file in rows]
        facts = {"model": model.sha256, "files": [list(file) for file in good], "broken": broken}
        yield FeatureIndex(stacked([rows[file] for file in good]), facts)

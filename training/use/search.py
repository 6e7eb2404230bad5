"""Find the images of a dataset or of a folder that are most like a text.

Features are computed once. Those of a dataset lie beside the model, those of a folder in it, where they follow its
changes.

The search is exact. Products are taken in float32, block by block, which is twice as fast as in float64. Whatever could
be among the k best, given how far a float32 sum may be off, is then computed in float64: so the answer is that of
float64 throughout.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_catalog.errors import DamagedError, DefectError, InputError, SettingsError
from data_catalog.images.formats import IMAGE_SUFFIXES, is_image_name
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import digest, sha256_of
from training.data.features import (
    INDEX_VERSION,
    KeptFeatures,
    image_features,
    keep_features,
    read_features,
    stacked,
    text_features,
)
from training.data.images import Features, encode_files
from training.data.pairs import Floats, Integers, RowGroup, read_rows, row_groups
from training.towers.model import LoadedModel, open_model, require_texts
from training.trained_models import current_model, pair_hashes

Found = tuple[Integers, Integers, Floats]  # query, row and cosine of each pair

QUERIES_AT_A_TIME = 1024
_MOST_ROWS = 65_536
_PRODUCTS = 1 << 22  # of one block: 16 MiB of float32
_PAIRS = 4096  # that are computed in float64 at a time


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The best rows for each query, best first; of equal ones the first comes first.

    Args:
        indices: int64, shape (queries, min(k, rows)).
        cosines: float64, of the same shape.
    """

    indices: Integers
    cosines: Floats


def nearest(features: Features, queries: Features, k: int) -> Neighbours:
    """Return the `k` rows of `features` with the highest cosine to each query; all rows where there are fewer.

    Memory beside the arguments and the result does not grow with the number of rows, nor with that of queries.

    Args:
        features: unit rows, float32, shape (rows, dim); may be mapped from a file, and is read once for every
            `QUERIES_AT_A_TIME` queries.
        queries: unit rows, float32, shape (queries, dim).

    Raises:
        SettingsError: `k` is below 1.
        DamagedError: a number is not finite.
        DefectError: the shapes do not fit.
    """
    if k < 1:
        raise SettingsError(f"k must be positive, got {k}")
    if features.ndim != 2 or queries.ndim != 2 or (len(features) and features.shape[1] != queries.shape[1]):
        raise DefectError(f"features of shape {features.shape} cannot be searched by queries of shape {queries.shape}")
    if not np.isfinite(queries).all():
        raise DamagedError("the features of a query are not finite: the model is broken")
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
    """Return the k best pairs of each query, best first, query by query."""
    # How far a float32 product of unit rows may be from the true one, in whatever order its terms are summed. Source:
    # N. Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1; twice that (eps is twice the unit
    # roundoff), for rows that are of length 1 only nearly.
    error = float(queries.shape[1] * np.finfo(np.float32).eps)
    floors = np.full(len(queries), -np.inf)  # what is below, in float32, is not among the k best
    best: Found = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    pending: list[Found] = []
    size = max(1, min(_MOST_ROWS, _PRODUCTS // len(queries)))
    for start in range(0, len(features), size):
        pending.append(_candidates(features[start : start + size], queries, floors, k=k, error=error, start=start))
        # Seldom, for it sorts; until then the floors are only lower than they could be.
        if sum(len(pairs[0]) for pairs in pending) >= len(queries) * k:
            best, pending = _best_of([best, *pending], k), []
            if len(best[0]) == len(queries) * k:
                floors = best[2].reshape(len(queries), k)[:, -1] - error
    return _best_of([best, *pending], k)


def _candidates(block: Features, queries: Features, floors: Floats, *, k: int, error: float, start: int) -> Found:
    """Return the pairs of a query and a row of the block that may be among its k best."""
    with np.errstate(invalid="ignore", over="ignore"):  # told below
        products = queries @ block.T
    # A number that is not finite spoils the product of its row with any query: one column shows them all.
    if not np.isfinite(products[0]).all():
        row = start + int(np.flatnonzero(~np.isfinite(products[0]))[0])
        raise DamagedError(f"the features of image number {row} are not finite: the model is broken, or the index is")
    passing = products >= _lowered(floors)
    if k < len(block) and np.count_nonzero(passing) > 4 * k * len(queries):
        # What is among the k best of all is among those of its block.
        own = np.partition(products, -k, axis=1)[:, -k].astype(np.float64) - 2 * error
        passing = products >= _lowered(np.maximum(floors, own))
    chosen, rows = np.divmod(np.flatnonzero(passing), len(block))
    cosines = np.empty(len(rows))
    for first in range(0, len(rows), _PAIRS):
        some = slice(first, first + _PAIRS)
        left, right = block[rows[some]].astype(np.float64), queries[chosen[some]].astype(np.float64)
        # Each is summed in the same order wherever its row stands: equal rows have equal cosines.
        np.einsum("ij,ij->i", left, right, out=cosines[some])
    return chosen, rows + start, cosines


def _lowered(floors: Floats) -> Any:
    """Return floors as a column of float32, with which comparing is twice as fast; one number lower, for rounding."""
    return np.nextafter(floors.astype(np.float32), np.float32(-np.inf))[:, None]


def _best_of(parts: list[Found], k: int) -> Found:
    chosen, rows, cosines = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((rows, -cosines, chosen))
    chosen, rows, cosines = chosen[order], rows[order], cosines[order]
    kept = np.arange(len(chosen)) - np.searchsorted(chosen, chosen) < k  # the first k of each query
    return chosen[kept], rows[kept], cosines[kept]


logger = logging.getLogger(__name__)

INDEX_FOLDER = "index"  # inside the model's folder
FOLDER_INDEX = ".vernaclip"  # in the folder that is searched
ELSEWHERE = "folder-indexes"  # below a root, for folders that cannot be written to
PORTION, MOST_PORTIONS = 8192, 10  # files that are read before the index is written, and how often it is at most
_TOLD = ("split", "url", "page_url", "license", "attribution")  # of a sample, as its shard has them
_NOT_IN_JSON = ("image", "name", "path")
_NAME_IS_NO_TEXT = "its name is not valid UTF-8: rename it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An image found for a query: a sample of a dataset, or a file of a folder.

    Args:
        rank: from 1.
        cosine: of its features and the text's.
        name: the sample's identity, or the file's path below the folder that was searched.
        path: of a file; None for a sample.
        image: encoded, as the shard holds it; empty for a file.
        captions: all captions of a sample.
        split: of a sample, as its address, page, license and attribution, where its source tells them.
    """

    rank: int
    cosine: float
    name: str
    path: Path | None = None
    image: bytes = b""
    captions: tuple[str, ...] = ()
    split: str | None = None
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
    """The images most like a text, best first.

    Args:
        num_images: that were searched.
        unreadable: files of a folder that could not be, each with the reason.
        model_sha256: of the model's weights.
    """

    query: str
    hits: tuple[Hit, ...]
    num_images: int
    model_sha256: str
    unreadable: tuple[tuple[Path, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the images."""
        return {
            "query": self.query,
            "model_sha256": self.model_sha256,
            "num_images": self.num_images,
            "hits": [hit.to_json() for hit in self.hits],
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
        }


def search(
    query: str,
    files: Sequence[Path],
    model: LoadedModel | Path,
    *,
    k: int = 12,
    sha256: Callable[[Path], str] = sha256_of,
) -> SearchResult:
    """Return the `k` images of pair shards that are most like a text; features are kept beside the model.

    Args:
        files: pair shards to search, of any split.
        model: a folder, or a loaded model, of which nothing is kept.
        sha256: content hash of a file, where the caller knows hashes already.

    Raises:
        SettingsError: an empty query.
        InputError: no images, or no trained model.
        DamagedError: a shard cannot be read, or the model's files are damaged.
    """
    _check_query(query, k)
    loaded = open_model(model)

    def computed(_: KeptFeatures | None) -> Iterator[KeptFeatures]:
        # Where each row group ends is kept as well, so that finding a hit's shard opens no other one.
        sizes = [[group.num_rows for group in row_groups([path])] for path in files]
        yield KeptFeatures(image_features(loaded, files), {"row_groups": sizes})

    place = None
    if isinstance(model, Path):
        place = model / INDEX_FOLDER / digest([INDEX_VERSION, loaded.sha256, [sha256(path) for path in files]])[:12]
    kept = _kept(place, lambda _: True, computed)
    if not len(kept.features):
        raise InputError("there are no images to search: build the dataset first")
    groups = [
        RowGroup(path, number, num_rows)
        for path, sizes in zip(files, kept.facts["row_groups"], strict=True)
        for number, num_rows in enumerate(sizes)
    ]
    hits = _hits(groups, nearest(kept.features, query_features(loaded, query), k))
    return SearchResult(query=query, hits=hits, num_images=len(kept.features), model_sha256=loaded.sha256)


def search_dataset(
    root: Path, dataset: str | None, text: str, *, num_hits: int, split: str | None = None
) -> SearchResult:
    """Return the images of a dataset, or of one of its splits, that fit a text best, by its newest model.

    Args:
        root: of a catalog.
        dataset: whose images; None: of the only dataset that has a model.

    Raises:
        InputError: there is no such model, or the split has no images.
    """
    model = current_model(root, dataset)
    hashes = pair_hashes(model.snapshot)
    files = list(hashes) if split is None else model.snapshot.pair_files(split)
    if not files:
        raise InputError(f"the {split} split has no images: search another one")
    return search(text, files, model.folder, k=num_hits, sha256=hashes.__getitem__)


def query_features(model: LoadedModel, query: str) -> Features:
    """Return features of a query, shape (1, dim); a text that is too long is told in the log."""
    if model.tokenizer.too_long([query]):
        logger.warning(
            "the text has more tokens than the %d that the model reads: its end is left out",
            model.tokenizer.context_length,
        )
    return text_features(model, [query])


def _check_query(query: str, k: int) -> None:
    """Refuse a query that says nothing, and a result that is empty."""
    require_texts([query])
    if k < 1:
        raise SettingsError(f"k must be positive, got {k}")


def _kept(
    place: Path | None,
    is_current: Callable[[KeptFeatures], bool],
    make: Callable[[KeptFeatures | None], Iterator[KeptFeatures]],
) -> KeptFeatures:
    """Return the index that is kept, if it is current; else make one of what was kept, and keep it.

    Args:
        place: where it lies; None: nowhere.
        make: yields better and better ones, of which each is kept.
    """
    kept = read_features(place) if place is not None else None
    if kept is not None and is_current(kept):
        return kept
    if place is None:
        for made in make(None):
            kept = made  # in the place of the one before
    else:
        with writer_lock(place):
            kept = read_features(place)
            if kept is None or not is_current(kept):
                for made in make(kept):
                    keep_features(place, made.features, made.facts)
                    kept = made
    assert kept is not None, "at least one is made"
    return kept


def _hits(groups: Sequence[RowGroup], found: Neighbours) -> tuple[Hit, ...]:
    """Read the samples that were found; each row group that holds some of them is read once, and no other one."""
    ends = np.cumsum([group.num_rows for group in groups])
    hits: dict[int, Hit] = {}
    places = sorted((int(index), rank) for rank, index in enumerate(found.indices[0].tolist(), start=1))
    for number, ranked in groupby(places, key=lambda place: int(np.searchsorted(ends, place[0], side="right"))):
        table = read_rows(groups[number], ("sample_id", "captions", "image", *_TOLD))
        start = int(ends[number]) - groups[number].num_rows
        for index, rank in ranked:
            row = table.slice(index - start, 1).to_pylist()[0]
            hits[rank] = Hit(
                rank=rank,
                cosine=float(found.cosines[0, rank - 1]),
                name=row["sample_id"],
                image=row["image"]["bytes"],
                captions=tuple(row["captions"]),
                **{name: row[name] for name in _TOLD},
            )
    return tuple(hits[rank] for rank in sorted(hits))


class _File(NamedTuple):
    """An image file and what tells that it has not changed.

    Args:
        name: below the folder, with "/".
        size: in bytes.
        modified_ns: when its content changed.
        touched_ns: when anything of it changed, its permissions too.
    """

    name: str
    size: int
    modified_ns: int
    touched_ns: int

    @property
    def content(self) -> tuple[str, int, int]:
        """Return what changes with the content."""
        return self[:3]


def search_folder(
    query: str, folder: Path, model: LoadedModel | Path, *, k: int = 12, root: Path | None = None
) -> SearchResult:
    """Return the `k` images of a folder, and of the folders in it, that are most like a text.

    Features are kept in the folder, one index a model. Only files whose size or time of change is new are encoded
    again. Hidden files and folders, and links to folders, are left out.

    Args:
        root: below which the index goes if the folder cannot be written to; None for an index in memory then.

    Raises:
        SettingsError: an empty query.
        InputError: no such folder, no image that can be read, or no trained model.
        DamagedError: the model's files are damaged.
    """
    _check_query(query, k)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    files, nameless = _image_files(folder)
    if not files:
        raise InputError(f"{folder} holds no image files ({', '.join(IMAGE_SUFFIXES)})")
    loaded = open_model(model)
    inside = folder / FOLDER_INDEX
    written = inside if inside.exists() else folder
    place = None
    # Root could write anywhere, but a folder that grants that to nobody is not meant to be.
    if written.stat().st_mode & 0o222 and os.access(written, os.W_OK | os.X_OK):
        place = inside / loaded.sha256[:12]
    elif root is not None:
        place = root / ELSEWHERE / digest([str(folder.resolve()), loaded.sha256])[:12]

    def is_current(kept: KeptFeatures) -> bool:
        good = {tuple(file) for file in kept.facts["files"]}
        broken = {(name, *told[:-1]) for name, told in kept.facts["broken"].items()}
        seen = {file.content if file.content in good else tuple(file) for file in files}
        return kept.facts["model"] == loaded.sha256 and good | broken == seen

    kept = _kept(place, is_current, lambda kept: _renewed(loaded, folder, files, kept))
    names = [name for name, *_ in kept.facts["files"]]
    unreadable = (*nameless, *((folder / name, str(told[-1])) for name, told in sorted(kept.facts["broken"].items())))
    if not names:
        raise InputError(f"none of the {len(files):,} image files of {folder} can be read: {unreadable[0][1]}")
    found = nearest(kept.features, query_features(loaded, query), k)
    hits = tuple(
        Hit(rank=rank, cosine=float(cosine), name=names[index], path=folder / names[index])
        for rank, (index, cosine) in enumerate(zip(found.indices[0], found.cosines[0], strict=True), start=1)
    )
    return SearchResult(
        query=query, hits=hits, num_images=len(names), model_sha256=loaded.sha256, unreadable=unreadable
    )


def _image_files(folder: Path) -> tuple[list[_File], list[tuple[Path, str]]]:
    """Return image files by their names' ends, in the order of their names; and those whose names are no text."""
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
            except OSError:  # a link to nothing; decoding says so
                files.append(_File(below, -1, -1, -1))
    return sorted(files), sorted(nameless)


def _renewed(
    model: LoadedModel, folder: Path, files: Sequence[_File], kept: KeptFeatures | None
) -> Iterator[KeptFeatures]:
    """Yield old rows where files are as they were, and new ones for more and more of the others.

    What an interrupted search has read stays read. Files that could not be read are tried again.
    """
    rows: dict[tuple[Any, ...], Features] = {}
    if kept is not None and kept.facts["model"] == model.sha256:
        names = (tuple(file) for file in kept.facts["files"])
        rows = dict(zip(names, np.asarray(kept.features), strict=True))
    fresh = [file for file in files if file.content not in rows]
    broken: dict[str, list[Any]] = {}
    step = max(PORTION, len(files) // MOST_PORTIONS)
    for start in range(0, max(len(fresh), 1), step):
        portion = {folder / file.name: file for file in fresh[start : start + step]}
        encoded, reasons = encode_files(model, list(portion))
        rows |= {portion[path].content: row for path, row in encoded.items()}
        broken |= {portion[path].name: [*portion[path][1:], reason] for path, reason in reasons.items()}
        logger.info("%s: %d of %d files read, the others were known", folder, len(portion), len(files))
        good = [file.content for file in files if file.content in rows]
        facts = {"model": model.sha256, "files": [list(file) for file in good], "broken": broken}
        yield KeptFeatures(stacked([rows[file] for file in good]), facts)

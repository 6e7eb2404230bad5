"""Text queries against the images of a dataset: an index of features on disk, and the images most like the text."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import digest, sha256_of
from training.data.features import (
    INDEX_VERSION,
    KeptFeatures,
    image_features,
    keep_features,
    read_features,
    text_features,
)
from training.data.images import Features
from training.data.pairs import RowGroup, read_rows, row_groups
from training.towers.model import LoadedModel, open_model, require_texts
from training.trained_models import current_model, only_dataset, pair_hashes
from training.use.nearest import Neighbours, nearest

logger = logging.getLogger(__name__)

INDEX_FOLDER = "index"  # inside the model's folder
_COLUMNS = ("sample_id", "split", "captions", "image", "url", "page_url", "license", "attribution")
_NOT_TOLD = ("image", "name", "path")


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
        """Plain values, without the image."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_TOLD}
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
        """Plain values, without the images."""
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
    """The `k` images of pair shards that are most like a text; features are computed once and kept beside the model.

    Args:
        files: pair shards to search, of any split.
        model: a folder, or a loaded model, of which nothing is kept.
        sha256: content hash of a file, where the caller knows hashes already.

    Raises:
        SettingsError: an empty query.
        InputError: no images, or no trained model.
        DamagedError: a shard cannot be read, or the model's files are damaged.
    """
    check_query(query, k)
    loaded = open_model(model)
    if isinstance(model, Path):
        kept = _indexed(loaded, files, model / INDEX_FOLDER, sha256)
    else:
        kept = _computed(loaded, files)
    if not len(kept.features):
        raise InputError("there are no images to search: build the dataset first")
    found = nearest(kept.features, query_features(loaded, query), k)
    hits = _hits(_groups(files, kept.facts), found)
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
    model = current_model(root, dataset or only_dataset(root))
    hashes = pair_hashes(model.snapshot)
    files = list(hashes) if split is None else model.snapshot.pair_files(split)
    if not files:
        raise InputError(f"the {split} split has no images: search another one")
    return search(text, files, model.folder, k=num_hits, sha256=hashes.__getitem__)


def check_query(query: str, k: int) -> None:
    """Refuse a query that says nothing, and a result that is empty.

    Raises:
        SettingsError: says which of the two.
    """
    require_texts([query])
    if k < 1:
        raise SettingsError(f"k must be positive, got {k}")


def query_features(model: LoadedModel, query: str) -> Features:
    """Features of a query, shape (1, dim); a text that is too long is told in the log."""
    if model.tokenizer.too_long([query]):
        logger.warning(
            "the text has more tokens than the %d that the model reads: its end is left out",
            model.tokenizer.context_length,
        )
    return text_features(model, [query])


def _indexed(model: LoadedModel, files: Sequence[Path], folder: Path, sha256: Callable[[Path], str]) -> KeptFeatures:
    """Features of all images of the files, from the disk if they are there."""
    place = folder / digest([INDEX_VERSION, model.sha256, [sha256(path) for path in files]])[:12]
    kept = read_features(place)
    if kept is None:
        with writer_lock(place):
            kept = read_features(place) or _computed(model, files)
            keep_features(place, kept.features, kept.facts)
    return kept


def _computed(model: LoadedModel, files: Sequence[Path]) -> KeptFeatures:
    """Where each row group ends is kept as well, so that finding a hit's shard opens no other one."""
    sizes = [[group.num_rows for group in row_groups([path])] for path in files]
    return KeptFeatures(image_features(model, files), {"row_groups": sizes})


def _groups(files: Sequence[Path], facts: dict[str, Any]) -> list[RowGroup]:
    return [
        RowGroup(path, number, num_rows)
        for path, sizes in zip(files, facts["row_groups"], strict=True)
        for number, num_rows in enumerate(sizes)
    ]


def _hits(groups: Sequence[RowGroup], found: Neighbours) -> tuple[Hit, ...]:
    """Read the samples that were found; each row group that holds some of them is read once, and no other one."""
    ends = np.cumsum([group.num_rows for group in groups])
    hits: dict[int, Hit] = {}
    places = sorted((int(index), rank) for rank, index in enumerate(found.indices[0].tolist(), start=1))
    for number, ranked in groupby(places, key=lambda place: int(np.searchsorted(ends, place[0], side="right"))):
        table = read_rows(groups[number], _COLUMNS)
        start = int(ends[number]) - groups[number].num_rows
        for index, rank in ranked:
            row = table.slice(index - start, 1).to_pylist()[0]
            hits[rank] = _hit(row, rank, float(found.cosines[0, rank - 1]))
    return tuple(hits[rank] for rank in sorted(hits))


def _hit(row: dict[str, Any], rank: int, cosine: float) -> Hit:
    told = {name: row[name] for name in ("split", "url", "page_url", "license", "attribution")}
    image, captions = row["image"]["bytes"], tuple(row["captions"])
    return Hit(rank=rank, cosine=cosine, name=row["sample_id"], image=image, captions=captions, **told)

"""Captions that say the same: exactly, within a sample; in nearly the same words, over all shards; and a cap."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cleaning.duplicates.near_captions import Likeness, cluster_captions
from cleaning.text.scripts import exact_key
from data_catalog.errors import SettingsError
from data_catalog.stages import Drop, pending_rows, reject, texts
from data_catalog.storage.shards import save_parquet, unit_interval
from data_catalog.storage.work import StepFacts

Rows = NDArray[np.int64]

CAP_SALT = "captions of a cluster"
_MAX_DETAIL = 120  # characters of a caption that another repeats
# What captions of one image repeat: a translation that upstream has, else the caption that is translated later.
_SAID = ("caption", "clean_caption")
_LABELS = pa.schema([pa.field("cluster", pa.int64()), pa.field("is_beyond_cap", pa.bool_())])


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatsConfig:
    """Captions that say nearly the same, judged before they are translated."""

    near_captions: bool = True
    """Drop captions that are nearly the same as an earlier one of the same image."""
    min_similarity: float = 0.85
    """Similarity from which on two captions are nearly the same, above 0 and at most 1. Tried from 0.8 to 0.95."""
    common_captions: bool = True
    """Drop captions that are said too often ("a photo of"), beyond `max_images_per_caption`. A hash of the images' ids
    decides which ones stay."""
    max_images_per_caption: int = 1000
    """Most images that may have the same caption, or nearly the same, over all sources."""

    def __post_init__(self) -> None:
        if not 0 < self.min_similarity <= 1:
            raise SettingsError(f"repeats.min_similarity must be above 0, and at most 1, got {self.min_similarity}")
        if self.max_images_per_caption < 1:
            raise SettingsError(f"repeats.max_images_per_caption must be positive, got {self.max_images_per_caption}")


def crowded_rows(clusters: Rows, cap: int) -> Rows:
    """Rows of clusters that have more than `cap` rows, ascending: of these alone `cap_captions` needs to know more."""
    _, places, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return np.flatnonzero(sizes[places] > cap)


def cap_captions(clusters: Rows, identities: Sequence[str], *, cap: int) -> NDArray[np.bool_]:
    """Which rows to drop, so that no cluster keeps those of more than `cap` identities: of the lowest stable hashes.

    All rows of a cluster must be there; in which order does not matter.

    Args:
        clusters: shape (rows,); equal numbers, one cluster.
        identities: one a row: sample ids. Rows of one identity in one cluster stay or go together.

    Returns:
        Shape (rows,); true: drop it.

    Raises:
        ValueError: the cap is below one, or there is not one identity a row.
    """
    if cap < 1 or len(clusters) != len(identities):
        raise ValueError(f"{len(clusters)} rows, {len(identities)} identities, cap {cap}")
    dropped = np.zeros(len(clusters), np.bool_)
    rows = crowded_rows(clusters, cap)
    draws = np.fromiter((unit_interval(identities[row], CAP_SALT) for row in rows), np.float64, len(rows))
    order = np.lexsort((draws, clusters[rows]))
    rows, draws, ordered = rows[order], draws[order], clusters[rows[order]]
    is_first, is_new = np.ones(len(rows), np.bool_), np.ones(len(rows), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]  # of its cluster
    is_new[1:] = is_first[1:] | (draws[1:] != draws[:-1])  # of another identity than the row before
    places = np.cumsum(is_new)
    places_before = np.maximum.accumulate(np.where(is_first, places, 0))
    dropped[rows[places - places_before >= cap]] = True
    return dropped


def duplicate_captions(sample_ids: Sequence[str], captions: Sequence[str]) -> list[Drop | None]:
    """Drop each caption that an earlier row of the same sample has already; the first one stays.

    Reason: duplicate_caption. The order of rows decides, so rows must come in a stable order.
    """
    seen: set[tuple[str, str]] = set()
    verdicts: list[Drop | None] = []
    for sample_id, caption in zip(sample_ids, captions, strict=True):
        key = (sample_id, exact_key(caption))
        verdicts.append(Drop("duplicate_caption") if key in seen else None)
        seen.add(key)
    return verdicts


def label_repeats(
    shards: Sequence[Path],
    folder: Path,
    config: RepeatsConfig,
    *,
    function_words: Collection[str] | None,
    threads: int = 1,
) -> StepFacts:
    """Label, over all shards, captions that are nearly the same, and those that too many images have.

    The files are `00000.parquet`, ..., by shard: a row for each pending caption, in order, with the `cluster` of
    similar ones and whether it `is_beyond_cap`.

    Args:
        shards: caption rows.
        folder: empty; gets the files.
        config: what is similar, and how many are too many.
        function_words: see `near_captions.cluster_captions`.
        threads: the result does not depend on them.

    Returns:
        How many captions there are, and how many of them are beyond the cap.
    """
    labels = cluster_captions(
        lambda: (said for _, said in _pending(shards, *_SAID)),
        similarity=config.min_similarity,
        scratch=folder / "scratch",
        function_words=function_words,
        threads=threads,
    )
    (folder / "scratch").rmdir()
    beyond = np.zeros(len(labels), np.bool_)
    crowded = crowded_rows(labels, config.max_images_per_caption)
    if len(crowded):  # ids are read of those alone that may be beyond it
        ids = pa.chunked_array([pa.array(found, pa.string()) for _, found in _pending(shards, "sample_id")])
        identities = ids.take(pa.array(crowded)).to_pylist()
        beyond[crowded] = cap_captions(labels[crowded], identities, cap=config.max_images_per_caption)
    start = 0
    for number, ids in _pending(shards, "caption_id"):
        columns = [pa.array(values[start : start + len(ids)]) for values in (labels, beyond)]
        save_parquet(pa.Table.from_arrays(columns, schema=_LABELS), folder / f"{number:05d}.parquet")
        start += len(ids)
    return {"num_captions": start, "num_beyond_cap": int(beyond.sum())}


def _pending(shards: Sequence[Path], *columns: str) -> Iterator[tuple[int, list[str]]]:
    """Yield, shard by shard, the first of some columns that is filled, for the pending rows."""
    for number, path in enumerate(shards):
        table = pq.read_table(path, columns=[*columns, "outcome"])
        yield number, _first_filled(table, columns, pending_rows(table))


def _first_filled(table: pa.Table, columns: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return the first of some columns that is filled, for some rows."""
    found: list[str] = pc.coalesce(*map(table.column, columns)).take(pa.array(rows, pa.int64())).to_pylist()
    return found


def drop_repeats(
    table: pa.Table,
    labels: Mapping[int, Mapping[str, Any]],
    config: RepeatsConfig,
    function_words: Collection[str] | None,
    *,
    step: str,
) -> pa.Table:
    """Drop near duplicates of captions of the same image that stay, and captions beyond the cap.

    Two captions of a cluster are both like its first, which may be another image's, and need not be like each other.

    Args:
        table: caption rows of one shard.
        labels: the `cluster` of each pending row, and whether it `is_beyond_cap`, by its number.
        config: what is dropped.
        function_words: see `near_captions.cluster_captions`.
        step: in whose name.
    """
    likeness = Likeness(config.min_similarity, function_words)
    rows = pending_rows(table)
    staying: dict[tuple[str, int], list[str]] = defaultdict(list)
    verdicts: list[Drop | None] = []
    for row, sample_id, caption in zip(
        rows, texts(table, "sample_id", rows), _first_filled(table, _SAID, rows), strict=True
    ):
        said = staying[sample_id, labels[row]["cluster"]]
        key = exact_key(caption)
        alike = (other for other in said if exact_key(other) == key or likeness.alike(exact_key(other), key))
        like = next(alike, None) if config.near_captions else None
        if like is not None:
            verdicts.append(Drop("near_duplicate_caption", f"like: {like}"[:_MAX_DETAIL]))
        elif config.common_captions and labels[row]["is_beyond_cap"]:
            verdicts.append(Drop("common_caption", f"more than {config.max_images_per_caption} images have its like"))
        else:
            verdicts.append(None)
            said.append(caption)
    return reject(table, rows, verdicts, step=step)

"""Duplicate captions: exact ones within a sample, near-duplicates over all shards, and a cap on common ones."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from cleaning.duplicates.near_captions import CaptionSimilarity, Said, cluster_captions
from cleaning.text.scripts import exact_key
from data_catalog.catalog.work import StepFacts
from data_catalog.disk.files import save_parquet, unit_interval
from data_catalog.rows.stages import Drop, pending_rows, reject, texts

Rows = NDArray[np.int64]

CAP_SALT = "captions of a cluster"
_MAX_DETAIL = 120  # characters of a caption that another repeats
_SAID = ("caption", "target_lang", "clean_caption", "source_lang")
_LABELS = pa.schema([pa.field("cluster", pa.int64()), pa.field("is_beyond_cap", pa.bool_())])


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatsConfig:
    """Near-duplicate captions, which are dropped before translation."""

    near_captions: bool = True
    """Drop captions that are near-duplicates of an earlier caption of the same image."""
    min_similarity: Annotated[float, Interval(gt=0, le=1)] = 0.85
    """Similarity from which on two captions are near-duplicates. Tested from 0.8 to 0.95."""
    common_captions: bool = True
    """Drop captions that more than `max_images_per_caption` images have ("a photo of"). A hash of the images' ids
    decides which images keep them."""
    max_images_per_caption: Annotated[int, Ge(1)] = 1000
    """Maximum number of images, over all sources, with the same or a nearly equal caption."""


def crowded_rows(clusters: Rows, cap: int) -> Rows:
    """Return the rows, ascending, of clusters with more than `cap` rows: only these can exceed the cap."""
    _, places, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return np.flatnonzero(sizes[places] > cap)


def cap_captions(clusters: Rows, identities: Sequence[str], *, cap: int) -> NDArray[np.bool_]:
    """Return the rows to drop so that no cluster keeps more than `cap` identities; the lowest stable hashes are kept.

    All rows of a cluster must be given; their order does not matter.

    Args:
        clusters: shape (rows,); equal numbers mean the same cluster.
        identities: sample id of each row. Rows of one identity in one cluster are kept or dropped together.
        cap: most identities of a cluster.

    Returns:
        Shape (rows,); true: drop it.

    Raises:
        ValueError: the cap is below one, or the number of identities differs from that of rows.
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
    """Drop each caption that an earlier row of the same sample has; the first one stays.

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
    function_words: Mapping[str, Mapping[str, str]],
    threads: int = 1,
) -> StepFacts:
    """Label near-duplicate captions over all shards, and those that exceed the cap of images.

    The files are `00000.parquet`, ..., by shard: one row for each pending caption, in order, with the `cluster` of its
    near-duplicates and whether it `is_beyond_cap`.

    Args:
        shards: files of caption rows.
        folder: empty folder to write to.
        config: section `[repeats]`.
        function_words: see `near_captions.cluster_captions`.
        threads: number of threads; the result does not depend on it.

    Returns:
        Number of captions.
    """
    labels = cluster_captions(
        lambda: (_said(table, rows) for _, table, rows in _pending(shards, *_SAID)),
        similarity=config.min_similarity,
        scratch=folder / "scratch",
        function_words=function_words,
        threads=threads,
    )
    (folder / "scratch").rmdir()
    beyond = np.zeros(len(labels), np.bool_)
    crowded = crowded_rows(labels, config.max_images_per_caption)
    if len(crowded):  # ids are needed only for captions that may exceed the cap
        found = (texts(table, "sample_id", rows) for _, table, rows in _pending(shards, "sample_id"))
        ids = pa.chunked_array([pa.array(sample_ids, pa.string()) for sample_ids in found])
        identities = ids.take(pa.array(crowded)).to_pylist()
        beyond[crowded] = cap_captions(labels[crowded], identities, cap=config.max_images_per_caption)
    start = 0
    for number, _, rows in _pending(shards):
        columns = [pa.array(values[start : start + len(rows)]) for values in (labels, beyond)]
        save_parquet(pa.Table.from_arrays(columns, schema=_LABELS), folder / f"{number:05d}.parquet")
        start += len(rows)
    return {"num_captions": start}


def _pending(shards: Sequence[Path], *columns: str) -> Iterator[tuple[int, pa.Table, list[int]]]:
    """Yield, shard by shard, its number, some columns of it and its pending rows."""
    for number, path in enumerate(shards):
        table = pq.read_table(path, columns=[*columns, "outcome"])
        yield number, table, pending_rows(table)


def _said(table: pa.Table, rows: Sequence[int]) -> list[Said]:
    """Return the text to compare at some rows, with its language: upstream's translation, else what is translated."""
    cells = zip(*(texts(table, name, rows) for name in _SAID), strict=True)
    return [
        (caption, target) if caption is not None else (original, source) for caption, target, original, source in cells
    ]


def drop_repeats(
    table: pa.Table,
    labels: Mapping[int, Mapping[str, Any]],
    config: RepeatsConfig,
    function_words: Mapping[str, Mapping[str, str]],
    *,
    step: str,
) -> pa.Table:
    """Drop near-duplicates among captions of the same image, and captions beyond the cap.

    Captions of one cluster are similar to its first caption, which may belong to another image, and need not be similar
    to each other. So captions of the same image are compared again.

    Args:
        table: caption rows of one shard.
        labels: by row number of each pending row, its `cluster` and whether it `is_beyond_cap`.
        config: section `[repeats]`.
        function_words: see `near_captions.cluster_captions`.
        step: name of the step for the rejections.
    """
    similarity = CaptionSimilarity(config.min_similarity, function_words)
    rows = pending_rows(table)
    staying: dict[tuple[str, int], list[tuple[str, Said]]] = defaultdict(list)
    verdicts: list[Drop | None] = []
    for row, sample_id, (caption, language) in zip(
        rows, texts(table, "sample_id", rows), _said(table, rows), strict=True
    ):
        said = staying[sample_id, labels[row]["cluster"]]
        key = (exact_key(caption), language)
        similar = (other for other, of_other in said if of_other[0] == key[0] or similarity.are_similar(of_other, key))
        first = next(similar, None) if config.near_captions else None
        if first is not None:
            verdicts.append(Drop("near_duplicate_caption", f"like: {first}"[:_MAX_DETAIL]))
        elif config.common_captions and labels[row]["is_beyond_cap"]:
            verdicts.append(Drop("common_caption", f"more than {config.max_images_per_caption} images have its like"))
        else:
            verdicts.append(None)
            said.append((caption, key))
    return reject(table, rows, verdicts, step=step)

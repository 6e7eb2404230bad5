"""One shard of finished captions and images to published pair and caption files of a snapshot."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.errors import ConfigError
from data_catalog.manifest import SPLITS, file_entry
from data_catalog.schema import KEPT, PAIRS, PENDING
from data_catalog.shards import (
    IMAGE_ROWS_PER_GROUP,
    open_image_writer,
    save_parquet,
    sync,
    unit_interval,
    write_atomically,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Shares of the samples that are held out, drawn by a stable hash of each sample's identity.

    Args:
        val: share of the validation split (the paper: 0.05).
        test: share of the test split.
        salt: another text draws another split.
    """

    val: float = 0.05
    test: float = 0.0
    salt: str = "vernaclip"

    def __post_init__(self) -> None:
        for name, share in (("val", self.val), ("test", self.test)):
            if not 0 <= share < 1:
                raise ConfigError(f"split.{name} must be at least 0 and below 1, got {share}")
        if self.val + self.test >= 1:
            raise ConfigError("split.val and split.test together leave nothing to train on")


def split_of(sample_id: str, config: SplitConfig) -> str:
    """The split of a sample: always the same for the same identity, shares and salt."""
    position = unit_interval(sample_id, config.salt)
    if position < config.test:
        return "test"
    return "val" if position < config.test + config.val else "train"


def publish_shard(
    captions: Path, images: Path, folder: Path, *, shard_id: int, config: SplitConfig
) -> dict[str, list[dict[str, Any]]]:
    """Write one shard's caption file and its pair files, one a split that has rows.

    Args:
        captions: finished caption rows (schema `CAPTIONS`), pending where they are to be kept.
        images: normalised images of the same shard (schema `IMAGES`).
        folder: the snapshot's folder.

    Returns:
        Manifest entries by kind, "pairs" and "captions".
    """
    table = keep_pending(pq.read_table(captions))
    path = _place(folder / "captions", f"captions-{shard_id:05d}", lambda target: save_parquet(table, target))
    entries: dict[str, list[dict[str, Any]]] = {
        "captions": [file_entry(path, folder, rows=table.num_rows)],
        "pairs": [],
    }
    samples = _kept_samples(table, config)
    for split in SPLITS:
        chosen = {sample_id: rows for sample_id, rows in samples.items() if rows[0]["split"] == split}
        if chosen:
            path = _place(
                folder / "pairs",
                f"{split}-{shard_id:05d}",
                lambda target, chosen=chosen: _write_pairs(chosen, images, target),
            )
            entries["pairs"].append(file_entry(path, folder, rows=len(chosen), split=split))
    return entries


def keep_pending(table: pa.Table) -> pa.Table:
    """The rows that no step rejected become `kept`."""
    outcome = table.column("outcome")
    kept = pc.if_else(pc.equal(outcome, PENDING), KEPT, outcome)
    return table.set_column(table.schema.get_field_index("outcome"), table.schema.field("outcome"), kept)


def _place(folder: Path, stem: str, write: Any) -> Path:
    """Write a file whose name ends in the start of its own sha256."""
    unnamed = folder / f".tmp-{stem}"
    found = write_atomically(unnamed, write)
    path = folder / f"{stem}-{found[:12]}.parquet"
    unnamed.replace(path)
    sync(folder)
    return path


def _kept_samples(table: pa.Table, config: SplitConfig) -> dict[str, list[dict[str, Any]]]:
    """Kept caption rows by sample, each with the sample's split, in shard order."""
    samples: dict[str, list[dict[str, Any]]] = {}
    for row in table.filter(pc.equal(table.column("outcome"), KEPT)).to_pylist():
        row["split"] = split_of(row["sample_id"], config)
        samples.setdefault(row["sample_id"], []).append(row)
    return samples


def _write_pairs(samples: Mapping[str, list[dict[str, Any]]], images: Path, path: Path) -> None:
    rows: list[dict[str, Any]] = []
    with open_image_writer(path, PAIRS) as writer:
        for image in _good_images(images):
            if image["sample_id"] in samples:
                rows.append(_pair(samples[image["sample_id"]], image))
            if len(rows) == IMAGE_ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, schema=PAIRS))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=PAIRS))


def _good_images(images: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(images).iter_batches(batch_size=IMAGE_ROWS_PER_GROUP):
        yield from (row for row in batch.to_pylist() if row["drop_reason"] is None)


def _pair(rows: list[dict[str, Any]], image: dict[str, Any]) -> dict[str, Any]:
    """One published row from a sample's kept captions and its image; rights are those of the first row that has any."""
    first = rows[0]
    return {
        "sample_id": first["sample_id"],
        "source": first["source"],
        "split": first["split"],
        "image": {"bytes": image["bytes"], "path": None},
        **{name: image[name] for name in ("width", "height", "original_width", "original_height", "sha256")},
        "url": first["url"],
        **{name: _first_stated(rows, name) for name in ("license", "attribution", "page_url")},
        "caption_ids": [row["caption_id"] for row in rows],
        "captions": [row["caption"] for row in rows],
        "source_captions": [row["source_caption"] for row in rows],
        "source_langs": [row["source_lang"] for row in rows],
        "translators": [row["translator"] for row in rows],
        "scores": [row["translation_score"] for row in rows],
    }


def _first_stated(rows: list[dict[str, Any]], name: str) -> Any:
    return next((row[name] for row in rows if row[name] is not None), None)

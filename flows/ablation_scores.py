"""The queries that all variants of an ablation are scored on, and the ranks of their models."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from data_catalog.errors import ConfigError
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.manifest import SPLITS, Snapshot
from data_catalog.storage.shards import digest, sha256_of
from training.ablation import TEXT_TO_IMAGE, ranks_of
from training.evaluation import chosen_captions

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[Any, np.dtype[np.int64]]

logger = logging.getLogger(__name__)

CAPTIONS = "distinct"  # a caption that fits two images of the gallery finds either by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Held-out images of the recipe as it is, none of which a variant was trained on, and their captions.

    Args:
        files: pair shards of the split.
        kept: places of the gallery's images among those of the files.
        sample_ids: of these.
        texts: captions that belong to one image of the gallery only.
        owners: the image of each.
        num_left_out: images of the split that some variant was trained on.
    """

    split: str
    files: tuple[Path, ...]
    kept: tuple[int, ...]
    sample_ids: tuple[str, ...]
    texts: tuple[str, ...]
    owners: tuple[int, ...]
    num_left_out: int

    @property
    def identity(self) -> str:
        """Hash of the queries and of the images that are asked for."""
        return digest([list(self.sample_ids), list(self.texts), list(self.owners)])

    def clusters(self, way: str) -> "Integers":
        """The image of each query."""
        import numpy as np

        owners = np.array(self.owners, dtype=np.int64)
        return owners if way == TEXT_TO_IMAGE else np.unique(owners)


def gallery_of(snapshots: Sequence[Snapshot], split: str) -> Gallery:
    """The queries of a split of the first snapshot, without images that any of them has to train on.

    Images are told by identity and by the bytes that came; those that look alike are `duplicates.split_guard`'s.

    Raises:
        ConfigError: there is no such split, or it is empty, or one that is trained on.
    """
    if split not in SPLITS or split == "train":
        raise ConfigError(f"--split must be val or test, which no model is trained on, got {split!r}")
    files = snapshots[0].pair_files(split)
    rows = [row for path in files for row in _rows(path, ["sample_id", "sha256", "captions"])]
    ids, hashes = _trained_on(snapshots)
    kept = [place for place, row in enumerate(rows) if row["sample_id"] not in ids and row["sha256"] not in hashes]
    if len(kept) < 2:
        raise ConfigError(
            f"the {split} split has {len(kept)} images that no variant is trained on, and two at least are needed to "
            f"tell one from another: set split.{split} above 0, or build a larger dataset"
        )
    captions = [list(rows[place]["captions"]) for place in kept]
    chosen = chosen_captions(captions, CAPTIONS)
    told = [(text, number) for number, texts in enumerate(captions) for text in texts]
    queries = [query for query, is_chosen in zip(told, chosen, strict=True) if is_chosen]
    if not queries:
        raise ConfigError(f"no caption of the {split} split belongs to one image only: build a larger dataset")
    return Gallery(
        split=split,
        files=files,
        kept=tuple(kept),
        sample_ids=tuple(rows[place]["sample_id"] for place in kept),
        texts=tuple(text for text, _ in queries),
        owners=tuple(owner for _, owner in queries),
        num_left_out=len(rows) - len(kept),
    )


def _trained_on(snapshots: Sequence[Snapshot]) -> tuple[set[str], set[str]]:
    """Identities and hashes of all images that the train splits have."""
    rows = [
        row
        for snapshot in snapshots
        for path in snapshot.pair_files("train")
        for row in _rows(path, ["sample_id", "sha256"])
    ]
    return {row["sample_id"] for row in rows}, {row["sha256"] for row in rows}


def _rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    return rows


def variant_ranks(model_dir: Path, gallery: Gallery, folder: Path, *, batch_size: int) -> "dict[str, Integers]":
    """Ranks of one model, by direction, from the disk if they are there."""
    import numpy as np

    from training.model import WEIGHTS_FILE

    key = digest([sha256_of(model_dir / WEIGHTS_FILE), gallery.identity])
    path = folder / "ranks" / f"{key[:16]}.json"
    if not path.is_file():
        found = _ranks(model_dir, gallery, batch_size=batch_size)
        write_checksummed(path, {way: ranks.tolist() for way, ranks in found.items()})
        logger.info("scored %s on %d images", model_dir, len(gallery.kept))
    told = read_checksummed(path, remedy="remove it, and the model is scored again")
    return {way: np.array(ranks, dtype=np.int64) for way, ranks in told.items()}


def _ranks(model_dir: Path, gallery: Gallery, *, batch_size: int) -> "dict[str, Integers]":
    import numpy as np

    from training.features import image_features, text_features
    from training.model import load_model
    from training.threads import let_threads_sleep

    let_threads_sleep()
    model = load_model(model_dir)
    images = image_features(model, gallery.files, batch_size=batch_size)[list(gallery.kept)]
    texts = text_features(model, gallery.texts, batch_size=batch_size)
    return ranks_of(images, texts, np.array(gallery.owners, dtype=np.int64))

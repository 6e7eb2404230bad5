"""Text queries against the images of a dataset: an index of features on disk, and the images most like the text."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.errors import ConfigError
from data_catalog.shards import digest, sha256_of, write_atomically, write_json
from training.data import read_rows, read_sample_ids, row_groups
from training.features import image_features, text_features
from training.model import LoadedModel, load_model
from training.threads import let_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.features import Features

logger = logging.getLogger(__name__)

INDEX_VERSION = 1
INDEX_FOLDER = "index"  # inside the model's folder
FEATURES_FILE = "features.npy"
IDS_FILE = "sample_ids.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An image found for a query.

    Args:
        rank: from 1.
        score: cosine of its features and the text's.
        captions: all captions of the image.
        image: encoded, as the shard holds it.
    """

    rank: int
    score: float
    sample_id: str
    captions: tuple[str, ...]
    image: bytes


def search(
    query: str, files: Sequence[Path], model_dir: Path, *, k: int = 12, sha256: "Callable[[Path], str]" = sha256_of
) -> list[Hit]:
    """The `k` images most like a text, best first; features are computed once and kept beside the model.

    Args:
        files: pair shards to search, of any split.
        sha256: content hash of a file, where the caller knows hashes already.

    Raises:
        ConfigError: an empty query, no images, or no trained model.
        ShardError: a shard cannot be read.
    """
    import numpy as np

    if not query.strip():
        raise ConfigError("the query is empty: say what to look for")
    if k < 1:
        raise ConfigError(f"k must be positive, got {k}")
    let_threads_sleep()
    model = load_model(model_dir)
    features = _indexed(model, files, model_dir / INDEX_FOLDER, sha256)
    if not len(features):
        raise ConfigError("there are no images to search: build the dataset first")
    cosines = features @ text_features(model, [query])[0]
    best = np.argsort(-cosines, kind="stable")[:k]
    return [_hit(files, int(index), rank=rank, score=float(cosines[index])) for rank, index in enumerate(best, start=1)]


def _indexed(model: LoadedModel, files: Sequence[Path], folder: Path, sha256: "Callable[[Path], str]") -> "Features":
    """Features of all images of the files, from the disk if they are there: shape (images, dim)."""
    import numpy as np

    key = digest([INDEX_VERSION, model.sha256, [sha256(path) for path in files]])[:12]
    path = folder / key / FEATURES_FILE
    if not path.is_file():
        features = image_features(model, files)
        write_json(folder / key / IDS_FILE, read_sample_ids(files))
        write_atomically(path, lambda temporary: _save(features, temporary))
        logger.info("indexed %d images in %s", len(features), path.parent)
    found: Features = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _save(features: "Features", path: Path) -> None:
    import numpy as np

    # As `np.save`, which says nothing where the end of the file meets a full disk.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(features))
        file.write(np.ascontiguousarray(features).data)


def _hit(files: Sequence[Path], index: int, *, rank: int, score: float) -> Hit:
    """Read one sample by its place in the order of the files."""
    for group in row_groups(files):
        if index < group.num_rows:
            row = read_rows(group, ["sample_id", "captions", "image"]).slice(index, 1).to_pylist()[0]
            return Hit(
                rank=rank,
                score=score,
                sample_id=row["sample_id"],
                captions=tuple(row["captions"]),
                image=row["image"]["bytes"],
            )
        index -= group.num_rows
    raise IndexError(f"no image number {index}")

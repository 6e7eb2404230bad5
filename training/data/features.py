"""Compute unit features of images and texts as float32 matrices, and cache them on disk.

A `FeatureStore` has one row for each image and text that a model has encoded, by the sha256 of their bytes. A feature
index (`write_index`, `read_index`) is one matrix with a JSON record that describes its rows.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_catalog.base.errors import DamagedError
from data_catalog.base.progress import Progress
from data_catalog.disk.files import digest, sha256_of, sweep_temporary, write_named_atomically
from data_catalog.disk.records import read_checksummed, write_checksummed
from training.data.images import (
    BATCH_SIZE,
    Features,
    decoded_groups,
    joined_rows,
    picture_features,
    picture_or_reason,
    quiet_decoders,
)
from training.data.pairs import row_groups
from training.towers.model import LoadedModel

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Read = Callable[[str], bytes]  # returns the bytes of an image by name; raises OSError if there are none

# Packages that load models, tokenize, decode and resize images. Another release may give slightly different features.
PACKAGES = (
    *("torch", "torchvision", "open_clip_torch", "transformers", "tokenizers", "timm", "numpy"),
    *("pillow", "opencv-python-headless"),
)

STORE_VERSION = 3  # raise it when the pixels of the same file change, or the format of feature files
PORTION = 2048  # images or texts that are encoded before their features are written
INDEX_VERSION = 2
RECORD_FILE = "index.json"
_MODEL = b"model"  # metadata of a file of the store: the name of its folder
_FEATURES_FILE = re.compile(r"features-([0-9a-f]{64})\.(npy|parquet)")
# Inputs that distinguish models in a fingerprint: noise images of these widths and heights, and texts.
_NOISE = ((64, 64), (31, 97), (480, 360), (20, 9))
_TEXTS = (
    "a",
    "Due gatti neri sul divano, e \u201c3,5\u201d cani!",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.",
    " ".join(f"Parola numero {number}." for number in range(400)),  # longer than any model's context
)


def image_features(model: LoadedModel, paths: Sequence[Path]) -> Features:
    """Return features of every image of pair shards, in their order: shape (images, dim), rows of length 1."""
    decoded = decoded_groups(row_groups(paths), model.preprocessing, num_threads=len(os.sched_getaffinity(0)))
    return joined_rows(picture_features(model, pixels) for pixels in decoded)


def text_features(model: LoadedModel, texts: Sequence[str], *, batch_size: int = BATCH_SIZE) -> Features:
    """Return features of texts: shape (texts, dim), rows of length 1. Texts of like length are encoded together."""
    import torch

    order = np.argsort([len(text) for text in texts], kind="stable")
    batches = (order[start : start + batch_size] for start in range(0, len(texts), batch_size))
    with torch.no_grad():
        encoded = (model.encode_texts([texts[place] for place in batch]) for batch in batches)
        found = joined_rows(torch.nn.functional.normalize(some, dim=-1).numpy() for some in encoded)
    return found[np.argsort(order)]


def stacked(rows: Sequence[Features]) -> Features:
    """Stack rows into a matrix. Without rows, return an empty matrix of shape (0, 0)."""
    return np.stack(rows) if rows else np.empty((0, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoder:
    """The image side of a model, in evaluation mode."""

    prepare: "Callable[[Image.Image], torch.Tensor]"  # from an RGB image to floats of shape (3, height, width)
    encode: "Callable[[torch.Tensor], torch.Tensor]"  # from prepared images to features (images, dim) on the CPU
    identity: Any = None  # what tells its weights and configs from those of others, such as their hashes, for JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """The text side of a model, in evaluation mode."""

    encode: "Callable[[Sequence[str]], torch.Tensor]"  # from texts to features (texts, dim) on the CPU
    identity: Any = None  # what tells its weights, configs and tokenizer from those of others, for JSON
    reword: Callable[[Sequence[str]], Sequence[str]] | None = None  # changes all texts first, such as translates them


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A model of any library that maps images and texts into one space."""

    name: str  # under which its scores are listed
    origin: str  # source of its weights, such as "open_clip ViT-B-32/openai, tensors 0123456789ab"
    image: ImageEncoder  # models with the same one share its cached features
    text: TextEncoder
    tensors_sha256: str | None = None  # hash of all loaded weights (`encoders.tensors_sha256`), if it is known
    files: tuple[Mapping[str, str], ...] = ()  # name and sha256 of the config and tokenizer files in its folder
    module: Any = None  # the open_clip model; None for a model of another library


def rewording(encoder: Encoder, reword: Callable[[Sequence[str]], Sequence[str]], name: str) -> Encoder:
    """Return the same model with texts that are changed first, such as queries translated into the model's language."""
    text = replace(encoder.text, reword=reword)
    return replace(encoder, name=name, origin=f"{encoder.origin}, texts translated", text=text)


class FeatureStore:
    """A cache of a model's features of images and texts, in memory and optionally on disk.

    Images with equal bytes, and texts with equal characters, have bit-identical features, so they always tie. Features
    that an interrupted run has computed are used by the next one.

    The folder has a subfolder for each side of a model, named by its `fingerprint`; None caches in memory only. `unit`
    scales features to length 1; without it they are as the model returns them.
    """

    def __init__(self, encoder: Encoder, folder: Path | None = None, *, unit: bool = True) -> None:
        self.encoder, self._folder, self._unit = encoder, folder, unit

    def images(
        self, names: Sequence[str], read: Read, *, batch_size: int = BATCH_SIZE
    ) -> tuple[Features, dict[int, bytes]]:
        """Return features of all images that exist and decode, and the sha256 of their bytes by place in `names`.

        Only new images are encoded.
        """
        import torch

        side, rows, digests = self.encoder.image, self._image_rows, dict[int, bytes]()

        def prepared(place: int) -> "tuple[bytes, torch.Tensor] | None":
            try:
                raw = read(names[place])
            except OSError:
                return None
            digests[place] = hashlib.sha256(raw).digest()
            if digests[place] in rows.known:
                return None
            found = picture_or_reason(raw, 0)
            return None if isinstance(found, str) else (digests[place], side.prepare(found.image))

        title = f"encode images with {self.encoder.name}"
        with (
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
            Progress(title, total=len(names), unit="images") as progress,
        ):
            for start in range(0, len(names), batch_size):
                some = range(start, min(start + batch_size, len(names)))
                with torch.no_grad(), quiet_decoders():
                    fresh = dict(found for found in pool.map(prepared, some) if found is not None)
                    if fresh:
                        rows.add(fresh, side.encode(torch.stack(list(fresh.values()))))
                progress.advance(len(some))
        rows.save()
        there = {place: digests[place] for place in sorted(digests) if digests[place] in rows.known}
        return stacked([rows.known[one] for one in there.values()]), there

    def texts(self, texts: Sequence[str], *, batch_size: int = BATCH_SIZE) -> Features:
        """Return features of texts, shape (texts, dim). They are cached by the text after rewording."""
        import torch

        side, rows = self.encoder.text, self._text_rows
        words = side.reword(texts) if side.reword else texts
        digests = [hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest() for word in words]
        fresh = {one: word for one, word in zip(digests, words, strict=True) if one not in rows.known}
        order = sorted(fresh, key=lambda one: len(fresh[one]))  # texts of a batch are padded to the longest
        with Progress(f"encode texts with {self.encoder.name}", total=len(fresh), unit="texts") as progress:
            for start in range(0, len(fresh), batch_size):
                some = order[start : start + batch_size]
                with torch.no_grad():
                    rows.add(some, side.encode([fresh[one] for one in some]))
                progress.advance(len(some))
        rows.save()
        return stacked([rows.known[one] for one in digests])

    @cached_property
    def _image_rows(self) -> "_Rows":
        return _Rows(self.encoder.image, self._folder, unit=self._unit)

    @cached_property
    def _text_rows(self) -> "_Rows":
        return _Rows(self.encoder.text, self._folder, unit=self._unit)


class _Rows:
    """Features of one side of a model by the sha256 of what they are of, in memory and optionally on disk."""

    def __init__(self, side: ImageEncoder | TextEncoder, cache: Path | None, *, unit: bool) -> None:
        folder = None if cache is None else cache / f"{fingerprint(side)}{'' if unit else '-raw'}"
        self._folder, self._unit = folder, unit
        self.known: dict[bytes, Features] = {}
        self._unsaved: dict[bytes, Features] = {}
        for path in sorted(folder.glob("features-*.parquet")) if folder is not None else ():
            problem = None if _is_as_named(path) else "is damaged (its sha256 does not match its name)"
            table = None if problem else pq.read_table(path)
            if table is None or (table.schema.metadata or {}).get(_MODEL) != path.parent.name.encode():
                logger.warning("%s %s: it is computed again", path, problem or "has features of another model")
                path.unlink(missing_ok=True)
                continue
            column = table.column("feature").combine_chunks()
            rows = column.flatten().to_numpy().reshape(len(column), -1)
            self.known |= zip(table.column("sha256").to_pylist(), rows, strict=True)
        if self.known:
            logger.info("found features of %d images or texts in %s", len(self.known), folder)

    def add(self, digests: Iterable[bytes], features: "torch.Tensor") -> None:
        """Cache new features, scaled to length 1 if features are, and write them to disk in portions."""
        import torch

        found = features.float()
        found = torch.nn.functional.normalize(found, dim=-1) if self._unit else found
        rows = dict(zip(digests, found.numpy(), strict=True))
        self.known |= rows
        self._unsaved |= rows
        if len(self._unsaved) >= PORTION:
            self.save()

    def save(self) -> None:
        """Write the features that are not on disk yet."""
        if self._unsaved and self._folder is not None:
            matrix = np.stack(list(self._unsaved.values()))
            feature = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
            table = pa.table({"sha256": pa.array(list(self._unsaved), pa.binary(32)), "feature": feature})
            table = table.replace_schema_metadata({_MODEL: self._folder.name})
            _write_named(self._folder, "parquet", partial(pq.write_table, table))
        self._unsaved = {}


def fingerprint(side: ImageEncoder | TextEncoder) -> str:
    """Return an identifier of a model's side, 16 hexadecimal digits.

    It depends on its identity, the releases of the packages that run it, and its features of some noise images or
    texts. It does not depend on the model's name or folder.
    """
    import torch

    with torch.no_grad():
        if isinstance(side, ImageEncoder):
            draws = np.random.default_rng(0)
            noise = [draws.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in _NOISE]
            found = side.encode(torch.stack([side.prepare(Image.fromarray(pixels)) for pixels in noise]))
        else:
            found = side.encode(list(_TEXTS))
    features = hashlib.sha256(found.float().contiguous().numpy().tobytes()).hexdigest()
    return digest([STORE_VERSION, {name: version(name) for name in PACKAGES}, side.identity, features])[:16]


@dataclass(frozen=True, slots=True)
class FeatureIndex:
    """A feature index: unit rows, memory-mapped from the file, shape (images, dim), and facts about them."""

    features: Features
    facts: dict[str, Any]


def read_index(folder: Path) -> FeatureIndex | None:
    """Read a feature index and check its sha256. Return None if it is missing, outdated, or damaged (then log it)."""
    record = folder / RECORD_FILE
    if not record.is_file():
        return None
    try:
        found = read_checksummed(record, remedy="it holds copies only")
        if found.get("version") != INDEX_VERSION:
            return None
        path = folder / str(found["features"])
        if not _is_as_named(path):
            raise DamagedError(f"{path} is damaged (its sha256 does not match its name)")
        return FeatureIndex(np.load(path, mmap_mode="r", allow_pickle=False), found["facts"])
    except (DamagedError, OSError) as error:
        logger.warning("%s: the index is created again", error)
        return None


def write_index(folder: Path, features: Features, facts: Mapping[str, Any]) -> None:
    """Write a feature index in place of the earlier one. The caller must hold the folder's writer lock."""

    def save(path: Path) -> None:
        # Same format as `np.save`, which ignores a full disk at the end of the file.
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(features))
            file.write(np.ascontiguousarray(features).data)

    sweep_temporary([folder], files_only=True)
    path = _write_named(folder, "npy", save)
    write_checksummed(folder / RECORD_FILE, {"version": INDEX_VERSION, "features": path.name, "facts": dict(facts)})
    for other in folder.iterdir():
        if _FEATURES_FILE.fullmatch(other.name) and other != path:
            other.unlink(missing_ok=True)
    logger.info("cached the features of %d images in %s", len(features), folder)


def _write_named(folder: Path, suffix: str, write: Callable[[Path], object]) -> Path:
    """Write a feature file atomically, with its sha256 in its name."""
    return write_named_atomically(folder, lambda sha256: f"features-{sha256}.{suffix}", write)


def _is_as_named(path: Path) -> bool:
    """Return whether a feature file has the sha256 that its name states."""
    named = _FEATURES_FILE.fullmatch(path.name)
    return named is not None and sha256_of(path) == named[1]

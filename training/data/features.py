"""Unit features of images and texts as float32 matrices: made by any model, and two ways to keep them on disk.

A `FeatureStore` has a row for each image and text that some model was ever asked for, by the sha256 of their bytes. An
index (`keep_features`, `read_features`) is one matrix with a document that says what its rows are of.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_catalog.errors import DamagedError, DiskError
from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.shards import digest, sha256_of, sweep_temporary, write_named_atomically
from training.data.image_files import picture_features, picture_or_reason, quiet_decoders
from training.data.images import Features, decoded_groups
from training.data.pairs import Integers, row_groups
from training.towers.model import LoadedModel

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Read = Callable[[str], bytes]  # the bytes of an image by name; raises OSError where there are none

# What loads models, tokenizes and makes pictures small: other releases of these may make a little else of both.
PACKAGES = ("torch", "torchvision", "open_clip_torch", "transformers", "tokenizers", "timm", "pillow", "numpy")

STORE_VERSION = 1  # raise it when the pixels of one and the same file change, or what files of features hold
PORTION = 2048  # images or texts that are encoded before their features are written
INDEX_VERSION = 2
RECORD_FILE = "index.json"
_FEATURES_FILE = re.compile(r"features-([0-9a-f]{64})\.(npy|parquet)")
# What a model is asked, to be told from others: pictures of noise of these widths and heights, and texts.
_NOISE = ((64, 64), (31, 97), (480, 360), (20, 9))
_TEXTS = (
    "a",
    "Due gatti neri sul divano, e \u201c3,5\u201d cani!",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.",
    " ".join(f"Parola numero {number}." for number in range(400)),  # longer than any model reads: where it is cut
)


def image_features(model: LoadedModel, paths: Sequence[Path], *, batch_size: int = 128) -> Features:
    """Return features of every image of pair shards, in their order: shape (images, dim), rows of length 1."""
    groups = row_groups(paths)
    found: list[Features] = []
    with Progress("encode images", total=sum(group.num_rows for group in groups), unit="images") as progress:
        for pixels in decoded_groups(groups, model.image_size, num_threads=len(os.sched_getaffinity(0))):
            found.append(picture_features(model, pixels, batch_size=batch_size))
            progress.advance(len(pixels))
    return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)


def text_features(model: LoadedModel, texts: Sequence[str], *, batch_size: int = 128) -> Features:
    """Return features of texts: shape (texts, dim), rows of length 1."""
    import torch

    with torch.no_grad():
        found = [
            model.module.encode_text(model.tokenizer(texts[start : start + batch_size]), normalize=True).numpy()
            for start in range(0, len(texts), batch_size)
        ]
    return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)


def stacked(rows: Sequence[Features]) -> Features:
    """Return rows as a matrix, which of none has no columns either."""
    return np.stack(rows) if rows else np.empty((0, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Any model that maps images and texts into one space: ready to encode, on the processor, in evaluation mode.

    Args:
        name: under which its scores stand.
        origin: where its weights are from, such as "open_clip ViT-B-32/openai, tensors 0123456789ab".
        prepare: an RGB picture to floats of shape (3, height, width).
        encode_pixels: prepared pictures, shape (images, 3, height, width), to features, shape (images, dim).
        encode_texts: texts to features, shape (texts, dim).
        reword: what is done to all texts first, such as translating them.
        tensors_sha256: of all its weights as they were loaded (`encoders.tensors_sha256`); None: not known.
        files: name and sha256 of configs and tokenizers that lie in its folder, if it has one.
    """

    name: str
    origin: str
    prepare: "Callable[[Image.Image], torch.Tensor]"
    encode_pixels: "Callable[[torch.Tensor], torch.Tensor]"
    encode_texts: "Callable[[Sequence[str]], torch.Tensor]"
    reword: Callable[[Sequence[str]], Sequence[str]] | None = None
    tensors_sha256: str | None = None
    files: tuple[Mapping[str, str], ...] = ()


def rewording(encoder: Encoder, reword: Callable[[Sequence[str]], Sequence[str]], name: str) -> Encoder:
    """Return the same model, asked with other words: translated queries for a model that knows another language."""
    return replace(encoder, name=name, origin=f"{encoder.origin}, asked in translation", reword=reword)


def encode_images(
    encoder: Encoder, names: Sequence[str], read: Read, *, batch_size: int = 128
) -> tuple[Features, Integers]:
    """Return unit features of all images that are there and decode.

    Returns:
        Features of shape (images, dim), and the place in `names` of each, shape (images,).
    """
    found: list[Features] = []
    places: list[int] = []
    for some, features in image_batches(encoder, names, read, batch_size=batch_size):
        places += some
        found += [*features]
    return stacked(found), np.array(places, dtype=np.int64)


def image_batches(
    encoder: Encoder, names: Sequence[str], read: Read, *, batch_size: int
) -> Iterator[tuple[Sequence[int], Features]]:
    """Yield the same by the batch: places in `names` of those that are there and decode, and their features."""
    import torch

    def prepared(place: int) -> "torch.Tensor | None":
        image = decoded(names[place], read)
        return None if image is None else encoder.prepare(image)

    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        Progress(f"encode images by {encoder.name}", total=len(names), unit="images") as progress,
    ):
        for start in range(0, len(names), batch_size):
            some = range(start, min(start + batch_size, len(names)))
            with torch.no_grad(), quiet_decoders():
                pixels = dict(zip(some, pool.map(prepared, some), strict=True))
                good = {place: value for place, value in pixels.items() if value is not None}
                features = _units(encoder.encode_pixels(torch.stack(list(good.values())))) if good else None
            if features is not None:
                yield list(good), features
            progress.advance(len(some))


def encode_texts(encoder: Encoder, texts: Sequence[str], *, batch_size: int = 128) -> Features:
    """Return unit features of texts, shape (texts, dim)."""
    words = encoder.reword(texts) if encoder.reword else texts
    return stacked([row for _, features in text_batches(encoder, words, batch_size=batch_size) for row in features])


def text_batches(
    encoder: Encoder, words: Sequence[str], *, batch_size: int
) -> Iterator[tuple[Sequence[int], Features]]:
    """Yield places of texts that are put in other words by now, and their features, by the batch."""
    import torch

    with Progress(f"encode texts by {encoder.name}", total=len(words), unit="texts") as progress:
        for start in range(0, len(words), batch_size):
            some = words[start : start + batch_size]
            with torch.no_grad():
                features = _units(encoder.encode_texts(some))
            yield range(start, start + len(some)), features
            progress.advance(len(some))


def decoded(name: str, read: Read) -> Image.Image | None:
    """Return an image as RGB, upright, on white; None where it is not there, or does not decode.

    Call it within `quiet_decoders`.
    """
    try:
        raw = read(name)
    except OSError:
        return None
    found = picture_or_reason(raw, 0)
    return None if isinstance(found, str) else found.image


def _units(features: "torch.Tensor") -> Features:
    import torch

    units: Features = torch.nn.functional.normalize(features.float(), dim=-1).numpy()
    return units


class FeatureStore:
    """Features that a model made of test images and texts, on disk: it is asked about none of them twice.

    Images of the same bytes, and texts of the same letters, have the same features to the bit, so that they always tie.
    What an interrupted run has encoded is there for the next one.

    Args:
        encoder: the model.
        folder: below which features are kept, in a folder a model, named by its `fingerprint`.
    """

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self._encoder, self._folder = encoder, folder

    def images(self, names: Sequence[str], read: Read, *, batch_size: int = 128) -> tuple[Features, Integers]:
        """Do as `encode_images`, but encode only images of which nothing is kept.

        Raises:
            DiskError: the disk is full, or files in the folder cannot be read or written.
        """
        digests = _digests(names, read)
        asked: set[bytes] = set()

        def noting(name: str) -> bytes:
            del digests[name]
            raw = read(name)
            digests[name] = hashlib.sha256(raw).digest()  # of a file that changed by now it is another one
            asked.add(digests[name])
            return raw

        # Of images of the same bytes one is encoded; if it has changed or gone by then, the others are still to be.
        while fresh := list(self._unknown((one, name) for name, one in digests.items() if one not in asked).values()):
            batches = image_batches(self._encoder, fresh, noting, batch_size=batch_size)
            self._learn(
                (digests[fresh[place]], row)
                for places, rows in batches
                for place, row in zip(places, rows, strict=True)
            )
        there = [number for number, name in enumerate(names) if digests.get(name) in self._known]
        return stacked([self._known[digests[names[number]]] for number in there]), np.array(there, dtype=np.int64)

    def texts(self, texts: Sequence[str], *, batch_size: int = 128) -> Features:
        """Do as `encode_texts`, in the same way; texts are kept as they are asked, put in other words or not.

        Raises:
            DiskError: the disk is full, or files in the folder cannot be read or written.
        """
        words = self._encoder.reword(texts) if self._encoder.reword else texts
        digests = [hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest() for word in words]
        fresh = self._unknown(zip(digests, words, strict=True))
        keys = list(fresh)
        batches = text_batches(self._encoder, list(fresh.values()), batch_size=batch_size)
        self._learn((keys[place], row) for places, rows in batches for place, row in zip(places, rows, strict=True))
        return stacked([self._known[one] for one in digests])

    @cached_property
    def _place(self) -> Path:
        return self._folder / fingerprint(self._encoder)

    @cached_property
    def _known(self) -> dict[bytes, Features]:
        """What is kept of the model; a damaged file is told in the log, and removed."""
        found: dict[bytes, Features] = {}
        with _files_of(self._place):
            for path in sorted(self._place.glob("features-*.parquet")):
                if not _is_as_named(path):
                    what = "is damaged (its sha256 is not the one of its name): its images are encoded again"
                    logger.warning("%s %s", path, what)
                    path.unlink(missing_ok=True)
                    continue
                table = pq.read_table(path)
                column = table.column("feature").combine_chunks()
                rows = column.flatten().to_numpy().reshape(len(column), -1)
                found |= dict(zip(table.column("sha256").to_pylist(), rows, strict=True))
        if found:
            logger.info("%s: features of %d images and texts are known", self._encoder.name, len(found))
        return found

    def _unknown(self, wanted: Iterable[tuple[bytes, str]]) -> dict[bytes, str]:
        """Return names or texts of which nothing is kept, the first of each sha256."""
        first: dict[bytes, str] = {}
        for one, name in wanted:
            if one not in self._known:
                first.setdefault(one, name)
        return first

    def _learn(self, found: Iterable[tuple[bytes, Features]]) -> None:
        """Keep features, a file a portion."""
        rows = iter(found)
        while portion := dict(islice(rows, PORTION)):
            matrix = stacked(list(portion.values()))
            feature = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
            table = pa.table({"sha256": pa.array(list(portion), pa.binary(32)), "feature": feature})
            with _files_of(self._place):
                _write_named(self._place, "parquet", partial(pq.write_table, table))
            self._known.update(portion)


def fingerprint(encoder: Encoder) -> str:
    """Return what tells one model from another, as 16 hexadecimal digits.

    That is its weights, configs and tokenizers, the releases of the packages that run it, and what it makes of some
    pictures of noise and some texts; not its name or place.
    """
    import torch

    generator = np.random.default_rng(0)
    pictures = [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in _NOISE
    ]
    with torch.no_grad():
        made = [
            encoder.encode_pixels(torch.stack([encoder.prepare(picture) for picture in pictures])),
            encoder.encode_texts(list(_TEXTS)),
        ]
    features = [hashlib.sha256(each.float().contiguous().numpy().tobytes()).hexdigest() for each in made]
    releases = {name: version(name) for name in PACKAGES}
    told = [STORE_VERSION, releases, encoder.tensors_sha256, [dict(file) for file in encoder.files], features]
    return digest(told)[:16]


@contextmanager
def _files_of(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise_if_disk_fails(error, place)
        raise DiskError(
            f"features of test sets cannot be kept in {place} ({error.strerror or error}): give yourself the right "
            f"to read and write there, or remove {place.parent}, and they are made anew"
        ) from error


def _digests(names: Sequence[str], read: Read) -> dict[str, bytes]:
    """Return the sha256 of the bytes of each image that is there, in the order of their names."""

    def digest_of(name: str) -> bytes | None:
        try:
            return hashlib.sha256(read(name)).digest()
        except OSError:
            return None

    found = {}
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        Progress("read images", total=len(names), unit="images") as progress,
    ):
        for name, made in zip(names, pool.map(digest_of, names), strict=True):
            if made is not None:
                found[name] = made
            progress.advance(1)
    return found


@dataclass(frozen=True, slots=True)
class KeptFeatures:
    """What an index holds.

    Args:
        features: unit rows, mapped from the file, shape (images, dim).
        facts: what they are of, as it was given.
    """

    features: Features
    facts: dict[str, Any]


def read_features(folder: Path) -> KeptFeatures | None:
    """Read an index, every byte of it as written; None if there is none, or a damaged one, which is told in the log."""
    record = folder / RECORD_FILE
    if not record.is_file():
        return None
    try:
        found = read_checksummed(record, remedy="it is made anew")
    except DamagedError as error:
        logger.warning("%s", error)
        return None
    if found.get("version") != INDEX_VERSION:
        return None
    path = folder / str(found["features"])
    try:
        problem = None if _is_as_named(path) else "its sha256 is not the one of its name"
    except OSError as error:
        problem = error.strerror
    if problem is not None:
        logger.warning("%s is damaged (%s): it is made anew", path, problem)
        return None
    return KeptFeatures(np.load(path, mmap_mode="r", allow_pickle=False), found["facts"])


def keep_features(folder: Path, features: Features, facts: Mapping[str, Any]) -> None:
    """Write an index in the place of the one that is there. Call it with the folder's writer lock held.

    Raises:
        DiskError: the disk is full.
        OSError: the folder cannot be written to.
    """

    def save(path: Path) -> None:
        # As `np.save`, which says nothing where the end of the file meets a full disk.
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(features))
            file.write(np.ascontiguousarray(features).data)

    sweep_temporary([folder], files_only=True)
    path = _write_named(folder, "npy", save)
    write_checksummed(folder / RECORD_FILE, {"version": INDEX_VERSION, "features": path.name, "facts": dict(facts)})
    for other in folder.iterdir():
        if _FEATURES_FILE.fullmatch(other.name) and other != path:
            other.unlink(missing_ok=True)
    logger.info("kept the features of %d images in %s", len(features), folder)


def _write_named(folder: Path, suffix: str, write: Callable[[Path], object]) -> Path:
    """Write a file of features whose name says its sha256, whole or not at all."""
    return write_named_atomically(folder, lambda sha256: f"features-{sha256}.{suffix}", write)


def _is_as_named(path: Path) -> bool:
    """Return whether a file of features has the sha256 of its name."""
    named = _FEATURES_FILE.fullmatch(path.name)
    return named is not None and sha256_of(path) == named[1]

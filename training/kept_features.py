"""Features of test images, kept by the sha256 of their bytes: no model is asked about one and the same image twice.

A model is known by its weights and by what it makes of some pictures of noise, not by its name or place: another
preparation of pixels and another library make other features of these, and so keep features of their own.
"""

import hashlib
import logging
import os
import re
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.disk_errors import raise_if_disk_fails
from data_catalog.errors import ConfigError
from data_catalog.progress import Progress
from data_catalog.shards import sha256_of, write_named_atomically
from training.encoders import Encoder, encoded_batches
from training.features import stacked

if TYPE_CHECKING:
    from training.encoders import Read
    from training.features import Features
    from training.metrics import Integers

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the pixels of one and the same file change, or what files of features hold
PORTION = 2048  # images that are encoded before their features are written
_NOISE = ((64, 64), (31, 97), (480, 360), (20, 9))  # width and height
_FILE = re.compile(r"features-([0-9a-f]{64})\.parquet")


def encode_images_once(
    encoder: Encoder, names: Sequence[str], read: "Read", folder: Path, *, batch_size: int = 128
) -> "tuple[Features, Integers]":
    """As `encoders.encode_images`, but of images whose features are not below `folder` only; theirs are written there.

    Images of the same bytes have the same features to the bit, so that they always tie. What an interrupted run has
    encoded is there for the next one.

    Raises:
        ConfigError: the disk is full, or files below `folder` cannot be read or written.
    """
    import numpy as np

    place = folder / fingerprint(encoder)
    digests = _digests(names, read)
    with _files_of(place):
        known = _kept(place)
    num_distinct = len(set(digests.values()))
    asked: set[bytes] = set()
    fresh = _firsts(digests, known)
    if len(fresh) < num_distinct:
        logger.info("%s: features of %d of %d images are known", encoder.name, num_distinct - len(fresh), num_distinct)
    while fresh:
        for rows in _encoded(encoder, fresh, read, digests, batch_size=batch_size):
            with _files_of(place):
                _keep(place, rows)
            known |= rows
        # Of images of the same bytes one is encoded; if it has changed or gone by then, the others are still to be.
        asked |= {digests[name] for name in fresh if name in digests}
        fresh = _firsts(digests, known.keys() | asked)
    there = [number for number, name in enumerate(names) if digests.get(name) in known]
    return stacked([known[digests[names[number]]] for number in there]), np.array(there, dtype=np.int64)


def fingerprint(encoder: Encoder) -> str:
    """Of a model's weights, what it makes of pictures of noise, and the decoder's version: 16 hexadecimal digits."""
    import numpy as np
    import PIL
    import torch
    from PIL import Image

    generator = np.random.default_rng(0)
    pictures = [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in _NOISE
    ]
    with torch.no_grad():
        features = encoder.encode_pixels(torch.stack([encoder.prepare(picture) for picture in pictures])).float()
    made = hashlib.sha256(f"{VERSION} {PIL.__version__} {encoder.tensors_sha256} {tuple(features.shape)}".encode())
    made.update(features.contiguous().numpy().tobytes())
    return made.hexdigest()[:16]


@contextmanager
def _files_of(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise_if_disk_fails(error, place)
        raise ConfigError(
            f"features of test images cannot be kept in {place} ({error.strerror or error}): give yourself the right "
            f"to read and write there, or remove {place.parent}, and they are made anew"
        ) from error


def _firsts(digests: dict[str, bytes], known: Container[bytes]) -> list[str]:
    """Of images of the same bytes the first name, where their features are not known."""
    firsts = {digest: name for name, digest in reversed(digests.items()) if digest not in known}
    return [*reversed(firsts.values())]


def _digests(names: Sequence[str], read: "Read") -> dict[str, bytes]:
    """The sha256 of the bytes of each image that is there, in the order of their names."""

    def digest(name: str) -> bytes | None:
        try:
            return hashlib.sha256(read(name)).digest()
        except OSError:
            return None

    found = {}
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        Progress("read images", total=len(names), unit="images") as progress,
    ):
        for name, made in zip(names, pool.map(digest, names), strict=True):
            if made is not None:
                found[name] = made
            progress.advance(1)
    return found


def _encoded(
    encoder: Encoder, names: Sequence[str], read: "Read", digests: dict[str, bytes], *, batch_size: int
) -> "Iterator[dict[bytes, Features]]":
    """Features by the sha256 of their images' bytes, in portions; `digests` is told of what changed or went."""

    def noting(name: str) -> bytes:
        del digests[name]
        raw = read(name)
        digests[name] = hashlib.sha256(raw).digest()
        return raw

    rows: dict[bytes, Features] = {}
    for places, features in encoded_batches(encoder, names, noting, batch_size=batch_size):
        rows |= {digests[names[number]]: row for number, row in zip(places, features, strict=True)}
        if len(rows) >= PORTION:
            yield rows
            rows = {}
    if rows:
        yield rows


def _kept(place: Path) -> "dict[bytes, Features]":
    """What is kept of a model; a damaged file is told in the log, and removed."""
    found: dict[bytes, Features] = {}
    for path in sorted(place.glob("features-*.parquet")):
        named = _FILE.fullmatch(path.name)
        if named is None or sha256_of(path) != named[1]:
            logger.warning("%s is damaged (its sha256 is not the one of its name): its images are encoded again", path)
            path.unlink(missing_ok=True)
            continue
        table = pq.read_table(path)
        column = table.column("feature").combine_chunks()
        rows = column.flatten().to_numpy().reshape(len(column), -1)
        found |= dict(zip(table.column("sha256").to_pylist(), rows, strict=True))
    return found


def _keep(place: Path, rows: "dict[bytes, Features]") -> None:
    matrix = stacked(list(rows.values()))
    table = pa.table(
        {
            "sha256": pa.array(list(rows), pa.binary(32)),
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1]),
        }
    )
    write_named_atomically(place, lambda sha256: f"features-{sha256}.parquet", lambda new: pq.write_table(table, new))

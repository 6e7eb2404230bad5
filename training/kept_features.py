"""Features of test images and texts, kept by the sha256 of their bytes: no model is asked about one of them twice.

A model is known by its weights, configs and tokenizers, by the releases of the packages that run it, and by what it
makes of some pictures of noise and some texts; not by its name or place.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.disk_errors import raise_if_disk_fails
from data_catalog.errors import ConfigError
from data_catalog.progress import Progress
from data_catalog.shards import digest, sha256_of, write_named_atomically
from training.encoders import PACKAGES, Encoder, image_batches, text_batches
from training.features import stacked

if TYPE_CHECKING:
    from training.encoders import Read
    from training.features import Features
    from training.metrics import Integers

    Rows = Iterable[tuple[bytes, Features]]

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the pixels of one and the same file change, or what files of features hold
PORTION = 2048  # images or texts that are encoded before their features are written
_NOISE = ((64, 64), (31, 97), (480, 360), (20, 9))  # width and height
_TEXTS = (
    "a",
    "Due gatti neri sul divano, e \u201c3,5\u201d cani!",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.",
    " ".join(f"Parola numero {number}." for number in range(400)),  # longer than any model reads: where it is cut
)
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

    digests = _digests(names, read)
    asked: set[bytes] = set()

    def noting(name: str) -> bytes:
        del digests[name]
        raw = read(name)
        digests[name] = hashlib.sha256(raw).digest()  # of a file that changed by now it is another one
        asked.add(digests[name])
        return raw

    def encoded(fresh: Sequence[str]) -> "Rows":
        batches = image_batches(encoder, fresh, noting, batch_size=batch_size)
        return (
            (digests[fresh[place]], row) for places, rows in batches for place, row in zip(places, rows, strict=True)
        )

    known: dict[bytes, Features] = {}
    # Of images of the same bytes one is encoded; if it has changed or gone by then, the others are still to be.
    while wanted := {one: name for name, one in reversed(digests.items()) if one not in known and one not in asked}:
        known = _known(encoder, folder, wanted, encoded)
    there = [number for number, name in enumerate(names) if digests.get(name) in known]
    return stacked([known[digests[names[number]]] for number in there]), np.array(there, dtype=np.int64)


def encode_texts_once(encoder: Encoder, texts: Sequence[str], folder: Path, *, batch_size: int = 128) -> "Features":
    """As `encoders.encode_texts`, in the same way; texts are kept as they are asked, put in other words or not.

    Raises:
        ConfigError: the disk is full, or files below `folder` cannot be read or written.
    """
    words = encoder.reword(texts) if encoder.reword else texts
    digests = [hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest() for word in words]

    def encoded(fresh: Sequence[str]) -> "Rows":
        batches = text_batches(encoder, fresh, batch_size=batch_size)
        named = {word: one for one, word in zip(digests, words, strict=True)}
        return ((named[fresh[place]], row) for places, rows in batches for place, row in zip(places, rows, strict=True))

    known = _known(encoder, folder, dict(zip(digests, words, strict=True)), encoded)
    return stacked([known[one] for one in digests])


def _known(
    encoder: Encoder, folder: Path, wanted: Mapping[bytes, str], encode: "Callable[[Sequence[str]], Rows]"
) -> "dict[bytes, Features]":
    """Features by the sha256 of what they are of: all that are kept, and what is wanted besides, which is kept then."""
    place = folder / fingerprint(encoder)
    with _files_of(place):
        known = _kept(place)
    fresh = [name for one, name in wanted.items() if one not in known]
    if len(fresh) < len(wanted):
        logger.info("%s: features of %d of %d are known", encoder.name, len(wanted) - len(fresh), len(wanted))
    for rows in _portions(encode(fresh)):
        with _files_of(place):
            _keep(place, rows)
        known |= rows
    return known


def fingerprint(encoder: Encoder) -> str:
    """What tells one model from another, as 16 hexadecimal digits; see the module."""
    import numpy as np
    import torch
    from PIL import Image

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
    return digest([VERSION, releases, encoder.tensors_sha256, [dict(file) for file in encoder.files], features])[:16]


@contextmanager
def _files_of(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise_if_disk_fails(error, place)
        raise ConfigError(
            f"features of test sets cannot be kept in {place} ({error.strerror or error}): give yourself the right "
            f"to read and write there, or remove {place.parent}, and they are made anew"
        ) from error


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


def _portions(rows: "Rows") -> "Iterator[dict[bytes, Features]]":
    held: dict[bytes, Features] = {}
    for one, row in rows:
        held[one] = row
        if len(held) >= PORTION:
            yield held
            held = {}
    if held:
        yield held


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

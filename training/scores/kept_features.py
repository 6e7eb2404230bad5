"""Features of test images and texts, kept by the sha256 of their bytes: no model is asked about one of them twice.

A model is known by its weights, configs and tokenizers, by the releases of the packages that run it, and by what it
makes of some pictures of noise and some texts; not by its name or place.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_catalog.errors import DiskError
from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.shards import digest, sha256_of, write_named_atomically
from training.data.features import Features, stacked
from training.scores.encoders import PACKAGES, Encoder, Read, image_batches, text_batches
from training.scores.metrics import Integers

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


class FeatureStore:
    """A model whose features of test images and texts are kept; which those are is found out once for all sets.

    Images of the same bytes, and texts of the same letters, have the same features to the bit, so that they always tie.
    What an interrupted run has encoded is there for the next one.

    Args:
        encoder: the model.
        folder: below which features are kept, in a folder a model.
    """

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self._encoder, self._folder = encoder, folder

    def images(self, names: Sequence[str], read: Read, *, batch_size: int = 128) -> tuple[Features, Integers]:
        """As `encoders.encode_images`, but only images of which nothing is kept are encoded.

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
        """As `encoders.encode_texts`, in the same way; texts are kept as they are asked, put in other words or not.

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
        with _files_of(self._place):
            found = _kept(self._place)
        if found:
            logger.info("%s: features of %d images and texts are known", self._encoder.name, len(found))
        return found

    def _unknown(self, wanted: Iterable[tuple[bytes, str]]) -> dict[bytes, str]:
        """Names or texts by their sha256, the first of each, of which nothing is kept."""
        first = dict(reversed(list(wanted)))
        return {one: name for one, name in reversed(first.items()) if one not in self._known}

    def _learn(self, rows: Rows) -> None:
        """Keep features, portion by portion."""
        for portion in _portions(rows):
            with _files_of(self._place):
                _keep(self._place, portion)
            self._known.update(portion)


def fingerprint(encoder: Encoder) -> str:
    """What tells one model from another, as 16 hexadecimal digits; see the module."""
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
    return digest([VERSION, releases, encoder.tensors_sha256, [dict(file) for file in encoder.files], features])[:16]


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


def _portions(rows: Rows) -> Iterator[dict[bytes, Features]]:
    held: dict[bytes, Features] = {}
    for one, row in rows:
        held[one] = row
        if len(held) >= PORTION:
            yield held
            held = {}
    if held:
        yield held


def _kept(place: Path) -> dict[bytes, Features]:
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


def _keep(place: Path, rows: dict[bytes, Features]) -> None:
    matrix = stacked(list(rows.values()))
    table = pa.table(
        {
            "sha256": pa.array(list(rows), pa.binary(32)),
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1]),
        }
    )
    write_named_atomically(place, lambda sha256: f"features-{sha256}.parquet", lambda new: pq.write_table(table, new))

"""Load images for models: from pair shards as uint8 arrays at the model's size, and from files in any common format.

File images are turned upright and converted to RGB. A file that cannot be read gets a reason, and the others are still
read.
"""

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, InputError
from data_catalog.base.progress import Progress
from data_catalog.images.decoders import without_heif
from data_catalog.images.decoding import (
    Decoded,
    ImageRejectedError,
    decode_opened,
    open_image,
    rejection_of,
    to_srgb,
    upright,
)
from data_catalog.images.decoding import decode as decode_pixels
from data_catalog.rows.fetch_reasons import NORMALISE_REASONS
from data_catalog.rows.image_formats import READ_FORMATS
from training.data.pairs import Integers, RowGroup, read_rows
from training.towers.model import LoadedModel
from training.towers.preprocessing import Pixels, Preprocessing

Features = np.ndarray[Any, np.dtype[np.float32]]

WHITE = (255, 255, 255)  # background of transparent images, as in builds
BATCH_SIZE = 128
# A large JPEG is decoded at 1/2, 1/4 or 1/8 scale if its shorter side then has at least twice the model's size and
# this.
_SHORTER_SIDE = 512


def decode(data: bytes, preprocessing: Preprocessing) -> Pixels:
    """Decode an image to the model's square: uint8, shape (size, size, 3)."""
    with Image.open(io.BytesIO(data), formats=READ_FORMATS) as image:
        return preprocessing.resized(image if image.mode == "RGB" else image.convert("RGB"))  # convert copies


def decode_all(encoded: Sequence[bytes], preprocessing: Preprocessing, pool: ThreadPoolExecutor) -> Pixels:
    """Decode images of pair shards with the pool's threads: uint8, shape (images, size, size, 3)."""
    with about("an image of a pair shard does not decode", kind=DamagedError, remedy="run `vernaclip verify`"):
        return np.stack(list(pool.map(lambda data: decode(data, preprocessing), encoded)))


def encoded_images(group: RowGroup) -> list[bytes]:
    """Return the encoded images of one row group."""
    return [image["bytes"] for image in read_rows(group, ["image"]).column("image").to_pylist()]


def encoded_reader(
    groups: Sequence[RowGroup], encoded: Callable[[RowGroup], list[bytes]] = encoded_images, *, num_cached: int = 2
) -> Callable[[int], bytes]:
    """Return a function that returns an encoded image by its place among all row groups. Threads may call it.

    The images of some row groups are cached. Two suffice for threads that read in order.
    """
    ends = np.cumsum([group.num_rows for group in groups])
    lock, cached = threading.Lock(), lru_cache(num_cached)(encoded)

    def read(place: int) -> bytes:
        number = int(np.searchsorted(ends, place, side="right"))
        with lock:  # of threads that need the same row group, one reads it
            found = cached(groups[number])
        return found[place - int(ends[number])]  # counted from the end

    return read


def decoded_groups(groups: Sequence[RowGroup], preprocessing: Preprocessing, *, num_threads: int) -> Iterator[Pixels]:
    """Yield the decoded images of each row group in turn. Only one group is in memory at a time."""
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        for group in groups:
            yield decode_all(encoded_images(group), preprocessing, pool)


class ImageReader:
    """A reader with random access to the images of a split. Its cache does not affect the pixels.

    If all images fit into `cache_max_bytes` as uint8, each is decoded once, on first access. Otherwise, images are
    decoded on each access. Encoded row groups are cached for about two windows of `window` samples.
    """

    def __init__(
        self,
        groups: Sequence[RowGroup],
        *,
        preprocessing: Preprocessing,
        num_threads: int,
        cache_max_bytes: int,
        window: int,
    ) -> None:
        self._num_images = sum(group.num_rows for group in groups)
        self._groups, self._preprocessing = groups, preprocessing
        per_window = window * len(groups) // max(1, self._num_images) + 1
        self._encoded = encoded_reader(groups, num_cached=2 * per_window)  # a batch may cross their border
        self._decoded: dict[int, Pixels] = {}
        self._decoded_fit = self._num_images * preprocessing.size**2 * 3 <= cache_max_bytes
        self.pool = ThreadPoolExecutor(max_workers=num_threads)

    def read(self, samples: Integers) -> Pixels:
        """Return images by index: uint8, shape (images, size, size, 3)."""
        wanted = samples.tolist()
        if not self._decoded_fit:
            return self._decode(wanted)
        # Not their whole row groups: the first batches would wait until all groups of the window are decoded.
        missing = [sample for sample in dict.fromkeys(wanted) if sample not in self._decoded]
        if missing:
            self._decoded |= zip(missing, self._decode(missing), strict=True)
            if len(self._decoded) == self._num_images:
                self._encoded = encoded_reader(self._groups)  # frees the encoded images
        return np.stack([self._decoded[sample] for sample in wanted])

    def _decode(self, samples: Sequence[int]) -> Pixels:
        return decode_all([self._encoded(sample) for sample in samples], self._preprocessing, self.pool)

    def close(self) -> None:
        """Stop the decoding threads."""
        self.pool.shutdown()


@dataclass(frozen=True, slots=True)
class Picture:
    """An upright image in RGB and sRGB, possibly at a reduced scale, with the size of the original, upright."""

    image: Image.Image
    width: int
    height: int


def read_picture(path: Path, image_size: int) -> Picture:
    """Decode an image file for a model whose inputs are squares of `image_size` pixels."""
    with quiet_decoders():
        found = _picture(path, image_size)
    if isinstance(found, str):
        raise InputError(f"{path} cannot be read as an image: {found}")
    return found


def joined_rows(parts: Iterable[Features]) -> Features:
    """Return matrices with the same columns as one, or without any an empty matrix of shape (0, 0)."""
    found = list(parts)
    return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)


def picture_features(model: LoadedModel, pixels: Pixels, *, batch_size: int = BATCH_SIZE) -> Features:
    """Return features of images at the model's size: uint8 (images, size, size, 3) to unit rows (images, dim)."""
    import torch

    pieces = (torch.from_numpy(pixels[start : start + batch_size]) for start in range(0, len(pixels), batch_size))
    with torch.no_grad():
        encoded = (model.encode_pixels(model.preprocessing.normalised(piece)) for piece in pieces)
        return joined_rows(torch.nn.functional.normalize(some, dim=-1).numpy() for some in encoded)


def encode_files(model: LoadedModel, paths: Sequence[Path]) -> tuple[dict[Path, Features], dict[Path, str]]:
    """Return the features of the readable image files, and the reason why each of the others cannot be read."""

    def pixels_of(path: Path) -> Pixels | str:
        found = _picture(path, model.image_size)
        return found if isinstance(found, str) else model.preprocessing.resized(found.image)

    features: dict[Path, Features] = {}
    reasons: dict[Path, str] = {}
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        Progress("encode images", total=len(paths), unit="images") as progress,
    ):
        for start in range(0, len(paths), BATCH_SIZE):
            some = paths[start : start + BATCH_SIZE]
            with quiet_decoders():
                found = dict(zip(some, pool.map(pixels_of, some), strict=True))
            reasons |= {path: reason for path, reason in found.items() if isinstance(reason, str)}
            good = {path: pixels for path, pixels in found.items() if not isinstance(pixels, str)}
            if good:
                features |= zip(good, picture_features(model, np.stack(list(good.values()))), strict=True)
            progress.advance(len(some))
    return features, reasons


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silence Pillow's warnings about large or odd files, since this module decides which files to accept.

    Warning filters are global to the process, so set them outside of threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _picture(path: Path, image_size: int) -> Picture | str:
    """Read and decode a file, or return the reason why that fails, in a few words."""
    try:
        if not path.is_file():  # a pipe would never end
            return "it is not a file" if path.exists() else "there is no such file"
        return picture_or_reason(path.read_bytes(), image_size)
    except OSError as error:
        return str(error.strerror)


def picture_or_reason(raw: bytes, image_size: int) -> Picture | str:
    """Decode an image, or return the reason why that fails, in a few words. Call it inside `quiet_decoders`.

    A large JPEG is decoded at a reduced scale of at least twice the size that the model needs. 0 decodes at full scale.
    """
    try:
        raw, rejection = without_heif(raw)
        if rejection is None:
            return _picture_of(raw, image_size)
    except MemoryError:
        return "not enough memory to decode it"
    except Exception as error:  # noqa: BLE001 - the boundary around decoders: a broken file may raise any exception
        rejection = error if isinstance(error, ImageRejectedError) else rejection_of(error, raw)
    meaning = NORMALISE_REASONS[rejection.reason].meaning
    return f"{meaning} ({rejection.detail})" if rejection.detail else meaning


def _picture_of(raw: bytes, image_size: int) -> Picture:
    if not raw:
        raise ImageRejectedError("not_an_image", "an empty file")
    opened = open_image(raw)
    # Pillow only warns at this limit. It refuses a file above twice the limit.
    limit, num_pixels = Image.MAX_IMAGE_PIXELS, opened.width * opened.height
    if limit is not None and num_pixels > limit:
        raise ImageRejectedError("too_many_pixels", f"{num_pixels:,} pixels, of {limit:,}")
    shortest = max(2 * image_size, _SHORTER_SIDE)
    parts = (part for part in (8, 4, 2) if image_size and min(opened.size) // part >= shortest)
    found = decode_pixels(raw, opened, WHITE, fraction=next(parts, 1), profiles=True)
    return Picture(_finished(found), *found.upright_size)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return a Pillow image as `read_picture` returns that of a file: upright, in RGB and sRGB."""
    return _finished(decode_opened(image, WHITE, profiles=True))


def _finished(found: Decoded) -> Image.Image:
    return Image.fromarray(upright(to_srgb(found.pixels, found.profile), found.orientation))

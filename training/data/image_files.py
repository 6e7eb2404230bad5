"""Image files of any common format, upright and in RGB, and their features; a file that is broken stops no other."""

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_catalog.errors import InputError
from data_catalog.fetch.reasons import NORMALISE_REASONS
from data_catalog.images.opening import ImageRejectedError, open_image, rejection_of
from data_catalog.images.pixels import converted, decode, upright
from data_catalog.progress import Progress
from training.data.images import Features, Pixels, squashed
from training.towers.model import LoadedModel, normalise_pixels

# HEIC is on the list to be named among what cannot be read, since phones write it.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
)
WHITE = (255, 255, 255)  # behind what is transparent, as builds have it
BATCH_SIZE = 128
# A large JPEG is decoded at a half, a quarter or an eighth, if its shorter side keeps twice the model's size and this.
_SHORTER_SIDE = 512


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as one sees it: upright, RGB, in sRGB.

    Args:
        image: perhaps at a fraction of its size.
        width: of the original, upright, in pixels.
        height: likewise.
    """

    image: Image.Image
    width: int
    height: int


def read_picture(path: Path, image_size: int) -> Picture:
    """Decode an image file for a model that takes squares of `image_size` pixels.

    Raises:
        InputError: there is no such file, or it is no image that can be read; says why.
    """
    with quiet_decoders():
        found = _picture(path, image_size)
    if isinstance(found, str):
        raise InputError(f"{path} cannot be read as an image: {found}")
    return found


def picture_features(model: LoadedModel, pixels: Pixels, *, batch_size: int = BATCH_SIZE) -> Features:
    """Features of images at the model's size: uint8 (images, size, size, 3) to unit rows (images, dim)."""
    import torch

    with torch.no_grad():
        found = [
            model.module.encode_image(
                normalise_pixels(torch.from_numpy(pixels[start : start + batch_size])), normalize=True
            ).numpy()
            for start in range(0, len(pixels), batch_size)
        ]
    return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)


def encode_files(model: LoadedModel, paths: Sequence[Path]) -> tuple[dict[Path, Features], dict[Path, str]]:
    """Features of image files, and of those that cannot be read the reason why not; each path is in one of the two."""
    features: dict[Path, Features] = {}
    reasons: dict[Path, str] = {}
    with Progress("encode images", total=len(paths), unit="images") as progress:
        for some, found in _decoded(paths, model.image_size):
            good = [(path, pixels) for path, pixels in zip(some, found, strict=True) if not isinstance(pixels, str)]
            reasons |= {path: text for path, text in zip(some, found, strict=True) if isinstance(text, str)}
            if good:
                rows = picture_features(model, np.stack([pixels for _, pixels in good]))
                features |= dict(zip((path for path, _ in good), rows, strict=True))
            progress.advance(len(some))
    return features, reasons


def _decoded(paths: Sequence[Path], image_size: int) -> Iterator[tuple[Sequence[Path], list[Pixels | str]]]:
    """Files by the batch, each as pixels at the model's size, or the reason why not."""

    def pixels_of(path: Path) -> Pixels | str:
        found = _picture(path, image_size)
        return found if isinstance(found, str) else squashed(found.image, image_size)

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(paths), BATCH_SIZE):
            some = paths[start : start + BATCH_SIZE]
            with quiet_decoders():
                found = list(pool.map(pixels_of, some))
            yield some, found


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Pillow warns of files that are large or odd; which of them are taken is decided here.

    Filters of warnings are the whole process's, so they are set outside of the threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _picture(path: Path, image_size: int) -> Picture | str:
    """The reason why not is in a few words."""
    try:
        if not path.is_file():
            return "it is no file" if path.exists() else "there is no such file"
        raw = path.read_bytes()
    except OSError as error:
        return str(error.strerror)
    return picture_or_reason(raw, image_size)


def picture_or_reason(raw: bytes, image_size: int) -> Picture | str:
    """A decoded image, or in a few words why it is none; called within `quiet_decoders`.

    Args:
        image_size: a large JPEG is decoded at a fraction that keeps twice as much; 0 decodes it whole.
    """
    try:
        return _picture_of(raw, image_size)
    except MemoryError:
        return "there is too little memory to decode it"
    except Exception as error:  # noqa: BLE001 - the boundary around decoders: a broken file may raise anything
        rejection = error if isinstance(error, ImageRejectedError) else rejection_of(error, raw)
        meaning = NORMALISE_REASONS[rejection.reason].meaning
        return f"{meaning} ({rejection.detail})" if rejection.detail else meaning


def _picture_of(raw: bytes, image_size: int) -> Picture:
    if not raw:
        raise ImageRejectedError("not_an_image", "an empty file")
    opened = open_image(raw)
    # Pillow only warns at this limit of its own; at twice as much it refuses to open a file at all.
    limit, num_pixels = Image.MAX_IMAGE_PIXELS, opened.width * opened.height
    if limit is not None and num_pixels > limit:
        raise ImageRejectedError("too_many_pixels", f"{num_pixels:,} pixels, of {limit:,}")
    shortest = max(2 * image_size, _SHORTER_SIDE)
    parts = (part for part in (8, 4, 2) if image_size and min(opened.size) // part >= shortest)
    found = decode(raw, opened, WHITE, fraction=next(parts, 1), profiles=True)
    pixels = upright(converted(found.pixels, found.profile), found.orientation)
    width, height = found.upright_size
    return Picture(Image.fromarray(pixels), width, height)

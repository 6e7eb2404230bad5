"""Images of pair shards as uint8 arrays at the model's size, decoded once if they fit in memory, else when needed."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from data_catalog.errors import DamagedError
from training.data.pairs import Places, RowGroup, read_rows

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Features = np.ndarray[Any, np.dtype[np.float32]]


def decode(data: bytes, image_size: int) -> Pixels:
    """One encoded image as uint8 of shape (image_size, image_size, 3), squashed to the square by a bicubic filter.

    Raises:
        OSError: Pillow cannot decode it.
    """
    with Image.open(io.BytesIO(data)) as image:
        return squashed(image.convert("RGB"), image_size)


def squashed(image: Image.Image, image_size: int) -> Pixels:
    """An RGB image as `decode` returns it."""
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BICUBIC))


def decode_all(encoded: Sequence[bytes], image_size: int, pool: ThreadPoolExecutor) -> Pixels:
    """Encoded images, decoded by the pool's threads: uint8, shape (images, image_size, image_size, 3).

    Raises:
        DamagedError: an image does not decode.
    """
    try:
        return np.stack(list(pool.map(lambda data: decode(data, image_size), encoded)))
    except (OSError, TypeError) as error:
        raise DamagedError(f"an image of a pair shard does not decode ({error}): run `vernaclip verify`") from error


def encoded_images(group: RowGroup) -> list[bytes]:
    """The encoded images of one row group."""
    return [image["bytes"] for image in read_rows(group, ["image"]).column("image").to_pylist()]


def decoded_groups(groups: Sequence[RowGroup], image_size: int, *, num_threads: int) -> Iterator[Pixels]:
    """The images of each row group in turn; one group is in memory at a time."""
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        for group in groups:
            yield decode_all(encoded_images(group), image_size, pool)


class ImageReader:
    """Random access to images by row group and row; the pixels do not depend on what is kept.

    Everything is decoded once, when first asked for, if it fits in `cache_max_bytes` as uint8. If not, the encoded
    images of the row groups asked for last are kept, as many as hold `window` samples twice, and decoded each time.
    """

    def __init__(
        self,
        groups: Sequence[RowGroup],
        *,
        image_size: int,
        num_threads: int,
        cache_max_bytes: int,
        window: int,
    ) -> None:
        num_images = sum(group.num_rows for group in groups)
        self._groups, self._image_size, self._window = groups, image_size, window
        self._decoded_fit = num_images * image_size * image_size * 3 <= cache_max_bytes
        self.pool = ThreadPoolExecutor(max_workers=num_threads)
        self._decoded: dict[int, Pixels] = {}
        self._encoded: dict[int, list[bytes]] = {}

    def read(self, places: Places) -> Pixels:
        """Images at (row group, row), an array of shape (images, 2): uint8, (images, image_size, image_size, 3)."""
        wanted = places.tolist()
        groups = dict.fromkeys(group for group, _ in wanted)
        if self._decoded_fit:
            for group in groups:
                if group not in self._decoded:
                    self._decoded[group] = decode_all(encoded_images(self._groups[group]), self._image_size, self.pool)
            return np.stack([self._decoded[group][row] for group, row in wanted])
        for group in groups:
            # Taken out and put back: the dict's order is the order of use.
            self._encoded[group] = self._encoded.pop(group, []) or encoded_images(self._groups[group])
        found = decode_all([self._encoded[group][row] for group, row in wanted], self._image_size, self.pool)
        # Those used longest ago go; two windows are in use where a batch spans their border.
        kept = sum(len(images) for images in self._encoded.values())
        for group in list(self._encoded):
            kept -= len(self._encoded[group])
            if kept < 2 * self._window:
                break
            del self._encoded[group]
        return found

    def close(self) -> None:
        """Let the decoding threads go."""
        self.pool.shutdown()

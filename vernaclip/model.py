"""Encode images and texts into one feature space with a trained model."""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.settings import require_list
from training.data.features import stacked, text_features
from training.data.images import BATCH_SIZE, Features, encode_files, picture_features, upright_rgb
from training.towers.model import LoadedModel, require_texts
from training.towers.model import open_model as load_model
from training.towers.preprocessing import Pixels

Picture = Image.Image | str | PathLike[str]

logger = logging.getLogger(__name__)

_NUMBERS = ("I", "F")  # Pillow's modes of 32-bit numbers and fractions


class Model:
    """A trained model, ready to encode images and texts. Create it with `open_model`.

    Features are float32 arrays with one row per item. Each row has length 1, so the dot product of two rows is their
    cosine similarity.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @property
    def image_size(self) -> int:
        """Return the side of the square that images are resized to, in pixels."""
        return self._loaded.image_size

    @property
    def sha256(self) -> str:
        """Return the sha256 of the weights."""
        return self._loaded.sha256

    def encode_images(self, images: Sequence[Picture]) -> Features:
        """Encode Pillow images, or image files in any common format, and return features, shape (images, dim).

        >>> import vernaclip
        >>> from PIL import Image
        >>> model = vernaclip.open_model("model")
        >>> model.encode_images([Image.new("RGB", (64, 64), "red"), "photo.jpg"]).shape[0]
        2

        Raises:
            SettingsError: one image is given instead of a list.
            InputError: a file is missing or cannot be read as an image; a Pillow image does not decode, or has 32-bit
                numbers or fractions as pixels.
        """
        require_list(images, "image")
        files = dict.fromkeys(Path(image) for image in images if not isinstance(image, Image.Image))
        rows, reasons = encode_files(self._loaded, list(files))
        if reasons:
            path, why = next(iter(reasons.items()))
            raise InputError(f"{path} cannot be read as an image: {why}")
        opened = [image for image in images if isinstance(image, Image.Image)]
        encoded: list[Features] = []
        for start in range(0, len(opened), BATCH_SIZE):
            pixels = [self._pixels(image) for image in opened[start : start + BATCH_SIZE]]
            encoded += [*picture_features(self._loaded, np.stack(pixels))]
        rest = iter(encoded)
        return stacked([next(rest) if isinstance(image, Image.Image) else rows[Path(image)] for image in images])

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """Encode texts in the model's language, and return their features, shape (texts, dim).

        Texts longer than the model's context are cut off, and the log names them.

        >>> import vernaclip
        >>> vernaclip.open_model("model").encode_texts(["a red circle", "two blue stars"]).shape[0]
        2

        Raises:
            SettingsError: a text is empty, or one text is given instead of a list.
        """
        require_list(texts, "text")
        require_texts(texts)
        for text in self._loaded.tokenizer.too_long(texts) if texts else ():
            logger.warning("text is longer than the model's context, so its end is cut off: %r", text)
        return text_features(self._loaded, texts)

    def similarity(self, images: Sequence[Picture], texts: Sequence[str]) -> Features:
        """Return the cosine similarity of every image with every text, shape (images, texts).

        >>> import vernaclip
        >>> vernaclip.open_model("model").similarity(["photo.jpg"], ["a red circle", "two blue stars"]).shape
        (1, 2)

        Raises:
            PipelineError: as for `encode_images` and `encode_texts`.
        """
        require_list(images, "image")
        require_list(texts, "text")
        if not images or not texts:
            return np.zeros((len(images), len(texts)), dtype=np.float32)
        found: Features = self.encode_images(images) @ self.encode_texts(texts).T
        return found

    def _pixels(self, image: Image.Image) -> Pixels:
        """Return a Pillow image upright, in RGB and sRGB, at the model's size."""
        if image.mode in _NUMBERS:  # Pillow would clip them: fractions become black
            raise InputError(f"{image!r} has pixels without an agreed range: scale them to bytes, from 0 to 255")
        if 0 in image.size:
            raise InputError(f"{image!r} has no pixels")
        with about(f"{image!r} does not decode"):  # a broken or odd image may raise any exception
            return self._loaded.preprocessing.resized(upright_rgb(image))


def open_model(folder: str | PathLike[str]) -> Model:
    """Open a trained model: the folder that `train` returned, or an export in open_clip's layout.

    >>> import vernaclip
    >>> model = vernaclip.open_model("model")
    >>> cosines = model.similarity(["photo.jpg"], ["a red circle", "two blue stars"])

    Raises:
        InputError: the folder contains no model, or a model with different image preprocessing.
    """
    return Model(load_model(Path(folder)))

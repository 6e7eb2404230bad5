"""A trained model that encodes images and texts into one space."""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_catalog.errors import InputError
from training.data.features import stacked, text_features
from training.data.images import BATCH_SIZE, WHITE, Features, encode_files, picture_features, squashed
from training.towers.model import LoadedModel, require_texts
from training.towers.model import open_model as load_model

Picture = Image.Image | str | PathLike[str]

logger = logging.getLogger(__name__)


class Model:
    """A model ready to encode; `open_model` makes it.

    Features are numpy arrays of float32, a row an item, each of length 1: the product of two rows is their cosine.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @property
    def image_size(self) -> int:
        """Return the side of the squares that images are made, in pixels."""
        return self._loaded.image_size

    @property
    def sha256(self) -> str:
        """Return the hash of the weights."""
        return self._loaded.sha256

    def encode_images(self, images: Sequence[Picture]) -> Features:
        """Return features of images, shape (images, dim): Pillow's, or paths of files of any common format.

        >>> import vernaclip
        >>> from PIL import Image
        >>> model = vernaclip.open_model("model")
        >>> model.encode_images([Image.new("RGB", (64, 64), "red"), "photo.jpg"]).shape[0]
        2

        Raises:
            InputError: a file is not there, or is no image that can be read; or a Pillow image does not decode.
        """
        files = dict.fromkeys(Path(image) for image in images if not isinstance(image, Image.Image))
        rows, reasons = encode_files(self._loaded, list(files))
        if reasons:
            path, why = next(iter(reasons.items()))
            raise InputError(f"{path} cannot be read as an image: {why}")
        opened = [image for image in images if isinstance(image, Image.Image)]
        encoded: list[Features] = []
        for start in range(0, len(opened), BATCH_SIZE):
            pixels = [squashed(_upright(image), self.image_size) for image in opened[start : start + BATCH_SIZE]]
            encoded += [*picture_features(self._loaded, np.stack(pixels))]
        rest = iter(encoded)
        return stacked([next(rest) if isinstance(image, Image.Image) else rows[Path(image)] for image in images])

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """Return features of texts, shape (texts, dim); the log names texts of which the model does not read the end.

        >>> import vernaclip
        >>> vernaclip.open_model("model").encode_texts(["a red circle", "two blue stars"]).shape[0]
        2

        Raises:
            SettingsError: a text is empty.
        """
        require_texts(texts)
        for text in self._loaded.tokenizer.too_long(texts) if texts else ():
            logger.warning("the model does not read the end of the text %r", text)
        return text_features(self._loaded, texts)

    def similarity(self, images: Sequence[Picture], texts: Sequence[str]) -> Features:
        """Return the cosine of every image and every text, shape (images, texts).

        >>> import vernaclip
        >>> vernaclip.open_model("model").similarity(["photo.jpg"], ["a red circle", "two blue stars"]).shape
        (1, 2)

        Raises:
            PipelineError: see `encode_images` and `encode_texts`.
        """
        if not images or not texts:
            return np.zeros((len(images), len(texts)), dtype=np.float32)
        found: Features = self.encode_images(images) @ self.encode_texts(texts).T
        return found


def _upright(image: Image.Image) -> Image.Image:
    """Return an opened image as it is seen: turned as its EXIF says, in RGB, on white where it is transparent."""
    try:
        turned = ImageOps.exif_transpose(image)
    except OSError as error:
        raise InputError(f"{image!r} does not decode: {error}") from error
    if turned.has_transparency_data:
        behind = Image.new("RGBA", turned.size, (*WHITE, 255))
        turned = Image.alpha_composite(behind, turned.convert("RGBA"))
    return turned.convert("RGB")


def open_model(folder: str | PathLike[str]) -> Model:
    """Open a trained model: what `train` made, or an export in open_clip's layout.

    >>> import vernaclip
    >>> model = vernaclip.open_model("model")
    >>> cosines = model.similarity(["photo.jpg"], ["a red circle", "two blue stars"])

    Args:
        folder: such as `ROOT/models/DATASET/ID`, which `train` prints and returns.

    Raises:
        InputError: the folder holds no such model, or one that prepares images in another way.
    """
    return Model(load_model(Path(folder)))

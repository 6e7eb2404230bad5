"""Any model that maps images and texts into one space, behind two functions: ours, open_clip's, Hugging Face's."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError
from data_catalog.progress import Progress

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from training.features import Features
    from training.metrics import Integers

    Read = Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A model ready to encode, on the processor, in evaluation mode.

    Args:
        name: under which its scores stand.
        origin: where its weights are from, such as "open_clip ViT-B-32/openai".
        prepare: an RGB picture to floats of shape (3, height, width).
        encode_pixels: prepared pictures, shape (images, 3, height, width), to features, shape (images, dim).
        encode_texts: texts to features, shape (texts, dim).
        reword: what is done to all texts first, such as translating them.
    """

    name: str
    origin: str
    prepare: "Callable[[Image], torch.Tensor]"
    encode_pixels: "Callable[[torch.Tensor], torch.Tensor]"
    encode_texts: "Callable[[Sequence[str]], torch.Tensor]"
    reword: Callable[[Sequence[str]], Sequence[str]] | None = None


def open_model_folder(folder: Path, name: str) -> Encoder:
    """A model that was trained here.

    Raises:
        ConfigError: the folder holds none.
    """
    import torch

    from training.images import squashed
    from training.model import load_model, normalise_pixels

    model = load_model(folder)

    def prepare(image: "Image") -> "torch.Tensor":
        return normalise_pixels(torch.from_numpy(squashed(image, model.image_size).copy())[None])[0]

    return Encoder(
        name=name,
        origin=f"vernaclip {folder.name}, weights {model.sha256[:12]}",
        prepare=prepare,
        encode_pixels=model.module.encode_image,
        encode_texts=lambda texts: model.module.encode_text(model.tokenizer(texts)),
    )


def open_open_clip(source: str, name: str) -> Encoder:
    """A model of open_clip: "MODEL/PRETRAINED" by its names, or a folder in hub layout.

    Raises:
        ConfigError: there is no such model, or its weights cannot be had.
    """
    import open_clip

    model_name, pretrained = f"local-dir:{source}", None
    if not Path(source).is_dir():
        model_name, _, pretrained = source.partition("/")
        if model_name not in open_clip.list_models() or not pretrained:
            raise ConfigError(
                f"open_clip={source} is no folder, and no MODEL/PRETRAINED of open_clip, such as ViT-B-32/openai"
            )
    with _fetching(f"open_clip={source}"):
        module, _, prepare = open_clip.create_model_and_transforms(
            model_name, pretrained=pretrained, weights_only=True, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    module.eval()
    return Encoder(
        name=name,
        origin=f"open_clip {source}",
        prepare=prepare,
        encode_pixels=module.encode_image,
        encode_texts=lambda texts: module.encode_text(tokenizer(list(texts))),
    )


def open_transformers(source: str, name: str) -> Encoder:
    """A dual encoder of Hugging Face, such as `VisionTextDualEncoderModel` or `CLIPModel`: a folder, or a hub's name.

    Raises:
        ConfigError: it cannot be had, is no dual encoder, or lacks weights.
    """
    from transformers import AutoModel, AutoProcessor

    with _fetching(f"transformers={source}"):
        module, told = AutoModel.from_pretrained(source, output_loading_info=True, weights_only=True)
        processor = AutoProcessor.from_pretrained(source)
    if told["missing_keys"]:
        raise ConfigError(f"transformers={source} lacks weights, such as {min(told['missing_keys'])}")
    if not (hasattr(module, "get_image_features") and hasattr(processor, "image_processor")):
        raise ConfigError(f"transformers={source} is a {type(module).__name__}, which does not have two towers")
    module.eval()
    most = getattr(module.config, "text_config", module.config).max_position_embeddings

    def prepare(image: "Image") -> "torch.Tensor":
        return processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]  # type: ignore[no-any-return]

    def encode_texts(texts: Sequence[str]) -> "torch.Tensor":
        length = min(most, processor.tokenizer.model_max_length)
        tokens = processor.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return _pooled(module.get_text_features(**tokens))

    return Encoder(
        name=name,
        origin=f"transformers {source}",
        prepare=prepare,
        encode_pixels=lambda pixels: _pooled(module.get_image_features(pixel_values=pixels)),
        encode_texts=encode_texts,
    )


OPENERS: dict[str, Callable[[str, str], Encoder]] = {
    "folder": lambda source, name: open_model_folder(Path(source), name),
    "open_clip": open_open_clip,
    "transformers": open_transformers,
}


def rewording(encoder: Encoder, reword: Callable[[Sequence[str]], Sequence[str]], name: str) -> Encoder:
    """The same model, asked with other words: translated queries for a model that knows another language."""
    return replace(encoder, name=name, reword=reword)


def encode_images(
    encoder: Encoder, names: Sequence[str], read: "Read", *, batch_size: int = 128
) -> "tuple[Features, Integers]":
    """Unit features of all images that are there and decode.

    Args:
        names: of the images.
        read: bytes of an image by name; raises OSError where there are none.

    Returns:
        Features of shape (images, dim), and the place in `names` of each, shape (images,).
    """
    import numpy as np
    import torch

    found: list[Features] = []
    places: list[int] = []

    def prepared(place: int) -> "torch.Tensor | None":
        image = decoded(names[place], read)
        return None if image is None else encoder.prepare(image)

    threads = len(os.sched_getaffinity(0))
    with (
        torch.no_grad(),
        ThreadPoolExecutor(threads) as pool,
        Progress(f"encode images by {encoder.name}", total=len(names), unit="images") as progress,
    ):
        for start in range(0, len(names), batch_size):
            some = range(start, min(start + batch_size, len(names)))
            pixels = dict(zip(some, pool.map(prepared, some), strict=True))
            good = {place: value for place, value in pixels.items() if value is not None}
            if good:
                found.append(_units(encoder.encode_pixels(torch.stack(list(good.values())))))
                places += good
            progress.advance(len(some))
    features = np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)
    return features, np.array(places, dtype=np.int64)


def encode_texts(encoder: Encoder, texts: Sequence[str], *, batch_size: int = 128) -> "Features":
    """Unit features of texts, shape (texts, dim)."""
    import numpy as np
    import torch

    words = encoder.reword(texts) if encoder.reword else texts
    with (
        torch.no_grad(),
        Progress(f"encode texts by {encoder.name}", total=len(words), unit="texts") as progress,
    ):
        found = []
        for start in range(0, len(words), batch_size):
            some = words[start : start + batch_size]
            found.append(_units(encoder.encode_texts(some)))
            progress.advance(len(some))
    return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)


def decoded(name: str, read: "Read") -> "Image | None":
    """An image as RGB, upright; None where it is not there, or is no picture that Pillow decodes."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(read(name))) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def _units(features: "torch.Tensor") -> "Features":
    import torch

    units: Features = torch.nn.functional.normalize(features.float(), dim=-1).numpy()
    return units


def _pooled(found: Any) -> "torch.Tensor":
    """Features, which newer releases of transformers wrap into an output of several parts."""
    features: torch.Tensor = getattr(found, "pooler_output", found)
    return features


@contextmanager
def _fetching(what: str) -> Iterator[None]:
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    try:
        yield
    except UnpicklingError as error:
        raise ConfigError(f"{what} holds more than weights, which to read would run code: it is refused") from error
    except (OSError, ValueError, RuntimeError, LookupError, SafetensorError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{what} cannot be had ({line}): copy it to a folder where there is a network, and name that"
        ) from error

"""Any model that maps images and texts into one space, behind two functions."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image

from data_catalog.progress import Progress
from training.data.features import Features, stacked
from training.data.image_files import picture_or_reason, quiet_decoders
from training.scores.metrics import Integers

Read = Callable[[str], bytes]

if TYPE_CHECKING:
    import torch

# What loads models, tokenizes and makes pictures small: other releases of these may make a little else of both.
PACKAGES = ("torch", "torchvision", "open_clip_torch", "transformers", "tokenizers", "timm", "pillow", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A model ready to encode, on the processor, in evaluation mode.

    Args:
        name: under which its scores stand.
        origin: where its weights are from, such as "open_clip ViT-B-32/openai, tensors 0123456789ab".
        prepare: an RGB picture to floats of shape (3, height, width).
        encode_pixels: prepared pictures, shape (images, 3, height, width), to features, shape (images, dim).
        encode_texts: texts to features, shape (texts, dim).
        reword: what is done to all texts first, such as translating them.
        tensors_sha256: of all its weights as they were loaded (`tensors_sha256`); None: not known.
        files: name and sha256 of configs and tokenizers that lie in its folder, if it has one.
    """

    name: str
    origin: str
    prepare: "Callable[[Image], torch.Tensor]"
    encode_pixels: "Callable[[torch.Tensor], torch.Tensor]"
    encode_texts: "Callable[[Sequence[str]], torch.Tensor]"
    reword: Callable[[Sequence[str]], Sequence[str]] | None = None
    tensors_sha256: str | None = None
    files: tuple[Mapping[str, str], ...] = ()


def rewording(encoder: Encoder, reword: Callable[[Sequence[str]], Sequence[str]], name: str) -> Encoder:
    """The same model, asked with other words: translated queries for a model that knows another language."""
    return replace(encoder, name=name, origin=f"{encoder.origin}, asked in translation", reword=reword)


def encode_images(
    encoder: Encoder, names: Sequence[str], read: Read, *, batch_size: int = 128
) -> tuple[Features, Integers]:
    """Unit features of all images that are there and decode.

    Args:
        names: of the images.
        read: bytes of an image by name; raises OSError where there are none.

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
    """The same by the batch: places in `names` of those that are there and decode, and their features."""
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
    """Unit features of texts, shape (texts, dim)."""
    words = encoder.reword(texts) if encoder.reword else texts
    return stacked([row for _, features in text_batches(encoder, words, batch_size=batch_size) for row in features])


def text_batches(
    encoder: Encoder, words: Sequence[str], *, batch_size: int
) -> Iterator[tuple[Sequence[int], Features]]:
    """Places of texts that are put in other words by now, and their features, by the batch."""
    import torch

    with Progress(f"encode texts by {encoder.name}", total=len(words), unit="texts") as progress:
        for start in range(0, len(words), batch_size):
            some = words[start : start + batch_size]
            with torch.no_grad():
                features = _units(encoder.encode_texts(some))
            yield range(start, start + len(some)), features
            progress.advance(len(some))


def decoded(name: str, read: Read) -> Image | None:
    """An image as RGB, upright, on white; None where it is not there, or does not decode. Within `quiet_decoders`."""
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


def tensors_sha256(tensors: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 of names, types, shapes and bytes of tensors, by name; equal for equal ones, however they lie.

    That is one name for what a model has in memory, whatever file or place of the hub it came from.

    Nothing is copied but one tensor at a time, where its numbers do not lie one behind the other.

    Args:
        tensors: a model's `state_dict()`; what is no tensor in it is passed over.
    """
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, torch.Tensor):
            # The length of the head ends it, type and shape tell the number of bytes: so no two sets read alike.
            head = json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()
            found.update(len(head).to_bytes(8, "little"))
            found.update(head)
            found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: "torch.Tensor") -> memoryview:
    """As bytes, since NumPy has no bfloat16."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data

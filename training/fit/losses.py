"""Compute open_clip's contrastive losses, for whole batches or in microbatches, and set their initial constants."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.config import TrainConfig
from training.data.batches import Batch
from training.runs.processes import gather_features, generator_states, set_generator_states, sum_gradients

Encode = Callable[[torch.Tensor], torch.Tensor]
T = TypeVar("T")

LENGTH_GROUPS = 3  # in which the captions of a batch are encoded
# SigLIP's initial values, from its paper: most pairs do not match, and the bias says so from the first step.
SIGLIP_START = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}


def with_loss_constants(model_config: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return the model config with the loss's initial constants and, if the settings fix it, the logit scale."""
    # A config with a bias was made for this loss, and has its own constants.
    needs_start = config.loss == "siglip" and "init_logit_bias" not in model_config
    scale = {"init_logit_scale": math.log(config.logit_scale)} if config.logit_scale else {}
    return {**model_config, **(SIGLIP_START if needs_start else {}), **scale}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Functions that encode the inputs of a batch to features, shape (batch, dim), not normalised."""

    image: Encode
    text: Encode
    are_apart: bool = False  # images and texts at the same time, in two threads: for texts without dropout, in fp32

    @classmethod
    def whole(cls, module: Any) -> "Encoders":
        """Return the encoders of images and token ids."""
        return cls(image=partial(encode_images, module), text=module.encode_text)


def both(*calls: Callable[[], T], are_apart: bool) -> list[T]:
    """Call one or two functions, the second in a thread of its own if they are apart, and return their results."""
    if not are_apart or len(calls) == 1:
        return [call() for call in calls]
    first, second = calls
    later = _second_thread().submit(second)
    try:
        return [first(), later.result()]
    finally:
        later.exception()  # nothing of this step runs on after it


@cache
def _second_thread() -> ThreadPoolExecutor:
    # A thread takes torch's number of threads only when it asks for it.
    return ThreadPoolExecutor(1, thread_name_prefix="texts", initializer=torch.get_num_threads)


os.register_at_fork(after_in_child=_second_thread.cache_clear)  # a child has none of its parent's threads


def by_length(encode: Encode, lengths: Encode) -> Encode:
    """Return an encoder of token ids that takes short, middling and long texts apart, with less padding.

    On a GPU, which is faster with one large batch, it takes them together. `lengths` returns the number of tokens of
    each text without padding.
    """

    def encode_apart(ids: torch.Tensor) -> torch.Tensor:
        if ids.device.type != "cpu":
            return encode(ids)
        tokens = lengths(ids)
        order = tokens.argsort(stable=True)
        groups = [group for group in order.tensor_split(LENGTH_GROUPS) if len(group)]
        found = torch.cat([encode(ids[group][..., : int(tokens[group[-1]])]) for group in groups])
        return found.index_select(0, order.argsort())

    return encode_apart


def encode_images(module: Any, images: torch.Tensor) -> torch.Tensor:
    """Return features of normalised images, shape (batch, 3, height, width)."""
    found: torch.Tensor = module.encode_image(images.contiguous(memory_format=torch.channels_last))
    return found


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in bfloat16 where its precision suffices if `precision` is "bf16", otherwise in fp32."""
    is_half = precision == "bf16"
    # On CPUs, the backward pass of fused attention makes a bfloat16 step up to 1.8 times as slow.
    attention = sdpa_kernel(SDPBackend.MATH) if is_half and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=is_half), attention:
        yield


def unit_features(encoders: Encoders, batch: Batch, *, precision: str = "fp32") -> Batch:
    """Return a batch's features with length 1, in fp32 whatever precision the towers compute in."""
    has_gradients = torch.is_grad_enabled()  # a setting of each thread

    def unit(encode: Encode, inputs: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(has_gradients), autocast(precision, batch.images.device):
            found = encode(inputs)
        return F.normalize(found.float(), dim=-1)

    calls = partial(unit, encoders.image, batch.images), partial(unit, encoders.text, batch.texts)
    return Batch(*both(*calls, are_apart=encoders.are_apart))


def pieces_of(batch: Batch, size: int) -> list[Batch]:
    """Return a batch in pieces of `size` images; 0: in one."""
    starts = range(0, len(batch.images), size or len(batch.images))
    return [batch.map(itemgetter(slice(start, start + starts.step))) for start in starts]


def joined(pieces: Sequence[Batch]) -> Batch:
    """Return pieces as one batch."""
    return Batch(torch.cat([piece.images for piece in pieces]), torch.cat([piece.texts for piece in pieces]))


def contrastive_loss(module: Any, features: Batch, *, loss: str) -> torch.Tensor:
    """Return the loss of a batch's unit features, a scalar.

    It is "clip" (https://arxiv.org/abs/2103.00020) or "siglip" (https://arxiv.org/abs/2303.15343).
    """
    both = features.images, features.texts, module.logit_scale.exp()
    found: torch.Tensor = SigLipLoss()(*both, module.logit_bias) if loss == "siglip" else ClipLoss()(*both)
    return found


def backward(module: Any, encoders: Encoders, batch: Batch, config: TrainConfig) -> torch.Tensor:
    """Return the loss of a batch, and add the gradients to the module's parameters.

    The loss compares each image with all captions of the batch. With `config.microbatch`, both towers process the batch
    twice: first without gradients to get all features, then in pieces, with the known gradient of the loss with respect
    to each feature (https://arxiv.org/abs/2101.06983). With several processes, each has a slice of the batch, and all
    get the gradients of the whole batch. The loss is always computed in fp32, whatever precision the towers compute in.
    """
    pieces, generators, features = pieces_of(batch, config.microbatch), [], []
    with torch.set_grad_enabled(len(pieces) == 1):
        for piece in pieces:
            generators.append(generator_states(piece.images.device))  # to repeat the same dropout in the second pass
            features.append(unit_features(encoders, piece, precision=config.precision))
    whole = joined(features).map(lambda part: part.detach().requires_grad_())
    loss = contrastive_loss(module, whole.map(gather_features), loss=config.loss)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = pieces_of(whole.map(attrgetter("grad")), config.microbatch)
    for piece, generator, known, gradient in zip(pieces, generators, features, gradients, strict=True):
        if len(pieces) > 1:
            set_generator_states(generator)
            known = unit_features(encoders, piece, precision=config.precision)
        calls = _passing(known.images, gradient.images), _passing(known.texts, gradient.texts)
        both(*calls, are_apart=encoders.are_apart)
    # The logit scale and bias are left out: their gradients already cover the whole batch in each process.
    sum_gradients([*module.visual.parameters(), *module.text.parameters()])
    return loss


def _passing(features: torch.Tensor, gradients: torch.Tensor) -> Callable[[], None]:
    """Return a function that adds the gradients of a tower's weights, given those of its features."""
    return partial(features.backward, gradients) if features.requires_grad else lambda: None

"""Compute open_clip's contrastive losses, for whole batches or in microbatches, and set their initial constants."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from operator import itemgetter
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
    changed: Encode  # encodes token ids of changed captions and of their anchors
    are_apart: bool = False  # images and texts at the same time, in two threads: for texts without dropout, in fp32

    @classmethod
    def whole(cls, module: Any) -> "Encoders":
        """Return the encoders of images and token ids."""
        return cls(image=partial(encode_images, module), text=module.encode_text, changed=module.encode_text)


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
    """Return a batch's features with length 1, in fp32 whatever precision the towers compute in.

    The feature of a changed caption or an anchor that is not there is the zero vector.
    """
    has_gradients = torch.is_grad_enabled()  # a setting of each thread

    def unit(encode: Encode, inputs: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(has_gradients), autocast(precision, batch.images.device):
            found = encode(inputs)
        return F.normalize(found.float(), dim=-1)

    def unit_texts() -> list[torch.Tensor]:
        texts = unit(encoders.text, batch.texts)
        if batch.changed is None or batch.kinds is None or batch.anchors is None:
            return [texts]
        changed, anchors = torch.zeros_like(texts), torch.zeros_like(texts)
        is_changed, is_anchored = batch.kinds >= 0, batch.anchors.flatten(1).any(dim=1)
        ids = torch.cat([batch.changed[is_changed], batch.anchors[is_anchored]])
        if len(ids):
            found = unit(encoders.changed, ids).tensor_split([int(is_changed.sum())])
            changed[is_changed], anchors[is_anchored] = found
        return [texts, changed, batch.kinds, anchors]

    images, texts = both(lambda: [unit(encoders.image, batch.images)], unit_texts, are_apart=encoders.are_apart)
    return Batch(*images, *texts)


def pieces_of(batch: Batch, size: int) -> list[Batch]:
    """Return a batch in pieces of `size` images; 0: in one."""
    starts = range(0, len(batch.images), size or len(batch.images))
    return [batch.map(itemgetter(slice(start, start + starts.step))) for start in starts]


def joined(pieces: Sequence[Batch]) -> Batch:
    """Return pieces as one batch."""
    columns = zip(*(piece.parts for piece in pieces), strict=True)
    return Batch(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


def contrastive_loss(module: Any, features: Batch, *, loss: str) -> torch.Tensor:
    """Return the loss of a batch's unit features without that of changed captions, a scalar.

    It is "clip" (https://arxiv.org/abs/2103.00020) or "siglip" (https://arxiv.org/abs/2303.15343).
    """
    both = features.images, features.texts, module.logit_scale.exp()
    found: torch.Tensor = SigLipLoss()(*both, module.logit_bias) if loss == "siglip" else ClipLoss()(*both)
    return found


def step_loss(module: Any, features: Batch, config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss that a step lowers, and sum and number of the images' losses of hard negatives, shape (2, kinds).

    Both cover the batch of all processes, of which `features` is this one's slice. For a changed caption, the image
    chooses between it and its own caption: the loss is the cross-entropy of the two logits
    (https://arxiv.org/abs/2211.11733). The anchor, another caption of the image, chooses in the same way. The weighted
    mean of these over the batch, 0 where there is none, adds to the contrastive loss.

    NegCLIP (https://arxiv.org/abs/2210.01936) compares each image with the changed captions of the whole batch instead.
    Some of those are true of it, and equal its own caption where a batch holds near misses; and the share of its own
    changed caption falls with the size of the batch.
    """
    features, num_kinds = features.map(gather_features), len(config.hard_negatives)
    found = contrastive_loss(module, features, loss=config.loss)
    if features.changed is None or features.kinds is None or features.anchors is None:
        return found, torch.zeros(2, num_kinds)
    between = (features.changed - features.texts) * module.logit_scale.exp()

    def choice(chooser: torch.Tensor, is_there: torch.Tensor) -> torch.Tensor:
        return F.softplus((chooser * between).sum(dim=-1)) * is_there

    losses = choice(features.images, features.kinds >= 0)
    by_anchors = choice(features.anchors, features.anchors.any(dim=1))
    is_of = features.kinds[:, None] == torch.arange(num_kinds, device=features.kinds.device)
    by_kind = torch.stack([(losses.detach()[:, None] * is_of).sum(dim=0), is_of.sum(dim=0)]).cpu()
    return found + config.hard_negative_weight * (losses + by_anchors).mean(), by_kind


def backward(module: Any, encoders: Encoders, batch: Batch, config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses of a batch, see `step_loss`, and add the gradients to the module's parameters.

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
    whole = joined(features).map(lambda part: part.detach().requires_grad_() if part.is_floating_point() else part)
    loss, by_kind = step_loss(module, whole, config)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = pieces_of(whole.map(lambda part: part if part.grad is None else part.grad), config.microbatch)
    for piece, generator, known, gradient in zip(pieces, generators, features, gradients, strict=True):
        if len(pieces) > 1:
            set_generator_states(generator)
            known = unit_features(encoders, piece, precision=config.precision)
        _pass_on(known, gradient, are_apart=encoders.are_apart)
    # The logit scale and bias are left out: their gradients already cover the whole batch in each process.
    sum_gradients([*module.visual.parameters(), *module.text.parameters()])
    return loss, by_kind


def _pass_on(features: Batch, gradients: Batch, *, are_apart: bool) -> None:
    """Add the gradients of the towers' weights, given those of their features."""

    def tower(*parts: tuple[torch.Tensor | None, torch.Tensor | None]) -> Callable[[], None]:
        trained = [(part, upstream) for part, upstream in parts if part is not None and part.requires_grad]
        if not trained:
            return lambda: None
        return partial(torch.autograd.backward, [part for part, _ in trained], [upstream for _, upstream in trained])

    images, *texts = zip(features.parts, gradients.parts, strict=True)
    both(tower(images), tower(*texts), are_apart=are_apart)

"""Compute open_clip's contrastive losses, for whole batches or in microbatches, and set their initial constants."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from data_catalog.errors import SettingsError
from training.config import TrainConfig
from training.processes import gather_features, sum_gradients

Encode = Callable[[torch.Tensor], torch.Tensor]
Features = tuple[torch.Tensor, torch.Tensor]

# SigLIP's initial values, from its paper: most pairs do not match, and the bias says so from the first step.
SIGLIP_START = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}


def with_loss_constants(model_config: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return the model config with the loss's initial constants and, if the settings fix it, the logit scale."""
    found = dict(model_config)
    if config.loss == "siglip":
        is_ready = "init_logit_bias" in found  # the config is made for this loss and has its own constants
        found = found if is_ready else {**found, **SIGLIP_START}
    if config.logit_scale:
        found["init_logit_scale"] = math.log(config.logit_scale)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """A pair of functions that encode the two towers' inputs to features, shape (batch, dim), not normalised."""

    image: Encode
    text: Encode

    @classmethod
    def whole(cls, module: Any) -> "Encoders":
        """Return the encoders of images and token ids."""
        return cls(image=lambda images: encode_images(module, images), text=module.encode_text)


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


def unit_features(
    encoders: Encoders, images: torch.Tensor, texts: torch.Tensor, *, precision: str = "fp32"
) -> Features:
    """Return a batch's image and text features with length 1, in fp32 whatever precision the towers compute in."""
    with autocast(precision, images.device):
        image_features, text_features = encoders.image(images), encoders.text(texts)
    return F.normalize(image_features.float(), dim=-1), F.normalize(text_features.float(), dim=-1)


def unit_features_in_pieces(encoders: Encoders, images: torch.Tensor, texts: torch.Tensor, *, size: int) -> Features:
    """Return unit features in fp32, computed for `size` images and texts at a time to save memory (0: all at once)."""
    size = size or len(images)
    pieces = [slice(start, start + size) for start in range(0, len(images), size)]
    image_parts, text_parts = zip(
        *(unit_features(encoders, images[piece], texts[piece]) for piece in pieces), strict=True
    )
    return torch.cat(image_parts), torch.cat(text_parts)


def contrastive_loss(
    module: Any, image_features: torch.Tensor, text_features: torch.Tensor, *, loss: str
) -> torch.Tensor:
    """Return the loss of a batch's unit features, a scalar.

    Args:
        module: model with the logit scale and, for some models, the logit bias.
        image_features: unit rows, shape (batch, dim).
        text_features: unit rows of the captions of those images, shape (batch, dim).
        loss: "clip" (https://arxiv.org/abs/2103.00020) or "siglip" (https://arxiv.org/abs/2303.15343).
    """
    features = image_features, text_features, module.logit_scale.exp()
    found: torch.Tensor = SigLipLoss()(*features, module.logit_bias) if loss == "siglip" else ClipLoss()(*features)
    return found


def backward(
    module: Any, encoders: Encoders, images: torch.Tensor, texts: torch.Tensor, config: TrainConfig
) -> torch.Tensor:
    """Return the loss of a batch, and add its gradients to the module's parameters.

    The loss compares each image with all captions of the batch. With `config.microbatch`, both towers process the batch
    twice: first without gradients to get all features, then in pieces, with the known gradient of the loss with respect
    to each feature (https://arxiv.org/abs/2101.06983). With several processes, each has a slice of the batch, and all
    get the gradients of the whole batch. The loss is always computed in fp32, whatever precision the towers compute in.
    """
    if not config.microbatch or config.microbatch >= len(images):
        features = unit_features(encoders, images, texts, precision=config.precision)
        found = contrastive_loss(module, *map(gather_features, features), loss=config.loss)
        if math.isfinite(found.item()):
            found.backward()  # type: ignore[no-untyped-call]
    else:
        found = _backward_in_pieces(module, encoders, images, texts, config)
    # The logit scale and bias are left out: their gradients already cover the whole batch in each process.
    sum_gradients([*module.visual.parameters(), *module.text.parameters()])
    return found


def _backward_in_pieces(
    module: Any, encoders: Encoders, images: torch.Tensor, texts: torch.Tensor, config: TrainConfig
) -> torch.Tensor:
    pieces = [slice(start, start + config.microbatch) for start in range(0, len(images), config.microbatch)]
    generators, features = [], []
    with torch.no_grad():
        for piece in pieces:
            generators.append(generator_states(images.device))  # to repeat the same dropout in the second pass
            features.append(unit_features(encoders, images[piece], texts[piece], precision=config.precision))
    whole = [torch.cat(parts).requires_grad_() for parts in zip(*features, strict=True)]
    found = contrastive_loss(module, *map(gather_features, whole), loss=config.loss)
    if not math.isfinite(found.item()):
        return found
    found.backward()  # type: ignore[no-untyped-call]
    for piece, generator in zip(pieces, generators, strict=True):
        set_generator_states(generator)
        again = unit_features(encoders, images[piece], texts[piece], precision=config.precision)
        gradients = [features.grad[piece] for features in whole if features.grad is not None]
        trained = [pair for pair in zip(again, gradients, strict=True) if pair[0].requires_grad]
        torch.autograd.backward([part for part, _ in trained], [gradient for _, gradient in trained])
    return found


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of torch's random generators that work on a device draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, torch.Tensor]) -> None:
    """Restore generator states. Skip the GPU's if there is no GPU, since a run may be resumed on a CPU."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def refuse_batch_statistics(module: Any) -> None:
    """Raise if a model cannot process a batch in pieces.

    Raises:
        SettingsError: the model has batch normalisation, whose statistics would be those of a piece.
    """
    if any(isinstance(part, _BatchNorm) for part in module.modules()):
        raise SettingsError(
            "train.microbatch does not work with batch normalisation, which would see only a piece of the batch. "
            "Set it to 0, or use a model with a vision transformer"
        )

"""Contrastive losses of a batch, by open_clip, whole or in pieces, and the constants that each starts from."""

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
from training.processes import add_up_gradients, gathered

Encode = Callable[[torch.Tensor], torch.Tensor]
Features = tuple[torch.Tensor, torch.Tensor]

# Where SigLIP starts, by its paper: most pairs do not belong together, and the bias says so from the first step.
SIGLIP_START = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}


def with_loss_constants(model_config: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """A model config that starts as the loss wants it, with the logit scale that the settings fix, if they do."""
    found = dict(model_config)
    if config.loss == "siglip":
        is_ready = "init_logit_bias" in found  # it is made for this loss, with constants of its own
        found = found if is_ready else {**found, **SIGLIP_START}
    if config.logit_scale:
        found["init_logit_scale"] = math.log(config.logit_scale)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """What makes features, shape (batch, dim) and of any length, of the two towers' inputs."""

    image: Encode
    text: Encode

    @classmethod
    def whole(cls, module: Any) -> "Encoders":
        """Both towers, of images and token ids."""
        return cls(image=lambda images: encode_images(module, images), text=module.encode_text)


def encode_images(module: Any, images: torch.Tensor) -> torch.Tensor:
    """Features of normalised images, shape (batch, 3, height, width)."""
    found: torch.Tensor = module.encode_image(images.contiguous(memory_format=torch.channels_last))
    return found


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute, while inside, in "bf16" where that is good enough, or all in "fp32"."""
    is_half = precision == "bf16"
    # On processors the fused attention's backward pass makes a whole step up to 1.8 times as long in bfloat16.
    attention = sdpa_kernel(SDPBackend.MATH) if is_half and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=is_half), attention:
        yield


def unit_features(
    encoders: Encoders, images: torch.Tensor, texts: torch.Tensor, *, precision: str = "fp32"
) -> Features:
    """Features of a batch's images and texts, of length 1, in fp32 whatever the towers compute in."""
    with autocast(precision, images.device):
        image_features, text_features = encoders.image(images), encoders.text(texts)
    return F.normalize(image_features.float(), dim=-1), F.normalize(text_features.float(), dim=-1)


def unit_features_in_pieces(encoders: Encoders, images: torch.Tensor, texts: torch.Tensor, *, size: int) -> Features:
    """The same, in fp32, of so many images and texts at a time, where memory is short; 0 takes all."""
    size = size or len(images)
    pieces = [slice(start, start + size) for start in range(0, len(images), size)]
    image_parts, text_parts = zip(
        *(unit_features(encoders, images[piece], texts[piece]) for piece in pieces), strict=True
    )
    return torch.cat(image_parts), torch.cat(text_parts)


def contrastive_loss(
    module: Any, image_features: torch.Tensor, text_features: torch.Tensor, *, loss: str
) -> torch.Tensor:
    """The loss of a batch's unit features, a scalar.

    Args:
        module: whose logit scale, and bias, there are.
        loss: "clip" (https://arxiv.org/abs/2103.00020) or "siglip" (https://arxiv.org/abs/2303.15343).
    """
    features = image_features, text_features, module.logit_scale.exp()
    found: torch.Tensor = SigLipLoss()(*features, module.logit_bias) if loss == "siglip" else ClipLoss()(*features)
    return found


def backward(
    module: Any, encoders: Encoders, images: torch.Tensor, texts: torch.Tensor, config: TrainConfig
) -> torch.Tensor:
    """Return the loss of a batch, and add gradients to the module's parameters: each image is told from all others.

    With `config.microbatch`, both towers go through the batch twice: first for the features of all, then, with the
    gradient of the loss by each feature known, piece by piece for the gradients of the weights
    (https://arxiv.org/abs/2101.06983). Of several processes each has a slice of the batch, and all end with the
    gradients of the whole. The loss itself is always fp32, whatever the towers compute in.
    """
    if not config.microbatch or config.microbatch >= len(images):
        features = unit_features(encoders, images, texts, precision=config.precision)
        found = contrastive_loss(module, *map(gathered, features), loss=config.loss)
        if math.isfinite(found.item()):
            found.backward()  # type: ignore[no-untyped-call]
    else:
        found = _backward_in_pieces(module, encoders, images, texts, config)
    # The logit scale and bias have the whole batch's gradient in each process.
    add_up_gradients([*module.visual.parameters(), *module.text.parameters()])
    return found


def _backward_in_pieces(
    module: Any, encoders: Encoders, images: torch.Tensor, texts: torch.Tensor, config: TrainConfig
) -> torch.Tensor:
    pieces = [slice(start, start + config.microbatch) for start in range(0, len(images), config.microbatch)]
    generators, features = [], []
    with torch.no_grad():
        for piece in pieces:
            generators.append(generator_states(images.device))  # for the same dropout the second time
            features.append(unit_features(encoders, images[piece], texts[piece], precision=config.precision))
    whole = [torch.cat(parts).requires_grad_() for parts in zip(*features, strict=True)]
    found = contrastive_loss(module, *map(gathered, whole), loss=config.loss)
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
    """Return the states of torch's generators that are drawn from where work is done on a device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, torch.Tensor]) -> None:
    """Put generators back; that of a GPU only where there is one, since a run may go on on a processor."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def refuse_batch_statistics(module: Any) -> None:
    """Make sure that a model can go through a batch in pieces.

    Raises:
        SettingsError: it normalises by statistics of the batch, which a piece has others of.
    """
    if any(isinstance(part, _BatchNorm) for part in module.modules()):
        raise SettingsError(
            "train.microbatch is for models without batch normalisation, which would see the pieces only: "
            "set it to 0, or take a model with a vision transformer"
        )

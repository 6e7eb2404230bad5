"""Contrastive losses of a batch, by open_clip, whole or in pieces, and the constants that each starts from."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError
from training.config import TrainConfig

if TYPE_CHECKING:
    import torch

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


def contrastive_loss(
    module: Any, images: "torch.Tensor", token_ids: "torch.Tensor", *, loss: str, precision: str
) -> "torch.Tensor":
    """The loss of a batch, a scalar.

    Args:
        images: normalised floats, shape (batch, 3, height, width).
        token_ids: shape (batch, length).
        loss: "clip" (https://arxiv.org/abs/2103.00020) or "siglip" (https://arxiv.org/abs/2303.15343).
        precision: of both towers: "fp32", or "bf16" for autocast; the loss itself is always fp32.
    """
    return _loss_of(module, *_encode(module, images, token_ids, precision=precision), loss=loss)


def backward(
    module: Any, images: "torch.Tensor", token_ids: "torch.Tensor", *, loss: str, precision: str, microbatch: int
) -> "torch.Tensor":
    """The loss of a batch, with gradients added to the module's parameters: each image is told from all others.

    In pieces, both towers go through the batch twice: first for the features of all, then, with the gradient of the
    loss by each feature known, piece by piece for the gradients of the weights (https://arxiv.org/abs/2101.06983).

    Args:
        microbatch: images at a time; 0 takes all.
    """
    if not microbatch or microbatch >= len(images):
        found = contrastive_loss(module, images, token_ids, loss=loss, precision=precision)
        if math.isfinite(found.item()):
            found.backward()  # type: ignore[no-untyped-call]
        return found
    return _backward_in_pieces(module, images, token_ids, loss=loss, precision=precision, microbatch=microbatch)


def _backward_in_pieces(
    module: Any, images: "torch.Tensor", token_ids: "torch.Tensor", *, loss: str, precision: str, microbatch: int
) -> "torch.Tensor":
    import torch

    pieces = [slice(start, start + microbatch) for start in range(0, len(images), microbatch)]
    generators, features = [], []
    with torch.no_grad():
        for piece in pieces:
            generators.append(torch.get_rng_state())  # for the same dropout the second time
            features.append(_encode(module, images[piece], token_ids[piece], precision=precision))
    whole = [torch.cat(parts).requires_grad_() for parts in zip(*features, strict=True)]
    found = _loss_of(module, *whole, loss=loss)
    if not math.isfinite(found.item()):
        return found
    found.backward()  # type: ignore[no-untyped-call]
    for piece, generator in zip(pieces, generators, strict=True):
        torch.set_rng_state(generator)
        again = _encode(module, images[piece], token_ids[piece], precision=precision)
        gradients = [features.grad[piece] for features in whole if features.grad is not None]
        trained = [pair for pair in zip(again, gradients, strict=True) if pair[0].requires_grad]
        torch.autograd.backward([part for part, _ in trained], [gradient for _, gradient in trained])
    return found


def _encode(module: Any, images: "torch.Tensor", token_ids: "torch.Tensor", *, precision: str) -> "Features":
    import torch

    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        image_features = module.encode_image(images, normalize=True)
        text_features = module.encode_text(token_ids, normalize=True)
    return image_features.float(), text_features.float()


def _loss_of(
    module: Any, image_features: "torch.Tensor", text_features: "torch.Tensor", *, loss: str
) -> "torch.Tensor":
    from open_clip.loss import ClipLoss, SigLipLoss

    features = image_features, text_features, module.logit_scale.exp()
    found: torch.Tensor = SigLipLoss()(*features, module.logit_bias) if loss == "siglip" else ClipLoss()(*features)
    return found


def refuse_batch_statistics(module: Any) -> None:
    """Make sure that a model can go through a batch in pieces.

    Raises:
        ConfigError: it normalises by statistics of the batch, which a piece has others of.
    """
    if any(True for _ in _batch_norms(module)):
        raise ConfigError(
            "train.microbatch is for models without batch normalisation, which would see the pieces only: "
            "set it to 0, or take a model with a vision transformer"
        )


def _batch_norms(module: Any) -> Iterator[Any]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return (part for part in module.modules() if isinstance(part, _BatchNorm))

"""Contrastive losses of a batch, by open_clip, and the constants that each starts from."""

import math
from typing import TYPE_CHECKING, Any

from training.config import TrainConfig

if TYPE_CHECKING:
    import torch

# Where SigLIP starts, by its paper: most pairs do not belong together, and the bias says so from the first step.
SIGLIP_START = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}


def with_loss_constants(model_config: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """A model config that starts as the loss wants it, with the logit scale that the settings fix, if they do."""
    found = dict(model_config)
    if config.loss == "siglip":
        found = {**SIGLIP_START, **found} if "init_logit_bias" in found else {**found, **SIGLIP_START}
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
    import torch
    from open_clip.loss import ClipLoss, SigLipLoss

    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        image_features = module.encode_image(images, normalize=True)
        text_features = module.encode_text(token_ids, normalize=True)
    features = image_features.float(), text_features.float(), module.logit_scale.exp()
    found: torch.Tensor = SigLipLoss()(*features, module.logit_bias) if loss == "siglip" else ClipLoss()(*features)
    return found

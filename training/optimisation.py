"""One step of contrastive training: the optimizer, its schedule, open_clip's loss."""

import math
from typing import TYPE_CHECKING, Any

from training.config import TrainConfig

if TYPE_CHECKING:
    import torch

MAX_LOGIT_SCALE = math.log(100)  # as OpenAI and open_clip do


def adamw(module: Any, config: TrainConfig) -> Any:
    """AdamW as CLIP uses it: no weight decay for biases, norms and the logit scale."""
    from torch.optim import AdamW

    matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step: int, *, config: TrainConfig, total: int) -> float:
    """Rate of a step (from 0): a line up to `lr` over the warm-up, then half a cosine down to 0 at `total`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def contrastive_loss(
    module: Any, images: "torch.Tensor", token_ids: "torch.Tensor", *, precision: str
) -> "torch.Tensor":
    """open_clip's loss of a batch: each image is to find its caption among all, and each caption its image.

    Args:
        images: normalised floats, shape (batch, 3, height, width).
        token_ids: shape (batch, length).
        precision: "fp32", or "bf16" for autocast.
    """
    import torch
    from open_clip import ClipLoss

    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        image_features, text_features, logit_scale = module(images, token_ids)
    loss: torch.Tensor = ClipLoss()(image_features.float(), text_features.float(), logit_scale)
    return loss


def optimizer_step(optimizer: Any, module: Any, loss: "torch.Tensor", *, lr: float, max_grad_norm: float) -> None:
    """One optimizer step against a loss, with clipped gradients; the logit scale stays within CLIP's bounds."""
    import torch

    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
    optimizer.step()
    with torch.no_grad():
        module.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

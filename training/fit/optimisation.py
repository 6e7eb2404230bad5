"""Which weights train, by which optimizer and schedule, and what keeps a step within bounds."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import AdaBelief
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.optim import AdamW

from data_catalog.errors import SettingsError
from training.config import TrainConfig

MAX_LOGIT_SCALE = math.log(100)  # as OpenAI and open_clip do
# Where open_clip's towers keep what comes after their backbone: its ViT, its ResNet, timm's; its own text tower,
# Hugging Face's.
_IMAGE_PROJECTIONS = ("proj", "attnpool", "head")
_TEXT_PROJECTIONS = ("text_projection", "proj")


def choose_trained(module: Any, *, frozen: bool, fixed_scale: bool, lock_image: bool) -> None:
    """Set which parameters get gradients, and the mode of both towers: a frozen one keeps its batch statistics.

    Args:
        frozen: the projections into the common space train alone, else all weights.
        fixed_scale: the logit scale does not train.
        lock_image: nothing of the image tower trains.

    Raises:
        SettingsError: a tower is to be frozen that has no projection.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)
    module.train()
    if frozen:
        for tower, name, attributes in _towers(module):
            tower.eval()
            trained: list[nn.Parameter] = []
            for found in (getattr(tower, attribute, None) for attribute in attributes):
                if isinstance(found, nn.Parameter):
                    trained.append(found)
                elif isinstance(found, nn.Module):
                    trained += found.parameters()
            if not trained:
                raise SettingsError(
                    f"the {name} tower has no projection to train while it is frozen: set train.frozen_epochs to 0"
                )
            for parameter in trained:
                parameter.requires_grad_(True)
        if module.logit_bias is not None:
            module.logit_bias.requires_grad_(True)
    module.logit_scale.requires_grad_(not fixed_scale)
    if lock_image:
        module.visual.eval()
        for parameter in module.visual.parameters():
            parameter.requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Kept:
    """A tower that stays as it is.

    Args:
        projection: name of the attribute that does not, which is the tower's last part; empty where nothing changes.
    """

    tower: Any
    projection: str


def kept_parts(module: Any, *, frozen: bool, lock_image: bool) -> tuple[Kept | None, Kept | None]:
    """Return which of the two towers, image and text, gives the same features all through a phase, and up to where."""
    kept: list[Kept | None] = []
    for tower, _, attributes in _towers(module):
        found = [name for name in attributes if getattr(tower, name, None) is not None]
        kept.append(Kept(tower, found[0]) if frozen and len(found) == 1 else None)
    image, text = kept
    return Kept(module.visual, "") if lock_image else image, text


def _towers(module: Any) -> list[tuple[Any, str, tuple[str, ...]]]:
    return [(module.visual, "image", _IMAGE_PROJECTIONS), (module.text, "text", _TEXT_PROJECTIONS)]


def make_optimizer(module: Any, config: TrainConfig) -> Any:
    """Return the optimizer of all parameters; those that are frozen have no gradient, and it leaves them alone.

    As in CLIP there is no weight decay for biases, norms and the logit scale, and AdamW has CLIP's constants. AdaBelief
    has those of optax's `scale_by_belief`, by which CLIP-Italian was trained: not rectified. optax measures the
    surprise of a gradient against the mean before it, timm (and AdaBelief's paper) against the mean with it, which is
    0.9 of that: one step of optax at a rate is a step of ours at 0.9 times the rate.
    """
    matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "adabelief":
        return AdaBelief(groups, lr=config.lr, betas=(0.9, 0.999), eps=1e-16, rectify=False)
    return AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)


def learning_rate(step: int, *, config: TrainConfig, total: int) -> float:
    """Return a step's rate (from 0): a line up to `lr` over the warm-up, then half a cosine down to 0 at `total`."""
    warmup = config.warmup_steps or round(config.warmup_ratio * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def optimizer_step(optimizer: Any, module: Any, *, lr: float, config: TrainConfig) -> None:
    """Take one step along the gradients that are there, clipped; the logit scale stays within CLIP's bounds.

    Raises:
        FloatingPointError: a gradient is infinite or no number; no weight was changed then.
    """
    trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {float(norm)}")
    if config.agc:
        # The logit scale is no weight of a unit: beside its small value any gradient is large.
        adaptive_clip_grad([p for p in trained if p is not module.logit_scale], clip_factor=config.agc, eps=1e-3)
    if config.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        module.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
